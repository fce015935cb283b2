//! A control plane on the loopback interface: etcd, API server, controller manager and scheduler, and kwok, which
//! plays the nodes. Pods get addresses of the loopback range, so that what stands for a pod can listen on its own
//! address.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::process::Program;
use crate::programs::Programs;

/// Where everything happens. Its pods have to meet the profile `restricted`.
pub const NAMESPACE: &str = "fleet";
/// Accounts of the zones, as the chart makes them.
const ZONES: [&str; 7] = ["resolve", "runner", "sandbox", "forest", "trainer", "server", "report"];
const NODES: u32 = 20;
/// Time for each step of the start, on a machine that does other things.
const START_MAX: Duration = Duration::from_mins(3);
/// The one token: who may do what is another test's matter.
const TOKEN: &str = "admin";
/// How scratch folders begin; the pid of their owner follows.
const SCRATCH: &str = "sealign-fleet-";

/// The running programs.
pub struct ControlPlane {
    folder: tempfile::TempDir,
    programs: Vec<Program>,
    port: u16,
}

impl ControlPlane {
    /// Starts everything. Must be called on the main thread.
    pub fn start(programs: &Programs) -> Self {
        let folder = scratch();
        let [client, peer, port] = free_ports();
        let mut plane = Self { folder, programs: Vec::new(), port };
        plane.write_keys();
        plane.spawn(programs, "etcd", &plane.etcd_flags(client, peer));
        plane.spawn(programs, "kube-apiserver", &plane.api_flags(client));
        plane.wait_for_api();
        // Controllers that meet an API server without its own roles end for good.
        plane.spawn(programs, "kube-controller-manager", &plane.manager_flags());
        plane.spawn(programs, "kube-scheduler", &plane.client_flags());
        plane.spawn(programs, "kwok", &plane.kwok_flags(programs));
        plane
    }

    fn spawn(&mut self, programs: &Programs, name: &str, flags: &[String]) {
        let program = Program::start(self.folder.path(), name, &programs.path(name), flags, &[]);
        self.programs.push(program);
    }

    /// A file or folder of its own, which goes with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    fn write_keys(&self) {
        let key = self.path("accounts.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(self.path("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n")).unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fleet",
            "clusters": [{ "name": "fleet", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "admin", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "fleet", "context": { "cluster": "fleet", "user": "admin" } }],
        });
        fs::write(self.kubeconfig(), kubeconfig.to_string()).unwrap();
    }

    fn etcd_flags(&self, client: u16, peer: u16) -> Vec<String> {
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        vec![
            "--name=e0".into(),
            format!("--data-dir={}", self.text("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=e0={peer}"),
            // The data lives as long as the test: a crash of the machine is not among its subjects.
            "--unsafe-no-fsync".into(),
            "--quota-backend-bytes=4294967296".into(),
            "--auto-compaction-mode=periodic".into(),
            "--auto-compaction-retention=2m".into(),
            "--log-level=warn".into(),
        ]
    }

    fn api_flags(&self, etcd: u16) -> Vec<String> {
        let key = self.text("accounts.key");
        vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", self.text("certificates")),
            format!("--token-auth-file={}", self.text("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--endpoint-reconciler-type=none".into(),
        ]
    }

    fn client_flags(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.kubeconfig().display()),
            "--secure-port=0".into(),
            "--leader-elect=false".into(),
            "--kube-api-qps=1000".into(),
            "--kube-api-burst=2000".into(),
        ]
    }

    fn manager_flags(&self) -> Vec<String> {
        let mut flags = self.client_flags();
        flags.push(format!("--service-account-private-key-file={}", self.text("accounts.key")));
        // Whether nodes die is another test's matter: a busy machine must not kill these.
        flags.push("--node-monitor-grace-period=600s".into());
        flags
    }

    fn kwok_flags(&self, programs: &Programs) -> Vec<String> {
        let stages = programs.path("kwok").with_file_name("stages.yaml");
        vec![
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--config={}", stages.display()),
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".into(),
            // Two runs on one machine listen on addresses of their own.
            format!("--cidr=127.{}.0.1/16", 64 + std::process::id() % 128),
            "--node-ip=127.0.0.1".into(),
            "--node-lease-duration-seconds=40".into(),
        ]
    }

    fn wait_for_api(&mut self) {
        let url = format!("https://127.0.0.1:{}/readyz", self.port);
        let authorization = format!("Authorization: Bearer {TOKEN}");
        let deadline = Instant::now() + START_MAX;
        loop {
            self.programs.iter_mut().for_each(Program::check);
            let asked = Command::new("curl").args(["-skf", "-m", "5", "-H", &authorization, &url]).output();
            if asked.is_ok_and(|answer| answer.status.success()) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the API server is not ready: {}",
                self.programs[1].log_tail()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// How to reach it.
    pub fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("https://127.0.0.1:{}", self.port).parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        config
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// Installs our kinds, the namespace with its accounts, and nodes, and waits until pods can be placed.
    pub async fn prepare(&self) {
        let client = self.client();
        let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in sealign_crds::generate::definitions() {
            kinds.create(&PostParams::default(), &definition).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let enforce = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "metadata": { "name": NAMESPACE, "labels": enforce } });
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        for zone in ZONES {
            let account = json!({ "metadata": { "name": format!("sealign-{zone}") } });
            accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
        }
        let nodes: Api<Node> = Api::all(client);
        let amounts = json!({ "cpu": "1000", "memory": "4Ti", "ephemeral-storage": "100Ti", "pods": "2000" });
        for number in 0..NODES {
            let node = json!({
                "metadata": { "name": format!("fake-{number}"), "annotations": { "kwok.x-k8s.io/node": "fake" },
                    "labels": { "type": "kwok", "kubernetes.io/os": "linux" } },
                "status": { "capacity": amounts, "allocatable": amounts },
            });
            nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        }
        wait_for_nodes(&nodes).await;
    }

    /// CPU seconds and memory of each program, as a line.
    pub fn spent(&self) -> String {
        let mut line = "spent by the control plane:".to_owned();
        for program in &self.programs {
            let usage = program.usage();
            write!(line, " {} {:.0} CPU s {:.0} MiB;", program.name, usage.cpu_seconds, usage.peak_mib)
                .unwrap();
        }
        line
    }

    /// Copies the logs to where they outlive it.
    pub fn keep_logs(&self) -> PathBuf {
        let kept = std::env::temp_dir().join("sealign-fleet-failed");
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept).unwrap();
        for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                fs::copy(entry.path(), kept.join(entry.file_name())).unwrap();
            }
        }
        kept
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        while let Some(mut program) = self.programs.pop() {
            program.kill();
        }
    }
}

async fn wait_for_nodes(nodes: &Api<Node>) {
    let is_ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True")
    };
    let deadline = Instant::now() + START_MAX;
    while nodes.list(&ListParams::default()).await.unwrap().items.iter().filter(|node| is_ready(node)).count()
        < NODES as usize
    {
        assert!(Instant::now() < deadline, "the fake nodes are not ready");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A folder in memory where there is one: nothing of it has to survive this process. Folders of processes that were
/// killed are removed first.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    for entry in fs::read_dir(&parent).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(SCRATCH).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Another run may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{SCRATCH}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).unwrap()
}

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = std::array::from_fn::<_, N, _>(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
