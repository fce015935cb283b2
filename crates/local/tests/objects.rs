//! The in-memory cluster keeps the API server's rules, and what it says it keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_local::admission::Admission;
use sealign_local::folder::{Folder, FolderError};
use sealign_local::memory::{Applied, MemoryCluster, Sources};
use sealign_local::objects::ObjectKey;
use sealign_reconcile::port::{Cluster, ClusterError, Kind};
use serde_json::{Value, json};

#[derive(Default)]
struct Counting(AtomicU32);

impl Sources for Counting {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn cluster() -> MemoryCluster {
    MemoryCluster::new(Arc::new(Counting::default()))
}

fn object(kind: Kind, name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": kind.api_version(), "kind": kind.name(),
        "metadata": { "name": name, "namespace": "demo", "labels": { "app": name } },
        "spec": spec, "status": { "forged": true },
    }))
    .unwrap()
}

fn task_set(name: &str, count: i64) -> DynamicObject {
    object(Kind::TaskSet, name, &json!({ "source": { "mini": { "split": "Train", "count": count } } }))
}

fn owned(name: &str, owner: &DynamicObject) -> DynamicObject {
    let mut job = object(Kind::Job, name, &json!({}));
    job.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet", "name": owner.metadata.name,
            "uid": owner.metadata.uid, "controller": true,
        }))
        .unwrap(),
    ]);
    job
}

async fn create(cluster: &MemoryCluster, kind: Kind, object: &DynamicObject) -> DynamicObject {
    cluster.create(kind, object).await.unwrap()
}

#[tokio::test]
async fn a_created_object_has_identity_and_no_status() {
    let made = create(&cluster(), Kind::TaskSet, &task_set("t", 3)).await;
    assert_eq!(made.metadata.uid.as_deref(), Some("00000000-0000-4000-8000-000000000000"));
    assert_eq!((made.metadata.generation, made.metadata.resource_version.as_deref()), (Some(1), Some("1")));
    assert!(made.data.get("status").is_none());
}

#[tokio::test]
async fn a_name_is_taken_once_and_may_be_taken_again_after_deletion_under_another_uid() {
    let cluster = cluster();
    let first = create(&cluster, Kind::Job, &object(Kind::Job, "j", &json!({}))).await;
    let again = cluster.create(Kind::Job, &object(Kind::Job, "j", &json!({}))).await;
    assert!(matches!(again, Err(ClusterError::AlreadyExists(_))));
    let uid = first.metadata.uid.clone().unwrap();
    cluster.delete(Kind::Job, "demo", "j", "another-uid").await.unwrap();
    assert!(cluster.get(Kind::Job, "demo", "j").await.unwrap().is_some());
    cluster.delete(Kind::Job, "demo", "j", &uid).await.unwrap();
    cluster.delete(Kind::Job, "demo", "j", &uid).await.unwrap();
    let second = create(&cluster, Kind::Job, &object(Kind::Job, "j", &json!({}))).await;
    assert_ne!(second.metadata.uid, first.metadata.uid);
}

#[tokio::test]
async fn a_status_written_on_a_stale_version_conflicts_and_an_equal_status_changes_nothing() {
    let cluster = cluster();
    let made = create(&cluster, Kind::TaskSet, &task_set("t", 3)).await;
    let version = made.metadata.resource_version.clone().unwrap();
    let write = |version: String, count: i64| {
        let cluster = &cluster;
        async move {
            cluster.patch_status(Kind::TaskSet, "demo", "t", &version, &json!({ "taskCount": count })).await
        }
    };
    let first = write(version.clone(), 3).await.unwrap();
    assert!(matches!(write(version, 4).await, Err(ClusterError::Conflict(_))));
    let current = first.metadata.resource_version.clone().unwrap();
    let same = write(current.clone(), 3).await.unwrap();
    assert_eq!(same.metadata.resource_version, Some(current));
    assert_eq!(same.metadata.generation, Some(1));
}

#[tokio::test]
async fn lists_select_by_label_and_namespace_and_are_sorted() {
    let cluster = cluster();
    for name in ["b", "a"] {
        create(&cluster, Kind::TaskSet, &task_set(name, 1)).await;
    }
    let names = |labels: BTreeMap<String, String>, namespace: Option<&'static str>| {
        let cluster = &cluster;
        async move {
            let found = cluster.list(Kind::TaskSet, namespace, &labels).await.unwrap();
            found.into_iter().filter_map(|object| object.metadata.name).collect::<Vec<_>>()
        }
    };
    assert_eq!(names(BTreeMap::new(), None).await, ["a", "b"]);
    assert_eq!(names(BTreeMap::from([("app".into(), "b".into())]), Some("demo")).await, ["b"]);
    assert!(names(BTreeMap::new(), Some("other")).await.is_empty());
}

