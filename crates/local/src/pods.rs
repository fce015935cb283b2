//! The pod directory: one folder a pod, with `pod.json` in it, replaced by rename. It is how runners find sandboxes, and
//! how the Job controller knows after a crash which indexes had a pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::folder::{Durability, FolderError, replace};

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its process is not there yet.
    Pending,
    /// Its process runs.
    Running,
    /// It ended with exit code 0.
    Succeeded,
    /// It ended otherwise.
    Failed,
}

/// `pod.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Name of its Job.
    pub job: String,
    /// UID of its Job.
    pub job_uid: String,
    /// Completion index.
    pub index: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `unix:/path` of a sandbox, `http://127.0.0.1:port` of a server; empty while it has none.
    pub address: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Exit code, once there is one.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub reason: String,
}

/// The folder of all pods.
#[derive(Clone, Debug)]
pub struct PodDirectory {
    root: PathBuf,
}

impl PodDirectory {
    /// The pods below `root`, which is made where it is missing.
    ///
    /// # Errors
    /// [`FolderError::Access`].
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        std::fs::create_dir_all(root).map_err(|source| FolderError::Access {
            action: "made",
            path: root.to_owned(),
            source,
        })?;
        Ok(Self { root: root.to_owned() })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of a pod.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a pod. It outlives this process; after a power loss the pod is forgotten, and what it left in the store is not.
    ///
    /// # Errors
    /// [`FolderError::Access`].
    pub fn write(&self, pod: &Pod) -> Result<(), FolderError> {
        let path = self.folder(&pod.name).join("pod.json");
        let text = serde_json::to_vec(pod)
            .map_err(|error| FolderError::Damaged { path: path.clone(), problem: error.to_string() })?;
        replace(&path, &text, Durability::Written)
    }

    /// Forgets a pod.
    pub fn remove(&self, name: &str) {
        let folder = self.folder(name);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "a pod's folder stays behind");
        }
    }

    /// Every pod of an earlier process. Folders without a readable file belong to pods that never were, and go.
    pub fn survivors(&self) -> Vec<Pod> {
        let mut pods = Vec::new();
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let bytes = std::fs::read(entry.path().join("pod.json")).unwrap_or_default();
            match serde_json::from_slice::<Pod>(&bytes) {
                Ok(pod) => pods.push(pod),
                Err(_) => self.remove(&entry.file_name().to_string_lossy()),
            }
        }
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }
}
