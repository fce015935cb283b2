//! Manifests are admitted or refused as an API server with our definitions would, in one's own words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::OnceLock;

use sealign_local::admission::Admission;
use sealign_reconcile::port::Kind;
use serde_json::{Value, json};

fn campaign(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "apiVersion": "sealign.dev/v1alpha1", "kind": "RolloutCampaign", "metadata": { "name": "c" },
        "spec": {
            "taskSetRef": { "name": "tasks" },
            "policies": [{ "name": "strong", "model": { "scripted": { "policy": "strong" } } }],
        },
    });
    change(&mut document);
    document
}

/// Read once: that takes longer than any of these tests.
fn admission() -> &'static Admission {
    static ADMISSION: OnceLock<Admission> = OnceLock::new();
    ADMISSION.get_or_init(|| Admission::new().unwrap())
}

fn refusal(document: &Value) -> String {
    admission().read(document).unwrap_err().to_string()
}

#[test]
fn a_manifest_gets_the_namespace_and_the_defaults_that_the_schema_shows() {
    let (kind, object) = admission().read(&campaign(|_| ())).unwrap();
    assert_eq!(kind, Kind::RolloutCampaign);
    assert_eq!(object.metadata.namespace.as_deref(), Some("default"));
    let spec = &object.data["spec"];
    assert_eq!((&spec["limits"]["turns"], &spec["parallelism"]), (&json!(30), &json!(16)));
    assert_eq!(spec["policies"][0]["sampling"], json!({ "temperature": "0", "topP": "1" }));
}

#[test]
fn a_manifest_written_out_with_its_defaults_is_admitted_as_itself() {
    let (kind, object) = admission().read(&campaign(|_| ())).unwrap();
    let (_, again) = admission().read(&serde_json::to_value(&object).unwrap()).unwrap();
    assert_eq!((kind, again), (Kind::RolloutCampaign, object));
}

#[test]
fn rules_are_checked_and_say_where() {
    let none = campaign(|c| c["spec"]["policies"][0]["model"] = json!({}));
    assert_eq!(
        refusal(&none),
        "spec.policies[0].model: a model is exactly one of endpoint, checkpoint and scripted"
    );
    let outside = campaign(|c| c["spec"]["artifacts"] = json!({ "path": "a/../../b" }));
    assert!(refusal(&outside).starts_with("spec.artifacts: artifacts.path must be relative"));
}

#[test]
fn every_problem_is_named_at_once() {
    let wrong = campaign(|c| {
        c["spec"]["paralelism"] = json!(3);
        c["spec"]["samplesPerTask"] = json!(0);
        c["spec"]["limits"] = json!({ "turns": "30" });
        c["spec"]["grading"] = json!("Test");
    });
    assert_eq!(
        refusal(&wrong).lines().collect::<Vec<_>>(),
        [
            "spec.paralelism: is not a field here; did you mean `parallelism`?",
            "spec.samplesPerTask: 0 is out of range; give 1 to 10000",
            "spec.limits.turns: must be a whole number, not a text; write it without quotes",
            "spec.grading: `Test` is not a choice; did you mean `Tests`? It is one of Tests, None",
        ]
    );
}

#[test]
fn what_stands_around_the_spec_is_checked_too() {
    let cases: [(&str, Value); 7] = [
        (
            "kind: `RolloutCampain` is not a kind of ours; did you mean `RolloutCampaign`?",
            json!({ "kind": "RolloutCampain" }),
        ),
        ("apiVersion: `v1` is not served; write `sealign.dev/v1alpha1`", json!({ "apiVersion": "v1" })),
        ("kind: `Job` is not a kind of ours", json!({ "kind": "Job" })),
        ("metadata.name: `../../etc` is not a name", json!({ "metadata": { "name": "../../etc" } })),
        ("metadata.name: is missing", json!({ "metadata": {} })),
        (
            "metadata.lables: is not a field here; did you mean `labels`?",
            json!({ "metadata": { "name": "c", "lables": {} } }),
        ),
        ("spek: is not a field here; did you mean `spec`?", json!({ "spek": {} })),
    ];
    for (expected, change) in cases {
        let wrong = campaign(|c| {
            for (name, value) in change.as_object().unwrap() {
                c[name] = value.clone();
            }
        });
        assert!(refusal(&wrong).starts_with(expected), "{}", refusal(&wrong));
    }
}

#[test]
fn what_a_cluster_set_may_stand_in_a_manifest() {
    let exported = campaign(|c| {
        c["metadata"]["uid"] = json!("u");
        c["metadata"]["resourceVersion"] = json!("7");
        c["status"] = json!({ "recorded": 3 });
    });
    let (_, object) = admission().read(&exported).unwrap();
    assert_eq!((object.metadata.uid, object.data.get("status")), (None, None));
}
