//! The pod directory of embedded runs: a folder with one sub-folder for each live or ended pod, and `pod.json` in it.
//!
//! The writer replaces `pod.json` by rename, so a reader sees all of a state or the one before. Folders of other owners
//! are read and left out. Polling is cheap: ended pods are read once, the files of others only when they were replaced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use super::pods::{DirectoryError, Phase, Pod, PodDirectory, PodRole};

/// Label with the UID of the pod's owner.
const OWNER_LABEL: &str = "sealign.dev/owner-uid";
/// Label with what the pod is for.
const ZONE_LABEL: &str = "sealign.dev/zone";
/// Label of a model server with its policy.
const POLICY_LABEL: &str = "sealign.dev/policy";
/// Annotation of a sandbox with the map of its round.
const ROUND_MAP_ANNOTATION: &str = "sealign.dev/round-map";
/// Largest `pod.json`: a full round map has 2.3 KiB.
const POD_BYTES_MAX: u64 = 256 * 1024;
/// Time between two looks while someone waits: a sandbox attempt takes a tenth of a second, so this is 5 % of it, and a
/// look costs some 50 microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Time between two looks when nothing has changed for a while.
const LOOK_SELDOM: Duration = Duration::from_millis(100);
/// After so many looks without a change the slower pace begins: one second.
const QUICK_LOOKS: u32 = 200;

/// `pod.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodFile {
    name: String,
    uid: String,
    #[serde(default)]
    index: u32,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    address: String,
    #[serde(default)]
    phase: String,
    #[serde(default)]
    exit_code: Option<i32>,
    #[serde(default)]
    reason: String,
}

/// The folder.
#[derive(Debug)]
pub struct FolderDirectory {
    root: PathBuf,
    owner_uid: String,
    seen: Mutex<Seen>,
}

/// Inode, and modification time in seconds and nanoseconds.
type Version = (u64, i64, i64);

#[derive(Debug, Default)]
struct Seen {
    /// Times are too coarse to tell two quick replacements apart, so the inode is compared as well.
    files: HashMap<PathBuf, (Version, Option<Arc<Pod>>)>,
    /// Grows with every change that a look found.
    changes: u64,
    /// `changes` at the last list that was handed out.
    listed: u64,
}

impl FolderDirectory {
    /// The pods below `root` that belong to `owner_uid`.
    pub fn new(root: impl Into<PathBuf>, owner_uid: impl Into<String>) -> Self {
        Self { root: root.into(), owner_uid: owner_uid.into(), seen: Mutex::default() }
    }

    /// Reads what changed since the last look. Blocking, but only on a few small local files.
    fn look(&self, seen: &mut Seen) -> Result<(), DirectoryError> {
        let failed = |error: std::io::Error| DirectoryError(format!("{}: {error}", self.root.display()));
        let mut present = HashSet::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            present.insert(entry.map_err(failed)?.path());
        }
        let before = seen.files.len();
        seen.files.retain(|path, _| present.contains(path));
        seen.changes += u64::from(seen.files.len() != before);
        for folder in present {
            let known = seen.files.get(&folder);
            if known.is_some_and(|(_, pod)| pod.as_ref().is_some_and(|pod| pod.phase.is_terminal())) {
                continue;
            }
            let file = folder.join("pod.json");
            // The folder is made before its file, and both may go at any moment.
            let Ok(data) = std::fs::metadata(&file) else { continue };
            let version = (data.ino(), data.mtime(), data.mtime_nsec());
            if known.is_some_and(|(at, _)| *at == version) {
                continue;
            }
            let pod = read_pod(&file, &self.owner_uid);
            seen.files.insert(folder, (version, pod.map(Arc::new)));
            seen.changes += 1;
        }
        Ok(())
    }

    fn with_look<T>(&self, read: impl FnOnce(&mut Seen) -> T) -> Result<T, DirectoryError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut seen)?;
        Ok(read(&mut seen))
    }
}

fn read_pod(path: &Path, owner_uid: &str) -> Option<Pod> {
    if std::fs::metadata(path).ok()?.len() > POD_BYTES_MAX {
        return None;
    }
    let file: PodFile = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    if file.labels.get(OWNER_LABEL).is_none_or(|owner| owner != owner_uid) {
        return None;
    }
    let role = match file.labels.get(ZONE_LABEL).map(String::as_str) {
        Some("sandbox") => {
            let map = serde_json::from_str(file.annotations.get(ROUND_MAP_ANNOTATION)?).ok()?;
            PodRole::Sandbox { map: Arc::new(map), index: file.index }
        }
        Some("server") => PodRole::Server { policy: file.labels.get(POLICY_LABEL)?.clone() },
        _ => return None,
    };
    let phase = match file.phase.as_str() {
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        _ => Phase::Pending,
    };
    Some(Pod {
        name: file.name,
        uid: file.uid,
        role,
        address: file.address,
        phase,
        exit_code: file.exit_code,
        reason: file.reason,
    })
}

#[async_trait]
impl PodDirectory for FolderDirectory {
    async fn list(&self) -> Result<Vec<Arc<Pod>>, DirectoryError> {
        let mut pods = self.with_look(|seen| {
            seen.listed = seen.changes;
            seen.files.values().filter_map(|(_, pod)| pod.clone()).collect::<Vec<_>>()
        })?;
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    async fn changed(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        for look in 0_u32.. {
            // A folder that cannot be read is a change too: the next list says what is wrong.
            if self.with_look(|seen| seen.changes != seen.listed).unwrap_or(true) {
                return;
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return;
            }
            let pace = if look < QUICK_LOOKS { LOOK_EVERY } else { LOOK_SELDOM };
            tokio::time::sleep(pace.min(deadline - now)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn write(root: &Path, name: &str, change: impl FnOnce(&mut Value)) {
        let map =
            r#"{"group":"g0001","stage":"rollout","round":0,"items":["0123456789abcdef0123456789abcdef"]}"#;
        let mut pod = json!({
            "name": name, "uid": format!("{name}-uid"), "job": "j", "index": 0,
            "labels": { OWNER_LABEL: "me", ZONE_LABEL: "sandbox" },
            "annotations": { ROUND_MAP_ANNOTATION: map },
            "address": "unix:/x", "phase": "Running", "exitCode": null, "reason": "",
        });
        change(&mut pod);
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("new"), pod.to_string()).unwrap();
        std::fs::rename(folder.join("new"), folder.join("pod.json")).unwrap();
    }

    #[tokio::test]
    async fn only_the_owners_pods_are_seen() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "mine", |_| ());
        write(root.path(), "foreign", |pod| pod["labels"][OWNER_LABEL] = json!("other"));
        std::fs::create_dir(root.path().join("half-made")).unwrap();
        let pods = FolderDirectory::new(root.path(), "me").list().await.unwrap();
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["mine"]);
        assert_eq!(pods[0].item().unwrap().1.as_str(), "0123456789abcdef0123456789abcdef");
    }

    #[tokio::test]
    async fn a_pod_that_ends_or_goes_is_a_change() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a", |_| ());
        let directory = FolderDirectory::new(root.path(), "me");
        assert_eq!(directory.list().await.unwrap()[0].phase, Phase::Running);
        write(root.path(), "a", |pod| pod["phase"] = json!("Failed"));
        directory.changed(Duration::from_mins(1)).await;
        assert_eq!(directory.list().await.unwrap()[0].phase, Phase::Failed);
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        directory.changed(Duration::from_mins(1)).await;
        assert!(directory.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_an_error_that_names_it() {
        let error = FolderDirectory::new("/nowhere/at/all", "me").list().await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
