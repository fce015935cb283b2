//! What the API server does with an incoming object of ours: schema, defaults and rules, from the same definitions.
//!
//! Start with [`Admission::read`] for a document that a person wrote, or [`Admission::admit`] for an object of a program.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use kube::core::cel::{CompiledSchema, compile_schema, validate_compiled};
use sealign_reconcile::port::Kind;
use serde_json::Value;

use crate::naming;
use crate::shape::{PROBLEMS_MAX, Problem, Shape, nearest, shown, unknown_field};

/// Fields of `metadata` that a manifest may have. The second row is what a cluster sets: it is read and left out, so that
/// `kubectl get -o yaml` can be run embedded.
const METADATA_FIELDS: [&str; 4] = ["name", "namespace", "labels", "annotations"];
const METADATA_IGNORED: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
];
/// The namespace of a manifest that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Why an object is refused: every problem that was found, up to a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Refused {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Refused {
    /// One problem.
    pub fn one(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { problems: vec![Problem { path: path.into(), text: text.into() }] }
    }
}

/// Our definitions cannot be read, a fault of the program.
#[derive(Debug, thiserror::Error)]
#[error("the schema of {kind} cannot be used: {problem}")]
pub struct SchemaFault {
    kind: &'static str,
    problem: String,
}

struct Definition {
    shape: Shape,
    rules: CompiledSchema,
}

/// The schemas and rules of the five kinds.
pub struct Admission {
    kinds: BTreeMap<Kind, Definition>,
}

impl Admission {
    /// The definitions that the CRDs are generated from.
    ///
    /// # Errors
    /// [`SchemaFault`] when a definition is not a structural schema.
    pub fn new() -> Result<Self, SchemaFault> {
        let mut kinds = BTreeMap::new();
        for definition in sealign_crds::generate::definitions() {
            let Some(kind) = Kind::parse(&definition.spec.names.kind) else { continue };
            let fault = |problem: String| SchemaFault { kind: kind.name(), problem };
            let schema = definition
                .spec
                .versions
                .first()
                .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref())
                .ok_or_else(|| fault("it has none".to_owned()))?;
            let schema = serde_json::to_value(schema).map_err(|error| fault(error.to_string()))?;
            let shape = serde_json::from_value(schema.clone()).map_err(|error| fault(error.to_string()))?;
            kinds.insert(kind, Definition { shape, rules: compile_schema(&schema) });
        }
        Ok(Self { kinds })
    }

    /// Reads a document that a person wrote: its kind, and the object with defaults filled in.
    ///
    /// # Errors
    /// [`Refused`] with every problem found.
    pub fn read(&self, document: &Value) -> Result<(Kind, DynamicObject), Refused> {
        let kind = kind_of(document)?;
        let mut problems = Vec::new();
        check_frame(document, &mut problems);
        let object = document.get("metadata").filter(|_| problems.is_empty()).map(|metadata| {
            let text = |name: &str| metadata.get(name).cloned().unwrap_or(Value::Null);
            let namespace = match text("namespace") {
                Value::Null => Value::from(DEFAULT_NAMESPACE),
                given => given,
            };
            serde_json::json!({
                "apiVersion": kind.api_version(), "kind": kind.name(),
                "metadata": { "name": text("name"), "namespace": namespace, "labels": text("labels"),
                    "annotations": text("annotations") },
                "spec": document.get("spec").cloned().unwrap_or(Value::Null),
            })
        });
        match object.map(serde_json::from_value::<DynamicObject>) {
            Some(Ok(object)) => Ok((kind, self.admit(kind, &object, None)?)),
            Some(Err(error)) => Err(Refused::one("metadata", format!("cannot be read: {error}"))),
            None => Err(Refused { problems }),
        }
    }

    /// Checks an object against schema and rules, and against `old` where it replaces one; gives it with defaults.
    ///
    /// # Errors
    /// [`Refused`] with every problem found.
    pub fn admit(
        &self,
        kind: Kind,
        object: &DynamicObject,
        old: Option<&DynamicObject>,
    ) -> Result<DynamicObject, Refused> {
        let Some(definition) = self.kinds.get(&kind) else { return Ok(object.clone()) };
        naming::check(object).map_err(|text| {
            let (path, text) = text.split_once(": ").unwrap_or(("metadata", &text));
            Refused::one(path, text)
        })?;
        let spec_shape = definition.shape.property("spec");
        let spec = object.data.get("spec").filter(|spec| !spec.is_null());
        let (Some(shape), Some(spec)) = (spec_shape, spec) else {
            return Err(Refused::one("spec", "is missing; say what is wanted below `spec:`"));
        };
        let complete = shape.complete(spec);
        let mut problems = Vec::new();
        shape.check("spec", &complete, &mut problems);
        // Rules may rely on what the schema promises, so they run on objects that keep it.
        if problems.is_empty() {
            let old_spec = old.and_then(|old| old.data.get("spec"));
            check_rules(&definition.rules, &complete, old_spec, &mut problems);
        }
        if !problems.is_empty() {
            problems.truncate(PROBLEMS_MAX);
            return Err(Refused { problems });
        }
        let mut admitted = object.clone();
        admitted.data = serde_json::json!({ "spec": complete });
        Ok(admitted)
    }

    /// Checks a status against the schema, as an API server does when one is written.
    ///
    /// # Errors
    /// [`Refused`] with every problem found.
    pub fn check_status(&self, kind: Kind, status: &Value) -> Result<(), Refused> {
        let Some(shape) = self.kinds.get(&kind).and_then(|one| one.shape.property("status")) else {
            return Ok(());
        };
        let mut problems = Vec::new();
        shape.check("status", status, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(Refused { problems }) }
    }
}

