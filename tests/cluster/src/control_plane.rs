//! etcd, API server, controller manager and scheduler, in the namespace of the control plane.
//!
//! Start the API server first and wait for it: controller manager and scheduler end for good when they meet one that has
//! not made its own roles yet.

use std::process::Command;
use std::time::Duration;

use crate::error::{BedError, Result};
use crate::keys::Keys;
use crate::network::{CONTROL_PLANE, inside};
use crate::place::Place;
use crate::process::{Process, output, until};
use crate::programs::Programs;

/// Seconds until the API server has to be ready: 3 s on an idle machine, and tests run on busy ones.
const READY_SECONDS: u64 = 120;

/// Starts etcd and the API server.
pub fn start_api(place: &Place, programs: &Programs, keys: &Keys) -> Result<Vec<Process>> {
    Ok(vec![
        start(place, programs, "etcd", &etcd_flags(place))?,
        start(place, programs, "kube-apiserver", &api_flags(place, keys))?,
    ])
}

/// Waits until the API server says that it is ready.
pub fn wait_ready(place: &Place, keys: &Keys, processes: &mut [Process]) -> Result<()> {
    let url = format!("https://{}:6443/readyz", place.address(1));
    let probe = || {
        let mut command = Command::new("curl");
        command.args(["-sf", "-m", "5", "--cacert", &keys.text("ca.crt"), "--cert", &keys.text("admin.crt")]);
        command.args(["--key", &keys.text("admin.key"), &url]);
        output(&mut command).is_ok_and(|output| output.status.success())
    };
    let ready = until(Duration::from_secs(READY_SECONDS), || {
        let ended = processes.iter_mut().find_map(|process| {
            process.has_ended().then(|| format!("{} ended: {}", process.name(), process.log_tail()))
        });
        ended.map(Err).or_else(|| probe().then_some(Ok(())))
    });
    match ready {
        Some(Ok(())) => Ok(()),
        Some(Err(detail)) => Err(late(detail)),
        None => Err(late(processes.iter().map(Process::log_tail).collect::<Vec<_>>().join("\n"))),
    }
}

fn late(detail: String) -> BedError {
    BedError::Deadline { what: "no ready API server".into(), seconds: READY_SECONDS, detail }
}

/// Starts what needs a ready API server.
pub fn start_controllers(place: &Place, programs: &Programs, keys: &Keys) -> Result<Vec<Process>> {
    Ok(vec![
        start(place, programs, "kube-controller-manager", &manager_flags(place, keys))?,
        start(place, programs, "kube-scheduler", &client_flags(keys, "scheduler"))?,
    ])
}

fn start(place: &Place, programs: &Programs, name: &str, flags: &[String]) -> Result<Process> {
    let mut command = inside(place, CONTROL_PLANE, &programs.path(name)?);
    command.args(flags);
    Process::start(place.folder(), name, command)
}

fn etcd_flags(place: &Place) -> Vec<String> {
    let data = place.folder().join("etcd");
    [
        "--name=e0",
        &format!("--data-dir={}", data.display()),
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=e0=http://127.0.0.1:2380",
        // The bed's life is its data's: a crash of the machine is not among the tests.
        "--unsafe-no-fsync",
        "--quota-backend-bytes=1073741824",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=5m",
        "--log-level=warn",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn api_flags(place: &Place, keys: &Keys) -> Vec<String> {
    let address = place.address(1);
    let folder = place.folder();
    let key = |flag: &str, name: &str| format!("--{flag}={}", keys.text(name));
    let mut flags: Vec<String> = [
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        "--kubelet-preferred-address-types=InternalIP",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        "--endpoint-reconciler-type=lease",
        // Tests of lost nodes are about seconds.
        "--default-not-ready-toleration-seconds=3",
        "--default-unreachable-toleration-seconds=3",
    ]
    .map(str::to_owned)
    .to_vec();
    flags.extend([
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--audit-policy-file={}", folder.join("audit.yaml").display()),
        format!("--audit-log-path={}", folder.join("log/audit.jsonl").display()),
        key("tls-cert-file", "apiserver.crt"),
        key("tls-private-key-file", "apiserver.key"),
        key("client-ca-file", "ca.crt"),
        key("kubelet-client-certificate", "apiserver-kubelet.crt"),
        key("kubelet-client-key", "apiserver-kubelet.key"),
        key("kubelet-certificate-authority", "ca.crt"),
        key("requestheader-client-ca-file", "ca.crt"),
        key("proxy-client-cert-file", "front-proxy.crt"),
        key("proxy-client-key-file", "front-proxy.key"),
        key("service-account-key-file", "accounts.pub"),
        key("service-account-signing-key-file", "accounts.key"),
    ]);
    flags
}

/// What the API server writes down: who did what to which resource, without bodies, for service accounts alone.
pub const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: [\"system:serviceaccounts\"]
- level: None
";

fn manager_flags(place: &Place, keys: &Keys) -> Vec<String> {
    let mut flags = client_flags(keys, "controller-manager");
    let key = |flag: &str, name: &str| format!("--{flag}={}", keys.text(name));
    flags.extend([
        key("service-account-private-key-file", "accounts.key"),
        key("root-ca-file", "ca.crt"),
        key("cluster-signing-cert-file", "ca.crt"),
        key("cluster-signing-key-file", "ca.key"),
        format!("--cluster-cidr={}", place.cluster_range()),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        "--node-monitor-period=2s".to_owned(),
        "--node-monitor-grace-period=20s".to_owned(),
    ]);
    flags
}

fn client_flags(keys: &Keys, client: &str) -> Vec<String> {
    let kubeconfig = keys.text(&format!("{client}.kubeconfig"));
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
    ]
}
