//! Listings, deletions and staged files, over a real folder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use sealign_storage::collect::{Listed, Staged};
use sealign_storage::{ArtifactStore as _, Store};

async fn keys(store: &Store, prefix: &str) -> Vec<String> {
    let mut found: Vec<Listed> = store.stream(prefix).unwrap().try_collect().await.unwrap();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found.into_iter().map(|listed| listed.key).collect()
}

#[tokio::test]
async fn a_stream_has_what_lies_below_a_prefix_and_deletion_takes_what_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_directory(folder.path()).unwrap();
    for key in ["a/1", "a/b/2", "ab/3"] {
        store.create(key, key.into()).await.unwrap();
    }
    assert_eq!(keys(&store, "a").await, ["a/1", "a/b/2"]);
    assert_eq!(keys(&store, "").await.len(), 3);
    let wanted = ["a/1".to_owned(), "a/never".to_owned()];
    assert_eq!(store.delete_keys(&wanted).await.unwrap(), 1);
    assert_eq!(keys(&store, "").await, ["a/b/2", "ab/3"]);
    assert!(store.delete_keys(&["../x".to_owned()]).await.is_err());
}

#[tokio::test]
async fn files_of_killed_writers_are_counted_and_only_deleted_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_directory(folder.path()).unwrap();
    store.create("a/b/1", "object".into()).await.unwrap();
    std::fs::create_dir_all(folder.path().join("c/d")).unwrap();
    for name in ["a/b/2#1", "c/d/3#27"] {
        std::fs::write(folder.path().join(name), "half").unwrap();
    }
    let later = SystemTime::now() + Duration::from_mins(1);
    let found = Staged { files: 2, bytes: 8 };
    assert_eq!(store.staged(later, false).await.unwrap(), found);
    // A writer may be at work on what was written a moment ago.
    assert_eq!(store.staged(SystemTime::UNIX_EPOCH, true).await.unwrap(), Staged::default());
    assert_eq!(store.staged(later, true).await.unwrap(), found);
    assert_eq!(store.staged(later, true).await.unwrap(), Staged::default());
    assert!(!folder.path().join("c").exists(), "empty folders go too");
    assert_eq!(keys(&store, "").await, ["a/b/1"]);
    assert_eq!(Store::memory().staged(later, true).await.unwrap(), Staged::default());
}