#[tokio::test]
async fn what_a_deleted_object_owns_goes_in_the_background_and_all_of_it() {
    let cluster = cluster();
    let owner = create(&cluster, Kind::TaskSet, &task_set("t", 1)).await;
    let child = create(&cluster, Kind::Job, &owned("child", &owner)).await;
    create(&cluster, Kind::Job, &owned("grandchild", &child)).await;
    create(&cluster, Kind::Job, &object(Kind::Job, "stranger", &json!({}))).await;
    cluster.delete(Kind::TaskSet, "demo", "t", &owner.metadata.uid.unwrap()).await.unwrap();
    assert!(
        cluster.get(Kind::Job, "demo", "child").await.unwrap().is_some(),
        "collection is in the background"
    );
    assert_eq!(cluster.collect_garbage().unwrap(), 2);
    assert!(cluster.get(Kind::Job, "demo", "grandchild").await.unwrap().is_none());
    assert!(cluster.get(Kind::Job, "demo", "stranger").await.unwrap().is_some());
}

#[tokio::test]
async fn an_object_with_a_finalizer_stays_with_a_deletion_timestamp_until_it_is_released() {
    let cluster = cluster();
    let mut held = task_set("t", 1);
    held.metadata.finalizers = Some(vec!["sealign.dev/held".into()]);
    let made = create(&cluster, Kind::TaskSet, &held).await;
    cluster.delete(Kind::TaskSet, "demo", "t", &made.metadata.uid.unwrap()).await.unwrap();
    let leaving = cluster.get(Kind::TaskSet, "demo", "t").await.unwrap().unwrap();
    assert!(leaving.metadata.deletion_timestamp.is_some());
    cluster.release(&ObjectKey::new(Kind::TaskSet, "demo", "t"), "sealign.dev/held").unwrap();
    assert!(cluster.get(Kind::TaskSet, "demo", "t").await.unwrap().is_none());
}

#[tokio::test]
async fn metadata_patches_merge_and_remove() {
    let cluster = cluster();
    create(&cluster, Kind::Job, &object(Kind::Job, "j", &json!({}))).await;
    let patch = json!({ "labels": { "app": null, "x": "1" }, "annotations": { "note": "n" } });
    let after = cluster.patch_metadata(Kind::Job, "demo", "j", &patch).await.unwrap();
    assert_eq!(after.metadata.labels, Some(BTreeMap::from([("x".into(), "1".into())])));
    assert_eq!(after.metadata.annotations, Some(BTreeMap::from([("note".into(), "n".into())])));
    let forged = cluster.patch_metadata(Kind::Job, "demo", "j", &json!({ "uid": "x" })).await;
    assert!(matches!(forged, Err(ClusterError::Invalid(_))));
}

#[tokio::test]
async fn applying_again_changes_what_may_change_and_refuses_what_may_not() {
    let cluster = cluster().with_admission(Arc::new(Admission::new().unwrap()));
    assert!(matches!(cluster.apply(Kind::TaskSet, &task_set("t", 3)).unwrap(), Applied::Created(_)));
    assert!(matches!(cluster.apply(Kind::TaskSet, &task_set("t", 3)).unwrap(), Applied::Unchanged(_)));
    let mut suspended = task_set("t", 3);
    suspended.data["spec"]["suspend"] = json!(true);
    let Applied::Updated(after) = cluster.apply(Kind::TaskSet, &suspended).unwrap() else {
        panic!("not updated")
    };
    assert_eq!(after.metadata.generation, Some(2));
    let error = cluster.apply(Kind::TaskSet, &task_set("t", 4)).unwrap_err().to_string();
    assert_eq!(error, "spec.source: source cannot change: create another TaskSet");
}

