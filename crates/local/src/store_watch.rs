//! Tells the control plane that a manifest has appeared in the store, which no Job event says in time.
//!
//! Folders of records are left out: they change with every attempt, and nobody decides by one record. What is left are some
//! hundred folders, whose times are looked at: about a millisecond a look.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::memory::MemoryCluster;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Folders that are looked at; with more than these the control plane's own poll has to do.
const FOLDERS_MAX: usize = 5_000;
/// Levels below the store's root: `<namespace>/<plural>/<object>/groups/<group>`, or `steps/<step>/model`.
const DEPTH_MAX: u32 = 7;
/// Folders whose content no decision waits for.
const LEFT_OUT: [&str; 6] = ["blobs", "verdicts", "rollout", "grade", "tries", "checkpoints"];

/// Wakes `cluster` whenever a folder below `root` has got or lost an entry. Never returns.
pub async fn watch(root: PathBuf, cluster: Arc<MemoryCluster>) {
    let mut before = 0;
    loop {
        let mut stamp = Stamp { sum: 0, folders: 0 };
        stamp.add(&root, 0);
        if stamp.sum != before {
            before = stamp.sum;
            cluster.wake();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A number that changes when a folder does.
struct Stamp {
    sum: u64,
    folders: usize,
}

impl Stamp {
    fn add(&mut self, folder: &Path, depth: u32) {
        let Ok(data) = std::fs::metadata(folder) else { return };
        self.folders += 1;
        let time = data.mtime().wrapping_mul(1_000_000_007).wrapping_add(data.mtime_nsec());
        // Rotation makes the sum depend on order, so that two folders cannot trade times unseen.
        self.sum = self.sum.rotate_left(7) ^ time.cast_unsigned() ^ data.ino();
        if depth >= DEPTH_MAX {
            return;
        }
        let mut below: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_wanted = entry.file_type().is_ok_and(|kind| kind.is_dir())
                && entry.file_name().to_str().is_some_and(|name| !LEFT_OUT.contains(&name));
            if is_wanted {
                below.push(entry.path());
            }
        }
        below.sort();
        for path in below {
            if self.folders < FOLDERS_MAX {
                self.add(&path, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(root: &Path) -> u64 {
        let mut stamp = Stamp { sum: 0, folders: 0 };
        stamp.add(root, 0);
        stamp.sum
    }

    #[test]
    fn a_new_manifest_is_seen_and_a_new_record_is_not() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("demo/rolloutcampaigns/c-1/groups/g0001");
        std::fs::create_dir_all(group.join("rollout")).unwrap();
        let before = stamp(root.path());
        // Times of folders are as coarse as the system's tick.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(group.join("rollout/item.json"), "{}").unwrap();
        assert_eq!(stamp(root.path()), before);
        std::fs::write(group.join("rollout.json"), "{}").unwrap();
        assert_ne!(stamp(root.path()), before);
    }
}
