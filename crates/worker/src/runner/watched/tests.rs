//! The directory over scripted watch events; against a real API server see the operator's tests.

use super::*;
use serde_json::{Value, json};

const MAP: &str =
    r#"{"group":"g0001","stage":"rollout","round":0,"items":["0123456789abcdef0123456789abcdef"]}"#;

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> KubePod {
    let mut document = json!({
        "metadata": {
            "name": name, "namespace": "demo", "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "sealign.dev/zone": "sandbox", "sealign.dev/owner-uid": "o" },
            "annotations": { "sealign.dev/round-map": MAP, "batch.kubernetes.io/job-completion-index": "0",
                "sealign.dev/start-seconds": "600" },
        },
        "spec": { "containers": [{ "name": "main", "image": "tasks-a" }] },
        "status": { "phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{ "name": "main", "image": "i",
            "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }] },
    });
    change(&mut document);
    serde_json::from_value(document).unwrap()
}

fn synced(pods: impl IntoIterator<Item = KubePod>) -> Seen {
    let mut seen = Seen::default();
    list_again(&mut seen, pods);
    seen
}

fn list_again(seen: &mut Seen, pods: impl IntoIterator<Item = KubePod>) {
    seen.take(watcher::Event::Init);
    for pod in pods {
        seen.take(watcher::Event::InitApply(pod));
    }
    seen.take(watcher::Event::InitDone);
}

fn names(seen: &mut Seen) -> Vec<(String, Phase)> {
    seen.list().unwrap().iter().map(|pod| (pod.name.clone(), pod.phase)).collect()
}

fn waits(document: &mut Value, reason: &str, deleted: &str) {
    document["metadata"]["deletionTimestamp"] = json!(deleted);
    document["status"] = json!({ "phase": "Pending", "containerStatuses": [{ "name": "main", "image": "i",
        "imageID": "", "ready": false, "restartCount": 0, "state": { "waiting": { "reason": reason } } }] });
}

#[test]
fn nothing_is_listed_before_the_first_list_is_whole() {
    let mut seen = Seen::default();
    seen.take(watcher::Event::Init);
    seen.take(watcher::Event::InitApply(pod("a", |_| {})));
    assert!(seen.list().unwrap_err().to_string().contains("not listed them yet"));
    seen.take(watcher::Event::InitDone);
    assert_eq!(names(&mut seen), [("a".to_owned(), Phase::Running)]);
}

#[test]
fn a_pod_that_ended_and_went_in_one_look_still_says_how() {
    let mut seen = synced([pod("a", |_| {}), pod("b", |_| {})]);
    seen.take(watcher::Event::Delete(pod("a", |document| {
        document["status"] = json!({ "phase": "Failed", "containerStatuses": [{ "name": "main", "image": "i",
            "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] });
    })));
    let pods = seen.list().unwrap();
    let ended: Vec<_> = pods.iter().map(|pod| (pod.name.as_str(), pod.reason.as_str())).collect();
    assert_eq!(ended, [("a", "OOMKilled"), ("b", "")]);
}

#[test]
fn a_running_pod_that_vanishes_leaves_nothing() {
    let mut seen = synced([pod("a", |_| {})]);
    seen.take(watcher::Event::Delete(pod("a", |_| {})));
    assert_eq!(names(&mut seen), []);
    let mut missed = synced([pod("a", |_| {}), pod("b", |_| {})]);
    list_again(&mut missed, [pod("b", |_| {})]);
    assert_eq!(names(&mut missed), [("b".to_owned(), Phase::Running)]);
}

/// What is left of a pod that was deleted while it waited, beside a running pod of the image `neighbour`.
fn after_waiting(reason: &str, deleted: &str, neighbour: &str) -> Vec<(String, Phase)> {
    let waiting = || pod("a", |document| waits(document, reason, deleted));
    let other = pod("b", |document| document["spec"]["containers"][0]["image"] = json!(neighbour));
    let mut seen = synced([waiting(), other]);
    seen.take(watcher::Event::Delete(waiting()));
    names(&mut seen).into_iter().filter(|(name, _)| name == "a").collect()
}

#[test]
fn an_image_that_outlasted_the_start_allowance_is_a_failed_try_and_a_short_wait_is_not() {
    let failed = [("a".to_owned(), Phase::Failed)];
    assert_eq!(after_waiting("ImagePullBackOff", "2026-01-01T00:10:00Z", "tasks-b"), failed);
    assert_eq!(after_waiting("ImagePullBackOff", "2026-01-01T00:02:00Z", "tasks-b"), []);
    assert_eq!(after_waiting("ContainerCreating", "2026-01-01T00:10:00Z", "tasks-b"), []);
}

#[test]
fn no_image_is_to_blame_while_no_other_image_is_pulled() {
    assert_eq!(after_waiting("ImagePullBackOff", "2026-01-01T00:10:00Z", "tasks-a"), []);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_pulled_before_the_wait_says_nothing_about_the_registry_now() {
    let waiting = || pod("a", |document| waits(document, "ErrImagePull", "2026-01-01T00:10:00Z"));
    let other = pod("b", |document| document["spec"]["containers"][0]["image"] = json!("tasks-b"));
    let mut seen = synced([other.clone()]);
    seen.take(watcher::Event::Delete(other));
    tokio::time::advance(Duration::from_secs(601)).await;
    seen.take(watcher::Event::Apply(waiting()));
    seen.take(watcher::Event::Delete(waiting()));
    assert_eq!(names(&mut seen), []);
}

#[tokio::test(start_paused = true)]
async fn the_last_word_holds_for_a_minute_of_silence_and_no_longer() {
    let mut seen = synced([pod("a", |_| {})]);
    let error = || watcher::Error::NoResourceVersion;
    seen.fail(&error());
    tokio::time::advance(Duration::from_secs(30)).await;
    seen.fail(&error());
    assert!(seen.list().is_ok());
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(seen.list().is_err());
    seen.take(watcher::Event::Apply(pod("b", |_| {})));
    assert_eq!(names(&mut seen).len(), 2);
}

#[test]
fn ten_thousand_pods_stay_small_and_departed_ones_are_bounded() {
    let many = (0..10_000).map(|n| pod(&format!("p{n:05}"), |_| {}));
    let mut seen = synced(many);
    assert_eq!(seen.list().unwrap().len(), 10_000);
    for n in 0..10_000 {
        let gone = pod(&format!("p{n:05}"), |document| document["status"]["phase"] = json!("Failed"));
        seen.take(watcher::Event::Delete(gone));
    }
    assert_eq!(seen.list().unwrap().len(), DEPARTED_MAX);
}