#[tokio::test]
async fn a_status_that_the_schema_does_not_know_is_refused() {
    let cluster = cluster().with_admission(Arc::new(Admission::new().unwrap()));
    let made = create(&cluster, Kind::TaskSet, &task_set("t", 3)).await;
    let version = made.metadata.resource_version.unwrap();
    let wrong = json!({ "taskCount": "3" });
    let error = cluster.patch_status(Kind::TaskSet, "demo", "t", &version, &wrong).await.unwrap_err();
    assert!(error.to_string().starts_with("status.taskCount: must be a whole number"), "{error}");
}

#[tokio::test]
async fn objects_outlive_the_process_with_uid_version_and_status() {
    let root = tempfile::tempdir().unwrap();
    let open = || cluster().with_folder(Folder::open(root.path()).unwrap()).unwrap();
    let first = open();
    let made = create(&first, Kind::TaskSet, &task_set("t", 3)).await;
    let version = made.metadata.resource_version.clone().unwrap();
    let status = json!({ "taskCount": 3 });
    let kept = first.patch_status(Kind::TaskSet, "demo", "t", &version, &status).await.unwrap();
    let job = create(&first, Kind::Job, &owned("j", &made)).await;
    first.set_job_status(&ObjectKey::new(Kind::Job, "demo", "j"), &json!({ "active": 1 }), false).unwrap();
    drop(first);
    // What a crash leaves beside its place was never seen by anybody.
    std::fs::write(root.path().join("objects/jobs/demo/half.part"), b"{").unwrap();
    let second = open();
    assert_eq!(second.get(Kind::TaskSet, "demo", "t").await.unwrap(), Some(kept));
    let again = second.get(Kind::Job, "demo", "j").await.unwrap().unwrap();
    assert_eq!((again.metadata.uid, again.data["status"]["active"].clone()), (job.metadata.uid, json!(1)));
    let next = create(&second, Kind::TaskSet, &task_set("u", 1)).await;
    let number = |v: &Option<String>| v.as_ref().unwrap().parse::<u64>().unwrap();
    assert!(number(&next.metadata.resource_version) > number(&again.metadata.resource_version));
}

#[tokio::test]
async fn a_deletion_that_a_crash_cut_short_is_completed_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let first = cluster().with_folder(Folder::open(root.path()).unwrap()).unwrap();
    let owner = create(&first, Kind::TaskSet, &task_set("t", 1)).await;
    create(&first, Kind::Job, &owned("j", &owner)).await;
    first.delete(Kind::TaskSet, "demo", "t", &owner.metadata.uid.unwrap()).await.unwrap();
    drop(first);
    let second = cluster().with_folder(Folder::open(root.path()).unwrap()).unwrap();
    assert!(second.get(Kind::Job, "demo", "j").await.unwrap().is_none());
}

#[test]
fn a_state_folder_serves_one_run_at_a_time_and_damage_is_named() {
    let root = tempfile::tempdir().unwrap();
    let first = Folder::open(root.path()).unwrap();
    let error = Folder::open(root.path()).unwrap_err();
    assert!(matches!(error, FolderError::InUse { .. }) && error.to_string().contains("--state"), "{error}");
    drop(first);
    std::fs::create_dir_all(root.path().join("objects/jobs/demo")).unwrap();
    std::fs::write(root.path().join("objects/jobs/demo/j.json"), b"{\"metadata\": 3").unwrap();
    let error = Folder::open(root.path()).unwrap().load().unwrap_err().to_string();
    assert!(error.contains("j.json is damaged"), "{error}");
}

#[tokio::test]
async fn a_change_before_the_wait_ends_the_wait() {
    let cluster = cluster();
    let short = Duration::from_millis(30);
    let before = std::time::Instant::now();
    cluster.changed(short).await;
    assert!(before.elapsed() >= short, "nothing has changed, so the limit ends the wait");
    create(&cluster, Kind::TaskSet, &task_set("t", 1)).await;
    let long = Duration::from_mins(1);
    tokio::time::timeout(long / 2, cluster.changed(long)).await.expect("the change ends the wait");
}

#[tokio::test]
async fn a_snapshot_restores_the_world_that_it_saw() {
    let cluster = cluster();
    create(&cluster, Kind::TaskSet, &task_set("t", 1)).await;
    let snapshot = cluster.snapshot();
    create(&cluster, Kind::TaskSet, &task_set("u", 1)).await;
    cluster.restore(snapshot.clone());
    assert_eq!(cluster.snapshot(), snapshot);
    assert!(cluster.get(Kind::TaskSet, "demo", "u").await.unwrap().is_none());
}
