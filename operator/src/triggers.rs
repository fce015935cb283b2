//! Which objects to look at when another one changes: those whose specs name it. Owners are found by
//! reference ([`crate::routes`]).

use kube::core::DynamicObject;
use sealign_reconcile::port::Kind;
use serde_json::Value;

/// Kinds whose change concerns objects of `kind`, beside its children.
pub fn referenced(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::TaskSet | Kind::Job => &[],
        Kind::RolloutCampaign => &[Kind::TaskSet],
        Kind::TrajectoryForest => &[Kind::RolloutCampaign, Kind::TaskSet],
        Kind::AlignmentRun => &[Kind::TrajectoryForest],
        Kind::Benchmark => &[Kind::TaskSet, Kind::Benchmark],
    }
}

/// Where a spec names objects of a kind: a reference, or a list of them.
fn pointers(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::TaskSet => &["/spec/taskSetRef", "/spec/excludeTaskSets"],
        Kind::RolloutCampaign => &["/spec/campaignRefs"],
        Kind::TrajectoryForest => &["/spec/forestRef"],
        Kind::Benchmark => &["/spec/baselineRefs"],
        Kind::AlignmentRun | Kind::Job => &[],
    }
}

/// Whether `object` names the object `name` of `kind`.
pub fn names(object: &DynamicObject, kind: Kind, name: &str) -> bool {
    let is_it = |reference: &Value| reference.get("name").and_then(Value::as_str) == Some(name);
    pointers(kind).iter().filter_map(|pointer| object.data.pointer(pointer)).any(|found| match found {
        Value::Array(references) => references.iter().any(is_it),
        reference => is_it(reference),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &Value) -> DynamicObject {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": "x" }, "spec": spec })).unwrap()
    }

    #[test]
    fn an_object_is_looked_at_when_what_it_names_changes() {
        let forest = object(&serde_json::json!({ "campaignRefs": [{ "name": "a" }, { "name": "b" }],
            "excludeTaskSets": [{ "name": "eval" }] }));
        assert!(names(&forest, Kind::RolloutCampaign, "b"));
        assert!(names(&forest, Kind::TaskSet, "eval"));
        assert!(!names(&forest, Kind::RolloutCampaign, "eval"));
        let campaign = object(&serde_json::json!({ "taskSetRef": { "name": "train" } }));
        assert!(names(&campaign, Kind::TaskSet, "train"));
    }
}
