//! Pods as an API server shows them, and what the runner makes of each.

use super::*;
use crate::runner::pods::{Fate, OwnLimit, fate};
use sealign_manifest::group::TryCause;
use serde_json::{Value, json};

const MAP: &str =
    r#"{"group":"g0001","stage":"rollout","round":0,"items":["0123456789abcdef0123456789abcdef"]}"#;

fn pod(status: &Value) -> KubePod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "p-0-abcde", "namespace": "demo", "uid": "u-1",
            "labels": { "sealign.dev/zone": "sandbox", "sealign.dev/owner-uid": "o" },
            "annotations": { "sealign.dev/round-map": MAP, "batch.kubernetes.io/job-completion-index": "0" },
        },
        "status": status,
    }))
    .unwrap()
}

fn seen(status: &Value) -> Pod {
    view(&pod(status), &mut Maps::default()).unwrap()
}

fn main_state(state: &Value) -> Value {
    json!([{ "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state }])
}

fn ended(phase: &str, code: i32, reason: &str) -> Value {
    let state = json!({ "terminated": { "exitCode": code, "reason": reason } });
    json!({ "phase": phase, "podIP": "10.0.0.7", "containerStatuses": main_state(&state) })
}

#[track_caller]
fn is_cause(status: &Value, expected: TryCause) {
    match fate(Some(&seen(status)), true) {
        Fate::Failed(cause, _) => assert_eq!(cause, expected),
        Fate::OwnLimit(limit) => panic!("read as {limit:?}"),
    }
}

#[test]
fn a_running_sandbox_has_an_address_and_its_item() {
    let running = json!({ "phase": "Running", "podIP": "10.0.0.7",
        "containerStatuses": main_state(&json!({ "running": {} })) });
    let pod = seen(&running);
    assert_eq!((pod.phase, pod.address.as_str()), (Phase::Running, "http://10.0.0.7:7070"));
    assert_eq!(pod.item().unwrap().0.group, "g0001");
    let six = json!({ "phase": "Running", "podIP": "fd00::7",
        "containerStatuses": main_state(&json!({ "running": {} })) });
    assert_eq!(seen(&six).address, "http://[fd00::7]:7070");
}

#[test]
fn a_server_is_known_by_its_policy() {
    let mut server = pod(&json!({ "phase": "Pending", "podIP": "10.0.0.9" }));
    let labels = server.metadata.labels.as_mut().unwrap();
    labels.insert("sealign.dev/zone".into(), "server".into());
    labels.insert("sealign.dev/policy".into(), "weak".into());
    let seen = view(&server, &mut Maps::default()).unwrap();
    assert_eq!(seen.role, PodRole::Server { policy: "weak".into() });
    assert_eq!(seen.address, "http://10.0.0.9:8000");
}

#[test]
fn pods_that_wait_say_why() {
    assert_eq!(seen(&json!({ "phase": "Pending" })).reason, "");
    let unscheduled = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/2 nodes are available" }] });
    assert_eq!(seen(&unscheduled).reason, "Unschedulable: 0/2 nodes are available");
    let pulling = json!({ "phase": "Pending",
        "containerStatuses": main_state(&json!({ "waiting": { "reason": "PodInitializing" } })),
        "initContainerStatuses": [{ "name": "server", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": { "waiting": { "reason": "ImagePullBackOff", "message": "m" } } }] });
    let seen = seen(&pulling);
    assert_eq!((seen.phase, seen.reason.as_str()), (Phase::Pending, "ImagePullBackOff: m"));
}

#[test]
fn a_container_that_passed_its_memory_is_the_models_doing() {
    let killed = seen(&ended("Failed", 137, "OOMKilled"));
    assert_eq!((killed.phase, killed.exit_code), (Phase::Failed, Some(137)));
    assert_eq!(fate(Some(&killed), true), Fate::OwnLimit(OwnLimit::Memory));
}

#[test]
fn evictions_are_told_apart_by_what_they_name() {
    let own = json!({ "phase": "Failed", "reason": "Evicted",
        "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi." });
    assert_eq!(fate(Some(&seen(&own)), true), Fate::OwnLimit(OwnLimit::Disk));
    let node =
        json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." });
    is_cause(&node, TryCause::Preempted);
}

#[test]
fn a_pod_of_a_lost_node_has_ended_though_its_kubelet_is_silent() {
    let status = json!({ "phase": "Running", "containerStatuses": main_state(&json!({ "running": {} })),
        "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint" }] });
    let mut lost = pod(&status);
    assert_eq!(view(&lost, &mut Maps::default()).unwrap().phase, Phase::Running);
    lost.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let lost = view(&lost, &mut Maps::default()).unwrap();
    assert_eq!(lost.phase, Phase::Failed);
    assert!(matches!(fate(Some(&lost), true), Fate::Failed(TryCause::NodeLost, _)));
}

#[test]
fn exit_codes_of_the_sandbox_server_keep_their_meaning() {
    is_cause(&ended("Failed", 10, "Error"), TryCause::RunnerLost);
    is_cause(&ended("Failed", 143, "Error"), TryCause::Suspended);
    is_cause(&ended("Failed", 1, "Error"), TryCause::Sandbox);
    assert_eq!(seen(&ended("Succeeded", 0, "Completed")).phase, Phase::Succeeded);
}

#[test]
fn pods_that_cannot_be_understood_are_left_out() {
    let mut broken = pod(&json!({}));
    broken.metadata.annotations.as_mut().unwrap().insert("sealign.dev/round-map".into(), "{".into());
    assert_eq!(view(&broken, &mut Maps::default()), None);
    let mut foreign = pod(&json!({}));
    foreign.metadata.labels.as_mut().unwrap().insert("sealign.dev/zone".into(), "runner".into());
    assert_eq!(view(&foreign, &mut Maps::default()), None);
}

#[test]
fn pods_of_a_round_share_its_map() {
    let mut maps = Maps::default();
    let (one, other) =
        (view(&pod(&json!({})), &mut maps).unwrap(), view(&pod(&json!({})), &mut maps).unwrap());
    let map = |pod: &Pod| match &pod.role {
        PodRole::Sandbox { map, .. } => map.clone(),
        PodRole::Server { .. } => panic!("a server"),
    };
    assert!(Arc::ptr_eq(&map(&one), &map(&other)));
}
