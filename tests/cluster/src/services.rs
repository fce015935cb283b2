//! What runs beside the control plane: a real S3 server, the cluster's DNS, fake nodes, enforcement of NetworkPolicies,
//! Prometheus.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{BedError, Result};
use crate::keys::Keys;
use crate::network::{CONTROL_PLANE, inside, node_name};
use crate::place::Place;
use crate::process::{Process, run, until};
use crate::programs::Programs;
use crate::scrape;

/// Address of the cluster's DNS, which pods are told.
pub const DNS_ADDRESS: &str = "10.96.0.10";
/// Bucket of the bed's S3 server.
pub const BUCKET: &str = "sealign";
const ACCESS_KEY: &str = "sealign";
const SECRET_KEY: &str = "sealign-secret";
const STORE_PORT: u16 = 7070;
const METRICS_PORT: u16 = 9090;
const START_SECONDS: u64 = 30;

/// The bed's S3 server as clients need it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// `http://ADDRESS:PORT`, the same from this machine and from pods.
    pub endpoint: String,
}

impl Bucket {
    /// URL of the store.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}")
    }

    /// Variables by which every S3 client of the project finds it.
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// The Secret `name` of `namespace` that hands the variables to pods.
    pub fn secret(&self, namespace: &str, name: &str) -> String {
        let data: serde_json::Map<_, _> =
            self.variables().into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": namespace },
            "stringData": data,
        })
        .to_string()
    }
}

/// Where the S3 server keeps the bucket: a file an object.
pub fn bucket_folder(place: &Place) -> PathBuf {
    place.folder().join("s3").join(BUCKET)
}

/// Starts versitygw on the LAN with an empty bucket.
pub fn start_store(place: &Place, programs: &Programs) -> Result<(Process, Bucket)> {
    let bucket = bucket_folder(place);
    fs::create_dir_all(&bucket).map_err(BedError::file(&bucket))?;
    let address = format!("{}:{STORE_PORT}", place.address(1));
    let mut command = inside(place, CONTROL_PLANE, &programs.path("versitygw")?);
    command
        .args(["--port", &address, "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--quiet", "posix"])
        .args(bucket.parent());
    let mut process = Process::start(place.folder(), "versitygw", command)?;
    wait_open(&mut process, &address)?;
    Ok((process, Bucket { endpoint: format!("http://{address}") }))
}

/// Starts the cluster's DNS on the LAN, at port 53. [`dns_objects`] give it its address among Services.
pub fn start_dns(place: &Place, programs: &Programs, keys: &Keys) -> Result<Process> {
    let file = place.folder().join("Corefile");
    let (address, kubeconfig) = (place.address(1), keys.text("admin.kubeconfig"));
    let text = format!(
        ".:53 {{\n  bind {address}\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {kubeconfig}\n    ttl 5\n  }}\n}}\n"
    );
    fs::write(&file, text).map_err(BedError::file(&file))?;
    let mut command = inside(place, CONTROL_PLANE, &programs.path("dns")?);
    command.arg("-conf").arg(&file);
    Process::start(place.folder(), "dns", command)
}

/// The Service of the cluster's DNS at [`DNS_ADDRESS`], and its endpoint: a process of no pod.
pub fn dns_objects(place: &Place) -> String {
    let ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
        .map(|(name, protocol)| json!({ "name": name, "port": 53, "protocol": protocol }));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kube-dns", "namespace": "kube-system" },
        "spec": { "clusterIP": DNS_ADDRESS, "ports": ports },
    });
    let endpoints = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system", "labels": { "kubernetes.io/service-name": "kube-dns" },
        },
        "endpoints": [{ "addresses": [place.address(1)], "conditions": { "ready": true } }],
        "ports": ports,
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [service, endpoints] }).to_string()
}

/// Starts kwok, which plays every node that carries its annotation. Pods become ready on them and stay so: whoever says
/// that a pod is done has to say it to the API server.
pub fn start_fake_nodes(place: &Place, programs: &Programs, keys: &Keys) -> Result<Process> {
    let program = programs.path("kwok")?;
    let stages = std::path::Path::new(&program).with_file_name("stages.yaml");
    let mut command = inside(place, CONTROL_PLANE, &program);
    command.args([
        &format!("--kubeconfig={}", keys.text("admin.kubeconfig")),
        &format!("--config={}", stages.display()),
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--cidr=10.200.0.1/16",
        &format!("--node-ip={}", place.address(1)),
        "--node-lease-duration-seconds=40",
    ]);
    Process::start(place.folder(), "kwok", command)
}

