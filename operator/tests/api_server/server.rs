//! A real API server with its etcd, alone on the loopback interface: no controllers, no nodes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;

/// Environment variable that names the folder with `etcd` and `kube-apiserver`.
const BINARIES: &str = "SEALIGN_KUBE_BIN";
/// Time for the two to answer, on a machine that does other things.
const START_MAX: Duration = Duration::from_mins(2);
/// Name of the account that the operator's token stands for.
pub const OPERATOR: &str = "system:serviceaccount:sealign-system:sealign-operator";

const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";

/// The two processes; they end with this value.
pub struct ApiServer {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
    port: u16,
}

impl ApiServer {
    /// Starts both and waits until they are ready and know our kinds; `None`, said aloud, where there are no binaries.
    pub async fn start() -> Option<Self> {
        let Some(binaries) = std::env::var_os(BINARIES).map(PathBuf::from) else {
            println!("skipped: {BINARIES} is not set: no kube-apiserver and no etcd to test against");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let [etcd, peer, port] = free_ports();
        let mut server = Self { folder, processes: Vec::new(), port };
        server.start_etcd(&binaries, etcd, peer);
        server.start_api_server(&binaries, etcd);
        server.wait().await;
        server.install_kinds().await;
        Some(server)
    }

    fn start_etcd(&mut self, binaries: &Path, client: u16, peer: u16) {
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let flags = [
            "--name=e0".to_owned(),
            format!("--data-dir={}", self.path("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=e0={peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        self.spawn(&binaries.join("etcd"), &flags);
    }

    fn start_api_server(&mut self, binaries: &Path, etcd: u16) {
        let write = |name: &str, text: &str| {
            std::fs::write(self.path(name), text).unwrap();
            self.path(name).display().to_string()
        };
        let tokens = write(
            "tokens.csv",
            &format!(
                "admin,admin,admin,\"system:masters\"\noperator,{OPERATOR},operator,\"system:authenticated\"\n"
            ),
        );
        let policy = write("audit.yaml", AUDIT_POLICY);
        let key = self.path("accounts.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let flags = [
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", self.path("certificates").display()),
            format!("--token-auth-file={tokens}"),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", key.display()),
            format!("--service-account-signing-key-file={}", key.display()),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            // Without a controller manager no namespace has its accounts, and pods are only tried out here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--audit-policy-file={policy}"),
            format!("--audit-log-path={}", self.path("audit.log").display()),
            "--audit-log-mode=blocking".to_owned(),
        ];
        self.spawn(&binaries.join("kube-apiserver"), &flags);
    }

    fn spawn(&mut self, program: &Path, flags: &[String]) {
        let log = std::fs::File::create(self.path(&format!("{}.log", self.processes.len()))).unwrap();
        let started =
            Command::new(program).args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let started = started.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        self.processes.push(started);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn wait(&mut self) {
        let deadline = Instant::now() + START_MAX;
        let client = Client::try_from(self.config("admin")).unwrap();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            match client.request_text(request).await {
                Ok(answer) if answer == "ok" => return,
                _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
                other => panic!("the API server is not ready: {other:?}\n{}", self.log()),
            }
        }
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.path("1.log")).unwrap_or_default();
        text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    async fn install_kinds(&self) {
        let client = self.admin();
        let api: Api<CustomResourceDefinition> = Api::all(client);
        for definition in sealign_crds::generate::definitions() {
            let name = definition.metadata.name.clone().unwrap();
            api.create(&PostParams::default(), &definition).await.unwrap();
            let established = kube::runtime::wait::conditions::is_crd_established();
            kube::runtime::wait::await_condition(api.clone(), &name, established).await.unwrap();
        }
    }

    /// How to reach it with a token: `admin`, or `operator`, who may do what roles allow.
    pub fn config(&self, token: &str) -> kube::Config {
        let mut config = kube::Config::new(format!("https://127.0.0.1:{}", self.port).parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        config.default_retry = false;
        config
    }

    /// A client that may do everything.
    pub fn admin(&self) -> Client {
        Client::try_from(self.config("admin")).unwrap()
    }

    /// The audit log: one event a request, as far as it is written.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = std::array::from_fn::<_, N, _>(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
