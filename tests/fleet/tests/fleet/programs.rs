//! Where the control plane's programs are: in the folders that the environment names, or where
//! `tests/cluster/binaries.sh` builds them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders with the programs, separated by colons; the cache of `binaries.sh` where it is not set.
const FOLDERS_VARIABLE: &str = "SEALIGN_KUBE_BIN";
const NEEDED: [&str; 5] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"];
/// Programs of the system that are called.
const SYSTEM: [&str; 2] = ["/usr/bin/setpriv", "/usr/bin/openssl"];

/// The folders that hold them.
pub struct Programs(Vec<PathBuf>);

impl Programs {
    /// Finds every program, or says in one line what is missing and what builds it.
    pub fn find() -> Result<Self, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/binaries.sh");
        let told = std::env::var(FOLDERS_VARIABLE).unwrap_or_default();
        let built = Command::new(script).args(["--path", "kube", "kwok"]).output();
        let built =
            built.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let folders = told.split(':').chain(built.trim().split(':')).filter(|folder| !folder.is_empty());
        let found = Self(folders.map(PathBuf::from).collect());
        let missing: Vec<&str> = NEEDED.into_iter().filter(|name| found.look(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(format!(
                "no {}: build them with tests/cluster/binaries.sh kube kwok",
                missing.join(", ")
            ));
        }
        match SYSTEM.iter().find(|program| !Path::new(program).exists()) {
            Some(program) => Err(format!("no {program}")),
            None => Ok(found),
        }
    }

    fn look(&self, name: &str) -> Option<PathBuf> {
        self.0.iter().map(|folder| folder.join(name)).find(|path| path.exists())
    }

    /// Path of a program that was found.
    pub fn path(&self, name: &str) -> PathBuf {
        self.look(name).unwrap()
    }
}
