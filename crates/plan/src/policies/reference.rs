//! References to other objects of the namespace: what is missing or not ready is a condition, not an error.

use kube::core::DynamicObject;
use sealign_crds::condition::{kind, reason};
use serde_json::Value;

use crate::Kind;
use crate::context::Context;
use crate::snapshot::{Unread, is_leaving};

/// A condition of another object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `Some(true)`, `Some(false)` or unknown.
    pub status: Option<bool>,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// Reads a condition of `object`; one that is not there yet is unknown.
pub fn condition(object: &DynamicObject, kind: &str) -> Seen {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|c| field(c, "type") == kind);
    Seen {
        status: match found.map(|c| field(c, "status")) {
            Some("True") => Some(true),
            Some("False") => Some(false),
            _ => None,
        },
        reason: found.map(|c| field(c, "reason").to_owned()).unwrap_or_default(),
        message: found.map(|c| field(c, "message").to_owned()).unwrap_or_default(),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Why a reference cannot be used; as a claim of the object that refers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// `Some(false)` when it never will.
    pub succeeded: Option<bool>,
    /// A condition reason.
    pub reason: &'static str,
    /// The field, what is wrong with what it names, and what to do.
    pub message: String,
}

/// The object of `kind` that `field` names, once its condition (`Ready` for TaskSets, else `Succeeded`) is True.
pub fn resolve<'a>(
    cx: Context<'a>,
    kind: Kind,
    field: &str,
    name: &str,
) -> Result<Result<&'a DynamicObject, Obstacle>, Unread> {
    let wanted = if kind == Kind::TaskSet { kind::READY } else { kind::SUCCEEDED };
    let shown = format!("{} `{name}`", kind.name());
    let Some(object) = cx.snapshot.object(kind, name)?.filter(|object| !is_leaving(object)) else {
        let namespace = &cx.owner.namespace;
        return Ok(Err(Obstacle {
            succeeded: None,
            reason: reason::REFERENCE_NOT_FOUND,
            message: format!("{field}: {shown} does not exist in namespace `{namespace}`: create it there"),
        }));
    };
    let seen = condition(object, wanted);
    let because = if seen.message.is_empty() { String::new() } else { format!(": {}", seen.message) };
    Ok(match seen.status {
        Some(true) => Ok(object),
        Some(false) if is_final(&seen.reason) => Err(Obstacle {
            succeeded: Some(false),
            reason: reason::REFERENCE_FAILED,
            message: format!("{field}: {shown} failed{because}"),
        }),
        _ => Err(Obstacle {
            succeeded: None,
            reason: reason::WAITING,
            message: format!("{field}: waiting for {shown} to be {wanted}{because}"),
        }),
    })
}

/// Reasons with which an object stays as it is until somebody replaces it.
pub fn is_final(reason: &str) -> bool {
    [reason::INPUT_REJECTED, reason::INVALID_SPEC, reason::REFERENCE_FAILED].contains(&reason)
}