/// The fake nodes as objects. Only pods that tolerate the taint `kwok.x-k8s.io/node` come onto them.
pub fn fake_nodes(count: u16) -> String {
    let amounts = json!({ "cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "500" });
    let nodes = (1..=count).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": format!("fake-{number:04}"),
                "annotations": { "kwok.x-k8s.io/node": "fake" },
                "labels": { "type": "kwok", "kubernetes.io/os": "linux" },
            },
            "spec": { "taints": [{ "key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule" }] },
            "status": { "capacity": amounts, "allocatable": amounts },
        })
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": nodes.collect::<Vec<_>>() }).to_string()
}

/// Longest wait for a kubelet to register its node.
const REGISTERED_MAX: Duration = Duration::from_mins(1);

/// Starts enforcement of NetworkPolicies on node `node`, once the node is known: the program ends where it is not.
pub fn start_policies(place: &Place, programs: &Programs, keys: &Keys, node: u8) -> Result<Process> {
    let name = node_name(node);
    let kubectl = programs.path("kubectl")?;
    let kubeconfig = format!("--kubeconfig={}", keys.text("admin.kubeconfig"));
    // Whether it came is for the program to say, which names the node that it misses.
    let _ =
        until(REGISTERED_MAX, || run(Command::new(&kubectl).args([&kubeconfig, "get", "node", &name])).ok());
    let mut command = inside(place, &name, &programs.path("netpold")?);
    command.arg(format!("-kubeconfig={}", keys.text("admin.kubeconfig"))).arg(format!("-node={name}"));
    Process::start(place.folder(), &format!("netpold-{name}"), command)
}

/// Starts Debian's Prometheus and what finds its targets, for `monitors` (of [`crate::scrape`]) and with `rules` as rule files
/// (paths, `*` allowed).
pub fn start_prometheus(
    place: &Place,
    keys: &Keys,
    monitors: &[Value],
    rules: &[String],
) -> Result<[Process; 2]> {
    let folder = place.folder().join("prometheus");
    let targets = folder.join("targets");
    fs::create_dir_all(&targets).map_err(BedError::file(&targets))?;
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(BedError::file(&path)).map(|()| path)
    };
    // JSON is YAML.
    let text = json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": rules,
        "scrape_configs": scrape::configuration(monitors, &targets),
    });
    let configuration = write("prometheus.yaml", text.to_string())?;
    let script = write("discover.py", include_str!("discover.py").to_owned())?;
    let monitors = write("monitors.json", json!(monitors).to_string())?;
    let mut command = Command::new("python3");
    command.arg(script).arg(keys.server()).arg(keys.path("")).arg(monitors).arg(targets);
    let discovery = Process::start(place.folder(), "discover", command)?;
    run(Command::new("promtool").args(["check", "config"]).arg(&configuration))?;
    let address = format!("{}:{METRICS_PORT}", place.address(1));
    let mut command = inside(place, CONTROL_PLANE, "prometheus");
    command.arg(format!("--config.file={}", configuration.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut process = Process::start(place.folder(), "prometheus", command)?;
    wait_open(&mut process, &address)?;
    Ok([discovery, process])
}

/// URL of the Prometheus that [`start_prometheus`] starts.
pub fn prometheus_url(place: &Place) -> String {
    format!("http://{}:{METRICS_PORT}", place.address(1))
}

fn wait_open(process: &mut Process, address: &str) -> Result<()> {
    let opened = until(Duration::from_secs(START_SECONDS), || {
        if process.has_ended() {
            return Some(false);
        }
        std::net::TcpStream::connect(address).is_ok().then_some(true)
    });
    if opened == Some(true) {
        return Ok(());
    }
    let what = format!("no answer of {} at {address}", process.name());
    Err(BedError::Deadline { what, seconds: START_SECONDS, detail: process.log_tail() })
}
