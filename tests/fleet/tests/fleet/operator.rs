//! The operator, in two forms: its program, which is measured and killed from outside, and its library in a thread,
//! whose requests pass a [`Wire`] on which it dies. A dead one is replaced by a new one at once: a new runtime,
//! nothing remembered.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use kube::client::ClientBuilder;
use sealign_operator::app::{self, Stop};
use sealign_operator::config::Config;
use sealign_operator::metrics::Metrics;
use sealign_operator::requests::Counting;
use sealign_storage::Store;
use serde_json::json;
use tokio::sync::Notify;

use crate::control_plane::{ControlPlane, NAMESPACE, free_ports};
use crate::process::{Program, Usage};
use crate::site::Site;
use crate::wire::{Life, Wire};

/// The operator's own program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_fleet-operator");
/// Time until a started program serves its metrics.
const START_MAX: Duration = Duration::from_mins(1);

fn variables(store_url: &str) -> BTreeMap<String, String> {
    let installation =
        json!({ "namespaces": [NAMESPACE], "barrenWaitSeconds": 1, "storeUrl": store_url }).to_string();
    let variables = [
        ("SEALIGN_STORE", store_url),
        ("SEALIGN_INSTALLATION", &installation),
        // One at a time is the test's doing; a lease would only let every new one wait for the last one's.
        ("SEALIGN_LEASE", ""),
        ("POD_NAME", "fleet"),
        ("POD_NAMESPACE", NAMESPACE),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The program at work.
pub struct Running {
    program: Program,
    port: u16,
}

impl Running {
    /// Starts it on the store of `site`. Must be called on the main thread.
    pub async fn start(plane: &ControlPlane, site: &Site) -> Self {
        let [port] = free_ports();
        let mut told = variables(&site.store_url);
        told.insert("SEALIGN_LISTEN".into(), format!("127.0.0.1:{port}"));
        told.insert("KUBECONFIG".into(), plane.kubeconfig().display().to_string());
        let told: Vec<(&str, &str)> =
            told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let folder = plane.path("");
        let program = Program::start(&folder, "operator", Path::new(PROGRAM), &[], &told);
        let mut running = Self { program, port };
        let deadline = Instant::now() + START_MAX;
        while running.page().await.is_none() {
            running.program.check();
            assert!(Instant::now() < deadline, "the operator does not start: {}", running.program.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running
    }

    async fn page(&self) -> Option<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.contains("sealign_build_info").then_some(text)
    }

    /// Its requests that change something, by verb and resource.
    pub async fn writes(&self) -> BTreeMap<String, u64> {
        let page = self.page().await.expect("the operator's metrics");
        let mut writes = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with("sealign_api_requests_total{")) {
            let label =
                |name: &str| line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
            let count: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            if !["get", "list", "watch"].contains(&label("verb")) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole, positive count"
                )]
                writes.insert(format!("{} {}", label("verb"), label("resource")), count as u64);
            }
        }
        writes
    }

    /// What it has used.
    pub fn usage(&self) -> Usage {
        self.program.usage()
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.program.kill();
    }
}

/// The library at work: whenever it dies, the next one begins.
pub struct Keeper {
    is_over: Arc<AtomicBool>,
    over: Arc<Notify>,
    thread: Option<JoinHandle<u64>>,
}

impl Keeper {
    /// Begins, with requests over `wire`.
    pub fn start(plane: &ControlPlane, site: &Site, wire: Arc<Wire>) -> Self {
        let (is_over, over) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let mut configuration = plane.config();
        configuration.default_retry = false;
        let config = Config::read(&variables(&site.store_url)).unwrap();
        let (store, told, flag) = (site.store.clone(), over.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut lives = 0;
            while !flag.load(Ordering::SeqCst) {
                lives += 1;
                live(&configuration, &config, &store, &wire, &told);
            }
            lives
        });
        Self { is_over, over, thread: Some(thread) }
    }

    /// Ends it and says how many there were.
    pub fn stop(mut self) -> u64 {
        self.end()
    }

    fn end(&mut self) -> u64 {
        self.is_over.store(true, Ordering::SeqCst);
        self.over.notify_one();
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// One operator from its start to its death.
fn live(configuration: &kube::Config, config: &Config, store: &Store, wire: &Arc<Wire>, over: &Notify) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let life = Life::begin(wire);
        let metrics = Arc::new(Metrics::new().unwrap());
        let builder = ClientBuilder::try_from(configuration.clone()).unwrap();
        let client = builder.with_layer(&life).with_layer(&Counting(metrics.clone())).build();
        let stop: Stop = futures::future::pending().boxed().shared();
        tokio::select! {
            biased;
            () = over.notified() => {}
            () = life.ended() => {}
            ended = app::operate(config, client, store.clone(), metrics, stop) => panic!("it ended: {ended:?}"),
        }
    });
    // Everything that it had begun ends with it.
    runtime.shutdown_background();
}
