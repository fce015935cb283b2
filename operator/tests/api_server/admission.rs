//! The definitions' schema and rules, as the server applies them.

use std::path::Path;

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use sealign_operator::cluster::resource;
use sealign_reconcile::port::Kind;
use serde_json::{Value, json};

use crate::server::ApiServer;

fn manifests() -> Vec<DynamicObject> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = format!("\n{}", std::fs::read_to_string(&path).unwrap());
        // The rendered installation lies beside them and is not ours to admit.
        for document in text.split("\n---").filter(|text| text.contains("\napiVersion: sealign.dev/")) {
            objects.push(serde_saphyr::from_str(document).unwrap());
        }
    }
    objects
}

fn kind_of(object: &DynamicObject) -> Kind {
    Kind::parse(&object.types.as_ref().unwrap().kind).unwrap()
}

/// Every manifest of the repository is admitted; every kind refuses what its rules forbid, by field.
pub async fn manifests_are_admitted_and_wrong_ones_named(server: &ApiServer) {
    let client = server.admin();
    crate::namespace(&client, "admission").await;
    let api =
        |kind: Kind| Api::<DynamicObject>::namespaced_with(client.clone(), "admission", &resource(kind));
    let try_out = PostParams { dry_run: true, ..PostParams::default() };
    let objects = manifests();
    assert!(objects.len() >= 5);
    for object in &objects {
        let mut object = object.clone();
        object.metadata.namespace = None;
        let kind = kind_of(&object);
        api(kind).create(&try_out, &object).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
    for (kind, spec, field) in wrong() {
        let object = json!({ "apiVersion": kind.api_version(), "kind": kind.name(),
            "metadata": { "name": "wrong" }, "spec": spec });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let error = api(kind).create(&try_out, &object).await.unwrap_err().to_string();
        assert!(error.contains(field), "{kind:?}: {error}");
    }
    frozen(&api(Kind::TaskSet)).await;
}

fn wrong() -> Vec<(Kind, Value, &'static str)> {
    let mini = json!({ "mini": { "split": "Train", "count": 4 } });
    let policies = json!([{ "name": "a", "model": { "scripted": { "policy": "strong" } } }]);
    vec![
        (Kind::TaskSet, json!({ "source": {} }), "spec.source"),
        (Kind::TaskSet, json!({ "source": mini, "sandbox": { "memoryMib": 1 } }), "spec.sandbox.memoryMib"),
        (Kind::RolloutCampaign, json!({ "taskSetRef": { "name": "t" }, "policies": [] }), "spec.policies"),
        (
            Kind::RolloutCampaign,
            json!({ "taskSetRef": { "name": "t" }, "policies": policies, "parallelism": 0 }),
            "spec.parallelism",
        ),
        (
            Kind::RolloutCampaign,
            json!({ "taskSetRef": { "name": "t" }, "policies": policies, "artifacts": { "path": "a/../b" } }),
            "artifacts.path",
        ),
        (Kind::TrajectoryForest, json!({ "pairs": { "threshold": "2" } }), "spec"),
        (Kind::AlignmentRun, json!({ "model": { "base": "x" } }), "spec"),
        (Kind::Benchmark, json!({ "taskSetRef": { "name": "t" }, "parallelism": -1 }), "spec"),
    ]
}

async fn frozen(api: &Api<DynamicObject>) {
    let object = json!({ "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet", "metadata": { "name": "frozen" },
        "spec": { "source": { "mini": { "split": "Train", "count": 4 } } } });
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let change = Patch::Merge(json!({ "spec": { "source": { "mini": { "count": 5 } } } }));
    let error = api.patch("frozen", &PatchParams::default(), &change).await.unwrap_err().to_string();
    assert!(error.contains("spec.source"), "{error}");
    let status = Patch::Merge(json!({ "status": { "taskCount": 3 } }));
    let after = api.patch("frozen", &PatchParams::default(), &status).await.unwrap();
    assert!(after.data.get("status").is_none(), "a status is written by its subresource only");
}
