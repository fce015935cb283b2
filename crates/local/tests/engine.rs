//! The engine over a state folder, with a shell script in the place of the worker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::core::DynamicObject;
use sealign_local::admission::Admission;
use sealign_local::engine::{Engine, EngineError, Options};
use sealign_local::folder::FolderError;
use sealign_local::memory::Applied;
use sealign_local::objects::key_of;
use sealign_local::standing::Standing;
use sealign_reconcile::port::Kind;
use serde_json::{Value, json};

fn task_set(count: i64) -> (Kind, DynamicObject) {
    let object = json!({
        "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet",
        "metadata": { "name": "t", "namespace": "default" },
        "spec": { "source": { "mini": { "split": "Train", "count": count } }, "health": { "repeats": 0 } },
    });
    (Kind::TaskSet, serde_json::from_value(object).unwrap())
}

/// Schemas are read once: that takes longer than any of these tests.
fn open(state: &Path, options: Options) -> Result<Engine, EngineError> {
    static ADMISSION: OnceLock<Arc<Admission>> = OnceLock::new();
    let admission = ADMISSION.get_or_init(|| Arc::new(Admission::new().unwrap()));
    Engine::open(state, admission.clone(), options)
}

/// Options whose `sealign-worker` is the shell script `text`.
fn with_worker(root: &Path, text: &str) -> Options {
    let path = root.join("worker.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = Options::default();
    options.programs.replaced.insert("sealign-worker".into(), path);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_on_one_state_folder_is_refused_while_the_first_lives() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path(), Options::default()).unwrap();
    let second = open(root.path(), Options::default());
    assert!(matches!(second, Err(EngineError::Folder(FolderError::InUse { .. }))));
    drop(first);
    open(root.path(), Options::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_is_all_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    let engine = open(root.path(), Options::default()).unwrap();
    let campaign: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "sealign.dev/v1alpha1", "kind": "RolloutCampaign",
        "metadata": { "name": "c", "namespace": "default" },
        "spec": { "taskSetRef": { "name": "tt" }, "policies": [
            { "name": "p", "model": { "scripted": { "policy": "strong" } } }] },
    }))
    .unwrap();
    let error = engine.apply(&[task_set(3), (Kind::RolloutCampaign, campaign)]).unwrap_err().to_string();
    assert!(error.contains("spec.taskSetRef.name: there is no TaskSet `tt`"), "{error}");
    assert_eq!(engine.cluster().snapshot().iter().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_field_that_changed_between_two_runs_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let engine = open(root.path(), Options::default()).unwrap();
    engine.apply(&[task_set(3)]).unwrap();
    assert!(matches!(engine.apply(&[task_set(3)]).unwrap()[..], [Applied::Unchanged(_)]));
    let error = engine.apply(&[task_set(4)]).unwrap_err().to_string();
    assert_eq!(error, "TaskSet t: spec.source: source cannot change: create another TaskSet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_a_worker_rejects_its_input_and_says_why() {
    let root = tempfile::tempdir().unwrap();
    // The script does what a worker does with input that it cannot use: a rejection in the store, then exit 64.
    let script = r#"
prefix=$(echo "$SEALIGN_CONFIG" | sed -n 's/.*"keys":"\([^"]*\)".*/\1/p')
folder="${SEALIGN_STORE#file://}/$prefix/rejected"
mkdir -p "$folder"
printf '{"message":"row 3: no field `id`; add it"}' > "$folder/resolve.json"
exit 64"#;
    let engine = open(&root.path().join("state"), with_worker(root.path(), script)).unwrap();
    let (kind, object) = task_set(3);
    let key = key_of(kind, &object).unwrap();
    engine.apply(&[(kind, object)]).unwrap();
    let keys = [key];
    let run = engine.run(&keys, |_| ());
    let result = tokio::time::timeout(Duration::from_mins(1), run).await.expect("it should end").unwrap();
    assert!(!result.is_success() && !result.was_complete);
    let Standing::Blocked { reason, message } = &result.objects[0].standing else {
        panic!("{:?}", result.objects[0].standing)
    };
    assert_eq!(reason, "InputRejected");
    assert!(message.contains("row 3"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_succeeded_before_is_not_run_again() {
    let root = tempfile::tempdir().unwrap();
    let engine = open(&root.path().join("state"), with_worker(root.path(), "exit 1")).unwrap();
    let (kind, object) = task_set(3);
    let key = key_of(kind, &object).unwrap();
    engine.apply(&[(kind, object)]).unwrap();
    let cluster = engine.cluster();
    let stored = cluster.snapshot().get(&key).cloned().unwrap();
    let status: Value = json!({ "observedGeneration": 1, "conditions": [{ "type": "Ready", "status": "True",
        "reason": "Completed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let version = stored.metadata.resource_version.unwrap();
    sealign_reconcile::Cluster::patch_status(&**cluster, kind, "default", "t", &version, &status)
        .await
        .unwrap();
    let result = engine.run(&[key], |_| panic!("nothing should be looked at")).await.unwrap();
    assert!(result.is_success() && result.was_complete);
    let jobs = cluster.snapshot().iter().filter(|(key, _)| key.kind == Kind::Job).count();
    assert_eq!(jobs, 0);
}
