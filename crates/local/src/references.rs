//! Which objects an object names, and whether they are there.
//!
//! A cluster shows a missing reference as a condition and waits, because somebody else may create it. An embedded run has
//! nobody else, so it refuses before anything starts.

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use sealign_reconcile::port::Kind;
use serde_json::Value;

use crate::admission::Refused;
use crate::objects::ObjectKey;
use crate::shape::{Problem, nearest, shown};

/// Places of references within a spec: kind of object, path of the field, kind of what is named. `*` stands for every item.
const PLACES: [(Kind, &str, Kind); 9] = [
    (Kind::RolloutCampaign, "taskSetRef", Kind::TaskSet),
    (Kind::Benchmark, "taskSetRef", Kind::TaskSet),
    (Kind::Benchmark, "baselineRefs.*", Kind::Benchmark),
    (Kind::TrajectoryForest, "campaignRefs.*", Kind::RolloutCampaign),
    (Kind::TrajectoryForest, "excludeTaskSets.*", Kind::TaskSet),
    (Kind::AlignmentRun, "forestRef", Kind::TrajectoryForest),
    (Kind::AlignmentRun, "campaign.taskSetRef", Kind::TaskSet),
    (Kind::AlignmentRun, "benchmarks.*.taskSetRef", Kind::TaskSet),
    (Kind::AlignmentRun, "forest.excludeTaskSets.*", Kind::TaskSet),
];

/// Checks that everything that `object` names is among `present`.
///
/// # Errors
/// [`Refused`] with one problem for each name that is not.
pub fn check(kind: Kind, object: &DynamicObject, present: &BTreeSet<ObjectKey>) -> Result<(), Refused> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let mut problems = Vec::new();
    for (_, place, target) in PLACES.into_iter().filter(|(of, _, _)| *of == kind) {
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        for (path, reference) in places(spec, place, "spec") {
            let Some(name) = reference.get("name").and_then(Value::as_str) else { continue };
            if present.contains(&ObjectKey::new(target, namespace, name)) {
                continue;
            }
            let known = present.iter().filter(|key| key.kind == target && key.namespace == namespace);
            let near = nearest(name, known.map(|key| key.name.as_str()));
            let remedy = near.map_or_else(
                || "add one to the manifest, or name one that is there".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            let text = format!("there is no {} `{}`; {remedy}", target.name(), shown(name));
            problems.push(Problem { path: format!("{path}.name"), text });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Refused { problems }) }
}

/// Every value at `place`, with its path.
fn places<'a>(value: &'a Value, place: &str, path: &str) -> Vec<(String, &'a Value)> {
    let (first, rest) = place.split_once('.').map_or((place, None), |(first, rest)| (first, Some(rest)));
    let found: Vec<(String, &Value)> = if first == "*" {
        let items = value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, item)| (format!("{path}[{index}]"), item)).collect()
    } else {
        value.get(first).map(|member| (format!("{path}.{first}"), member)).into_iter().collect()
    };
    match rest {
        None => found,
        Some(rest) => found.into_iter().flat_map(|(path, value)| places(value, rest, &path)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_missing_name_is_told_with_its_place() {
        let object = serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "demo" },
            "spec": { "campaign": { "taskSetRef": { "name": "trian" } },
                "benchmarks": [{ "taskSetRef": { "name": "train" } }, { "taskSetRef": { "name": "zzz" } }] },
        }))
        .unwrap();
        let present = BTreeSet::from([ObjectKey::new(Kind::TaskSet, "demo", "train")]);
        let refused = check(Kind::AlignmentRun, &object, &present).unwrap_err();
        let lines: Vec<String> = refused.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "spec.campaign.taskSetRef.name: there is no TaskSet `trian`; did you mean `train`?",
                "spec.benchmarks[1].taskSetRef.name: there is no TaskSet `zzz`; add one to the manifest, or name one that is there",
            ]
        );
    }

    #[test]
    fn a_name_in_another_namespace_does_not_count() {
        let object = serde_json::from_value(json!({ "metadata": { "name": "c", "namespace": "demo" },
            "spec": { "taskSetRef": { "name": "t" } } }))
        .unwrap();
        let present = BTreeSet::from([ObjectKey::new(Kind::TaskSet, "other", "t")]);
        check(Kind::RolloutCampaign, &object, &present).unwrap_err();
    }
}
