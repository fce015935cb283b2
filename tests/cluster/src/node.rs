//! A real node: containerd, runc, CNI bridge, kubelet and kube-proxy in namespaces of their own.
//!
//! Killing the one process that a node is started by is a crash of the node: its pid namespace ends with it, so that
//! containerd, shims and pods are gone at once. Starting it again is a reboot.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{BedError, Result};
use crate::keys::Keys;
use crate::network::{inside, node_name};
use crate::place::Place;
use crate::process::Process;
use crate::programs::{NETWORK_PLUGINS, Programs};
use crate::services::DNS_ADDRESS;

/// Image of a pod's first container, packed by [`crate::images`].
pub const PAUSE_IMAGE: &str = "bed.invalid/pause:1";
/// First address after the control plane's readiness: kubelets wait for this file.
const READY_FILE: &str = "ready";

/// Writes the configuration of node `node` and starts it.
pub fn start(place: &Place, programs: &Programs, keys: &Keys, node: u8) -> Result<Process> {
    let name = node_name(node);
    let folder = place.folder().join("node").join(&name);
    for below in
        ["cni/net.d", "cni/data", "containerd", "kubelet", "log", "pki", "podlogs", "plugins", "imported"]
    {
        let path = folder.join(below);
        fs::create_dir_all(&path).map_err(BedError::file(path))?;
    }
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(BedError::file(path))
    };
    write("containerd.toml", containerd(&folder, &programs.path("runc")?))?;
    write("cni/net.d/10-pods.conflist", pods_network(&folder, &place.pod_range(node)))?;
    write("kubelet.yaml", kubelet(place, keys, node, &folder))?;
    write("resolv.conf", format!("nameserver {DNS_ADDRESS}\n"))?;
    write("node.sh", include_str!("node.sh").to_owned())?;
    fs::copy(keys.path(&format!("{name}.kubeconfig")), folder.join("kubeconfig"))
        .map_err(BedError::file(folder.join("kubeconfig")))?;
    let settings = [
        ("NAME", name.clone()),
        ("ADDRESS", place.node_address(node)),
        ("CONTROL_GROUP", place.control_group(node)),
        ("SEARCH_PATH", programs.search_path()),
        ("IMAGES", place.folder().join("images").display().to_string()),
        ("READY", place.folder().join(READY_FILE).display().to_string()),
        ("PROXY_CONFIG", keys.text("proxy.kubeconfig")),
        ("POD_RANGES", place.cluster_range()),
    ];
    let settings: Vec<String> = settings.iter().map(|(key, value)| format!("{key}='{value}'")).collect();
    write("settings", settings.join("\n"))?;
    let mut command = inside(place, &name, "unshare");
    command.args(["--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "bash"]);
    command.arg(folder.join("node.sh")).arg(&folder);
    Process::start(place.folder(), &name, command)
}

/// Lets the kubelets start.
pub fn let_join(place: &Place) -> Result<()> {
    let path = place.folder().join(READY_FILE);
    fs::write(&path, "").map_err(BedError::file(path))
}

/// Where the images to import lie.
pub fn image_folder(place: &Place) -> PathBuf {
    place.folder().join("images")
}

fn containerd(folder: &Path, runc: &str) -> String {
    let d = folder.display();
    format!(
        r#"version = 3
root = "{d}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{d}/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  # Machines that tests run on often lack CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{NETWORK_PLUGINS}"]
    conf_dir = "{d}/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
"#
    )
}

fn pods_network(folder: &Path, range: &str) -> String {
    let bridge = serde_json::json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "dataDir": folder.join("cni/data"),
            "ranges": [[{ "subnet": range }]], "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    let portmap = serde_json::json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    serde_json::json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap] }).to_string()
}

fn kubelet(place: &Place, keys: &Keys, node: u8, folder: &Path) -> String {
    let (d, name) = (folder.display(), node_name(node));
    let (authority, certificate, key) =
        (keys.text("ca.crt"), keys.text(&format!("{name}.crt")), keys.text(&format!("{name}.key")));
    let (address, group) = (place.node_address(node), place.control_group(node));
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
port: 10250
healthzBindAddress: 127.0.0.1
healthzPort: 10248
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{authority}"}}}}
authorization: {{mode: Webhook}}
tlsCertFile: "{certificate}"
tlsPrivateKeyFile: "{key}"
containerRuntimeEndpoint: "unix://{d}/containerd.sock"
cgroupDriver: cgroupfs
cgroupRoot: /{group}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: 16384
maxPods: 200
seccompDefault: true
# Requests count, quotas do not: a sandbox of a tenth of a core would take ten times as long on an idle machine.
cpuCFSQuota: false
clusterDomain: cluster.local
clusterDNS: [{DNS_ADDRESS}]
resolvConf: "{d}/resolv.conf"
podLogsDir: "{d}/podlogs"
volumePluginDir: "{d}/plugins"
evictionHard: {{memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
kubeAPIQPS: 200
kubeAPIBurst: 400
"#
    )
}
