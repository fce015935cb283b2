//! The API's schemas follow the conventions: no floats, everything bounded and described, no phase; the YAML is current.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::path::Path;

use sealign_crds::generate;
use serde_json::Value;

/// Shapes that Kubernetes owns; their bounds are not ours.
const FOREIGN: [&str; 1] = ["conditions"];

fn lint(path: &str, schema: &Value, findings: &mut Vec<String>) {
    let mut complain = |what: &str| findings.push(format!("{path}: {what}"));
    match schema["type"].as_str() {
        Some("number") => complain("a float; use a decimal string"),
        Some("string") => {
            let is_bounded = schema.get("maxLength").is_some() || schema.get("enum").is_some();
            if !is_bounded && schema["format"] != "date-time" {
                complain("a string without maxLength, enum or a time format");
            }
        }
        Some("array") if schema.get("maxItems").is_none() => complain("a list without maxItems"),
        Some("object")
            if schema.get("additionalProperties").is_some() && schema.get("maxProperties").is_none() =>
        {
            complain("a map without maxProperties");
        }
        _ => {}
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            let below = format!("{path}.{name}");
            if name == "phase" {
                findings.push(format!("{below}: a phase; use conditions"));
            }
            if property["description"].as_str().is_none_or(|text| text.len() < 6) {
                findings.push(format!("{below}: no description"));
            }
            if !FOREIGN.contains(&name.as_str()) {
                lint(&below, property, findings);
            }
        }
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            lint(&format!("{path}{suffix}"), &schema[key], findings);
        }
    }
}

#[test]
fn schemas_follow_the_api_conventions() {
    let mut findings = Vec::new();
    for crd in generate::definitions() {
        let kind = crd.spec.names.kind.clone();
        let value = serde_json::to_value(&crd).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            lint(&format!("{kind}.{part}"), &schema["properties"][part], &mut findings);
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn every_definition_has_columns_and_ends_with_its_age() {
    for crd in generate::definitions() {
        let columns = crd.spec.versions[0].additional_printer_columns.clone().unwrap();
        assert_eq!(columns.last().unwrap().name, "Age", "{}", crd.spec.names.kind);
        assert_eq!(crd.spec.names.categories, Some(vec!["sealign".to_owned()]));
        assert!(crd.spec.versions[0].subresources.clone().unwrap().status.is_some());
    }
}

#[test]
fn definitions_fit_a_client_side_apply() {
    // `kubectl apply` keeps the object in an annotation, and annotations hold 256 KiB.
    for crd in generate::definitions() {
        let bytes = serde_json::to_vec(&crd).unwrap().len();
        assert!(bytes < 200 * 1024, "{}: {bytes} bytes", crd.spec.names.kind);
    }
}

#[test]
fn the_yaml_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/yaml");
    for (name, yaml) in generate::yaml().unwrap() {
        let stored = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(stored == yaml, "crds/yaml/{name} is not what the types say: run `make generate`");
    }
}
