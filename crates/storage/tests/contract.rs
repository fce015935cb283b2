//! What every store promises, checked over memory and over a folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use sealign_manifest::{Digest, key};
use sealign_storage::{
    ArtifactStore, ArtifactStoreExt, Category, CreateOutcome, OpenError, Settled, Store, StoreError,
    StoreOptions,
};

/// A store of each kind; the folder lives as long as the guard. With `SEALIGN_TEST_STORE_URL` (and the `AWS_`, `GOOGLE_` or
/// `AZURE_` variables that it needs) also that bucket, below a prefix of its own.
fn stores() -> (tempfile::TempDir, Vec<Store>) {
    static ORDINAL: AtomicUsize = AtomicUsize::new(0);
    let folder = tempfile::tempdir().unwrap();
    let directory = Store::open_directory(&folder.path().join("made/here")).unwrap();
    let mut stores = vec![Store::memory(), directory];
    if let Ok(url) = std::env::var("SEALIGN_TEST_STORE_URL") {
        let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
        let url = format!("{url}/test-{}-{ordinal}", std::process::id());
        let options = StoreOptions { variables: std::env::vars().collect(), ..StoreOptions::default() };
        stores.push(Store::open(&url, &options).unwrap());
    }
    (folder, stores)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn the_first_create_wins_and_the_object_is_left_as_it_is() {
    let (_folder, stores) = stores();
    for store in stores {
        assert_eq!(store.create("a/b.json", bytes("first")).await.unwrap(), CreateOutcome::Created);
        assert_eq!(store.create("a/b.json", bytes("second")).await.unwrap(), CreateOutcome::AlreadyExists);
        assert_eq!(store.get_bounded("a/b.json", 100).await.unwrap().unwrap(), "first");
    }
}

#[tokio::test]
async fn a_settled_create_tells_our_bytes_from_theirs() {
    let (_folder, stores) = stores();
    for store in stores {
        assert_eq!(store.create_settled("r", bytes("ours")).await.unwrap(), Settled::Ours);
        assert_eq!(store.create_settled("r", bytes("ours")).await.unwrap(), Settled::Ours);
        assert_eq!(store.create_settled("r", bytes("late")).await.unwrap(), Settled::Theirs(bytes("ours")));
    }
}

#[tokio::test]
async fn overwriting_replaces_and_creating_after_it_does_not() {
    let (_folder, stores) = stores();
    for store in stores {
        store.overwrite("p", bytes("1")).await.unwrap();
        store.overwrite("p", bytes("22")).await.unwrap();
        assert_eq!(store.create("p", bytes("3")).await.unwrap(), CreateOutcome::AlreadyExists);
        assert_eq!(store.get_bounded("p", 2).await.unwrap().unwrap(), "22");
    }
}

#[tokio::test]
async fn an_absent_object_is_none_and_not_an_error() {
    let (_folder, stores) = stores();
    for store in stores {
        assert!(store.get_bounded("nothing", 10).await.unwrap().is_none());
        assert!(!store.exists("nothing").await.unwrap());
        assert!(store.get_json::<u32>("nothing").await.unwrap().is_none());
        assert!(store.list_names("nothing").await.unwrap().is_empty());
        assert_eq!(store.delete_prefix("nothing").await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_object_above_the_callers_bound_is_not_read() {
    let (_folder, stores) = stores();
    for store in stores {
        store.create("big", bytes("12345")).await.unwrap();
        let error = store.get_bounded("big", 4).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { size: 5, limit: 4, .. }), "{error:?}");
        assert_eq!(error.category(), Category::Corrupt);
        assert_eq!(store.get_bounded("big", 5).await.unwrap().unwrap(), "12345");
    }
}

#[tokio::test]
async fn listings_are_sorted_deep_and_end_at_a_slash() {
    let (_folder, stores) = stores();
    for store in stores {
        for name in ["g/rollout/b.json", "g/rollout/a.json", "g/rollout.json", "g/rollout2/c.json", "z"] {
            store.create(name, bytes(name)).await.unwrap();
        }
        let names = store.list_names("g/rollout").await.unwrap();
        assert_eq!(names, ["g/rollout/a.json", "g/rollout/b.json"]);
        assert_eq!(store.list_names("").await.unwrap().len(), 5);
    }
}

#[tokio::test]
async fn deleting_a_prefix_leaves_its_neighbours_and_refuses_the_whole_store() {
    let (_folder, stores) = stores();
    for store in stores {
        for name in ["a/1", "a/b/2", "ab/3"] {
            store.create(name, bytes(name)).await.unwrap();
        }
        assert_eq!(store.delete_prefix("a").await.unwrap(), 2);
        assert_eq!(store.list_names("").await.unwrap(), ["ab/3"]);
        assert!(matches!(store.delete_prefix("").await, Err(StoreError::Key { .. })));
    }
}

#[tokio::test]
async fn json_comes_back_and_what_is_not_json_is_corrupt() {
    let (_folder, stores) = stores();
    for store in stores {
        store.create_json("n.json", &vec![1_u32, 2]).await.unwrap();
        assert_eq!(store.get_json::<Vec<u32>>("n.json").await.unwrap(), Some(vec![1, 2]));
        store.overwrite_json("n.json", &vec![3_u32]).await.unwrap();
        assert_eq!(store.get_json::<Vec<u32>>("n.json").await.unwrap(), Some(vec![3]));
        store.create("deep", bytes(&"[".repeat(5000))).await.unwrap();
        store.create("cut", bytes("{\"a\":")).await.unwrap();
        for key in ["deep", "cut"] {
            let error = store.get_json::<serde_json::Value>(key).await.unwrap_err();
            assert_eq!(error.category(), Category::Corrupt, "{error}");
        }
    }
}

#[tokio::test]
async fn a_blob_is_verified_when_it_is_read() {
    let (folder, stores) = stores();
    for store in &stores {
        let digest = store.put_blob(bytes("patch")).await.unwrap();
        assert_eq!(digest, Digest::of_bytes(b"patch"));
        assert_eq!(store.put_blob(bytes("patch")).await.unwrap(), digest);
        assert_eq!(store.get_blob(&digest, 100).await.unwrap(), "patch");
        let absent = Digest::of_bytes(b"absent");
        assert!(matches!(store.get_blob(&absent, 100).await, Err(StoreError::Missing { .. })));
    }
    let path = folder.path().join("made/here").join(key::blob(&Digest::of_bytes(b"patch")));
    std::fs::write(path, "hctap").unwrap();
    let error = stores[1].get_blob(&Digest::of_bytes(b"patch"), 100).await.unwrap_err();
    assert!(matches!(error, StoreError::Digest { .. }), "{error:?}");
}

#[tokio::test]
async fn what_a_dead_writer_left_half_written_is_not_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_directory(folder.path()).unwrap();
    store.create("g/a.json", bytes("whole")).await.unwrap();
    // A write is staged beside its target under `<name>#<number>` and published by a link when it is complete.
    std::fs::write(folder.path().join("g/b.json#1"), "ha").unwrap();
    assert_eq!(store.list_names("g").await.unwrap(), ["g/a.json"]);
    assert!(!store.exists("g/b.json").await.unwrap());
    assert_eq!(store.create("g/b.json", bytes("whole too")).await.unwrap(), CreateOutcome::Created);
    assert_eq!(store.get_bounded("g/b.json", 100).await.unwrap().unwrap(), "whole too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_eight_racing_creates_wins() {
    let (_folder, stores) = stores();
    for store in stores {
        for race in 0..200 {
            let key = Arc::new(format!("race/{race}"));
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let (store, key) = (store.clone(), key.clone());
                    tokio::spawn(async move {
                        let mine = bytes(&format!("writer {writer}").repeat(100));
                        (mine.clone(), store.create(&key, mine).await.unwrap())
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for writer in writers {
                let (mine, outcome) = writer.await.unwrap();
                if outcome == CreateOutcome::Created {
                    winners.push(mine);
                }
            }
            assert_eq!(winners.len(), 1, "race {race}");
            assert_eq!(store.get_bounded(&key, 2000).await.unwrap().unwrap(), winners[0]);
        }
        assert_eq!(store.list_names("race").await.unwrap().len(), 200);
    }
}

#[tokio::test]
async fn files_go_up_and_down_with_their_digests() {
    let (folder, stores) = stores();
    let source = folder.path().join("weights");
    // Larger than a part, so that a bucket would see a multipart upload.
    let content: Vec<u8> = (0..9 * 1024 * 1024_u32).map(|i| i.to_le_bytes()[1]).collect();
    std::fs::write(&source, &content).unwrap();
    for (index, store) in stores.iter().enumerate() {
        let up = store.upload_file("model/weights.bin", &source).await.unwrap();
        assert_eq!((up.bytes, &up.digest), (content.len() as u64, &Digest::of_bytes(&content)));
        let target = folder.path().join(format!("copy{index}"));
        let limit = content.len() as u64;
        let down = store.download_file("model/weights.bin", &target, limit, Some(&up.digest)).await.unwrap();
        assert_eq!(down, up);
        assert_eq!(std::fs::read(&target).unwrap(), content);

        let refused = folder.path().join(format!("refused{index}"));
        let wrong = Digest::of_bytes(b"other");
        assert!(matches!(
            store.download_file("model/weights.bin", &refused, limit, Some(&wrong)).await,
            Err(StoreError::Digest { .. })
        ));
        assert!(matches!(
            store.download_file("model/weights.bin", &refused, limit - 1, None).await,
            Err(StoreError::TooLarge { .. })
        ));
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("refused"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_url_that_is_not_a_store_says_what_to_write_instead() {
    let options = StoreOptions::default();
    for url in ["", "data", "/data", "http://host/x", "s3://", "ftp://x/y"] {
        let error = Store::open(url, &options).unwrap_err();
        assert!(matches!(error, OpenError::Url { .. }), "{url}: {error}");
    }
    assert!(matches!(Store::open("file://relative", &options), Err(OpenError::Directory { .. })));
    assert!(matches!(Store::open("s3://bucket/a/../b", &options), Err(OpenError::Prefix { .. })));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &options).unwrap();
    store.create("k", bytes("v")).await.unwrap();
    assert!(folder.path().join("store/k").exists());
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_is_a_transient_failure_within_its_bounds() {
    // Bound and dropped: nothing listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut options = StoreOptions::default();
    options.retry.retries = 1;
    for (name, value) in [
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "here".into()),
        ("AWS_ACCESS_KEY_ID", "id".into()),
        ("AWS_SECRET_ACCESS_KEY", "key".into()),
        // Not a storage variable: were it passed on, it would be an invalid setting.
        ("timeout", "not a duration".into()),
    ] {
        options.variables.insert(name.into(), value);
    }
    let store = Store::open("s3://bucket/prefix", &options).unwrap();
    let error = store.create("k", bytes("v")).await.unwrap_err();
    assert_eq!(error.category(), Category::Transient, "{error:?}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}