fn check_rules(rules: &CompiledSchema, spec: &Value, old_spec: Option<&Value>, problems: &mut Vec<Problem>) {
    let object = serde_json::json!({ "spec": spec });
    let old = old_spec.map(|old| serde_json::json!({ "spec": old }));
    let Err(errors) = validate_compiled(rules, &object, old.as_ref()) else { return };
    for error in errors.into_vec() {
        problems.push(Problem { path: error.field_path, text: error.message });
    }
}

fn kind_of(document: &Value) -> Result<Kind, Refused> {
    let Some(members) = document.as_object() else {
        return Err(Refused::one("(document)", "is not an object; begin with `apiVersion:` and `kind:`"));
    };
    let names = || Kind::OURS.map(Kind::name).join(", ");
    let kind = match members.get("kind") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => return Err(Refused::one("kind", format!("must be a text; choose one of {}", names()))),
        None => return Err(Refused::one("kind", format!("is missing; choose one of {}", names()))),
    };
    let Some(known) = Kind::parse(kind).filter(|kind| *kind != Kind::Job) else {
        let near = nearest(kind, Kind::OURS.into_iter().map(Kind::name));
        let remedy = near
            .map_or_else(|| format!("choose one of {}", names()), |near| format!("did you mean `{near}`?"));
        return Err(Refused::one("kind", format!("`{}` is not a kind of ours; {remedy}", shown(kind))));
    };
    match members.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == known.api_version() => Ok(known),
        Some(other) => Err(Refused::one(
            "apiVersion",
            format!("`{}` is not served; write `{}`", shown(other), known.api_version()),
        )),
        None => Err(Refused::one("apiVersion", format!("is missing; write `{}`", known.api_version()))),
    }
}

/// Checks what stands around `spec`.
fn check_frame(document: &Value, problems: &mut Vec<Problem>) {
    let mut report = |path: String, text: String| problems.push(Problem { path, text });
    let top: Vec<String> = ["apiVersion", "kind", "metadata", "spec", "status"].map(String::from).to_vec();
    for name in document.as_object().into_iter().flat_map(|members| members.keys()) {
        if !top.contains(name) {
            report(shown(name), unknown_field(name, top.iter()));
        }
    }
    let Some(metadata) = document.get("metadata").and_then(Value::as_object) else {
        return report("metadata".into(), "is missing; give at least `name:` below it".into());
    };
    let known: Vec<String> = METADATA_FIELDS.map(String::from).to_vec();
    for (name, value) in metadata {
        let path = format!("metadata.{}", shown(name));
        if name == "generateName" {
            report(path, "is not used here; give metadata.name, so that a second run finds the first".into());
        } else if !known.contains(name) && !METADATA_IGNORED.contains(&name.as_str()) {
            report(path, unknown_field(name, known.iter()));
        } else if matches!(name.as_str(), "name" | "namespace") && !value.is_string() && !value.is_null() {
            report(path, "must be a text; put it in quotes".into());
        } else if matches!(name.as_str(), "labels" | "annotations") && !holds_texts(value) {
            report(path, "must be a mapping of texts; put values in quotes".into());
        }
    }
    let is_unnamed = metadata.get("name").is_none_or(Value::is_null);
    if is_unnamed && !metadata.contains_key("generateName") {
        report("metadata.name".into(), "is missing; it has to be given".into());
    }
}

fn holds_texts(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|members| members.values().all(Value::is_string))
}
