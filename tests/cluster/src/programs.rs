//! The programs of a bed: where `binaries.sh` has put them, and what else the machine has to have.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{BedError, Result};
use crate::process::output;

/// Programs of Debian packages, and the packages.
const INSTALLED: [(&str, &str); 13] = [
    ("busybox", "busybox-static"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("ipset", "ipset"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("prometheus", "prometheus"),
    ("socat", "socat"),
    ("strip", "binutils"),
];
/// Where Debian has the CNI plugins.
pub const NETWORK_PLUGINS: &str = "/usr/lib/cni";
/// Groups of `binaries.sh` without which there is no bed.
const NEEDED: [&str; 3] = ["kube", "containerd", "runc"];
/// Groups that single features need.
const WANTED: [&str; 5] = ["versitygw", "dns", "kwok", "netpold", "helm"];

/// Folders of built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folders: Vec<PathBuf>,
}

impl Programs {
    /// Finds the programs, or says everything that is missing.
    pub fn find() -> Result<Self> {
        let mut missing: Vec<String> = Vec::new();
        if !rustix::process::geteuid().is_root() {
            missing.push("root (network namespaces and control groups)".into());
        }
        let packages = INSTALLED.iter().filter(|(program, _)| installed(program).is_none());
        missing.extend(packages.map(|(program, package)| format!("`{program}` (Debian's {package})")));
        if !Path::new(NETWORK_PLUGINS).join("bridge").exists() {
            missing.push("CNI plugins (Debian's containernetworking-plugins)".into());
        }
        if !Path::new("/sys/fs/cgroup/memory").exists() {
            missing.push("version 1 control groups (nodes on version 2 alone are not written yet)".into());
        }
        if missing.is_empty() {
            let needed = paths(&NEEDED)?;
            let wanted = WANTED.iter().filter_map(|group| paths(&[group]).ok()).flatten();
            return Ok(Self { folders: needed.into_iter().chain(wanted).collect() });
        }
        Err(BedError::Requirement(format!("missing {}", missing.join(", "))))
    }

    /// Whether `program` is there.
    pub fn has(&self, program: &str) -> bool {
        self.path(program).is_ok()
    }

    /// Path of `program`.
    pub fn path(&self, program: &str) -> Result<String> {
        let found = self.folders.iter().map(|folder| folder.join(program)).find(|path| path.exists());
        found.map(|path| path.to_string_lossy().into_owned()).ok_or_else(|| {
            BedError::Requirement(format!("`{program}` is not built: tests/cluster/binaries.sh builds it"))
        })
    }

    /// The value of PATH with the programs in front.
    pub fn search_path(&self) -> String {
        let own = self.folders.iter().map(|folder| folder.to_string_lossy().into_owned());
        let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        own.chain(system.map(str::to_owned)).collect::<Vec<_>>().join(":")
    }
}

fn paths(groups: &[&str]) -> Result<Vec<PathBuf>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("binaries.sh");
    let output = output(Command::new(script).arg("--path").args(groups))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BedError::Requirement(said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().split(':').map(PathBuf::from).collect())
}

fn installed(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}
