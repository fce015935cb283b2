//! `docs/metrics.md` lists exactly the metrics that are registered, with their help.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use sealign_operator::metrics::Metrics;
use sealign_operator::requests::Access;
use sealign_reconcile::Outcome;
use sealign_reconcile::port::Kind;
use serde_json::{Value, json};

/// Rows of the table below `heading`: name and help.
fn page(heading: &str) -> BTreeSet<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let row = |line: &str| {
        let (name, help) = line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")?;
        Some((name.to_owned(), help.to_owned()))
    };
    section.lines().filter_map(row).collect()
}

/// An object whose status has every field that the definition gives it, as the number or the map that it is.
fn full(kind: Kind) -> DynamicObject {
    let definitions = sealign_crds::generate::definitions();
    let definition = definitions.iter().find(|d| d.spec.names.kind == kind.name()).unwrap();
    let schema = serde_json::to_value(&definition.spec.versions.first().unwrap().schema).unwrap();
    let fields = schema.pointer("/openAPIV3Schema/properties/status/properties").unwrap();
    let value = |schema: &Value| match schema["type"].as_str() {
        Some("integer") => json!(1),
        Some("object") => json!({ "Resolved": 1 }),
        Some("string") => json!("1.5"),
        _ => Value::Null,
    };
    let mut status: Value = fields.as_object().unwrap().iter().map(|(k, v)| (k.clone(), value(v))).collect();
    status["conditions"] = json!([{ "type": "Ready", "status": "True", "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    serde_json::from_value(json!({ "metadata": { "name": "x", "namespace": "n" }, "status": status }))
        .unwrap()
}

#[test]
fn the_page_lists_what_the_operator_registers() {
    let metrics = Metrics::new().unwrap();
    drop(metrics.begun(Kind::TaskSet));
    let error = sealign_reconcile::ReconcileError::Crashed;
    let outcome =
        Outcome { requeue: None, commands: 1, wrote_status: true, is_finished: false, error: Some(error) };
    metrics.ended(Kind::TaskSet, std::time::Duration::ZERO, &outcome);
    metrics.controller(Kind::TaskSet, 8);
    metrics.leader("l", true);
    let access = Access { verb: "get", group: "batch".into(), resource: "jobs".into() };
    metrics.request("GET", "200", "host", Some(&access), std::time::Duration::ZERO);
    for kind in Kind::OURS {
        metrics.show(kind, &full(kind), false);
    }
    let text = metrics.text().unwrap();
    let help = |line: &str| {
        let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
        (!name.starts_with("process_")).then(|| (name.to_owned(), help.to_owned()))
    };
    let registered: BTreeSet<_> = text.lines().filter_map(help).collect();
    assert_eq!(registered, page("Operator"));
}
