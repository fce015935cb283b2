//! Suspension: an object is suspended when its own spec says so or that of an object that owns it. Children look up, so a
//! parent never writes into their specs.

use kube::core::DynamicObject;
use serde_json::Value;

use crate::Kind;
use crate::context::Context;
use crate::snapshot::Unread;

/// Longest chain of owners: AlignmentRun, Benchmark, RolloutCampaign.
const OWNERS_MAX: usize = 3;

/// Which object asks for the pause: `spec.suspend` of the object itself, or `kind/name` of an owner.
pub fn suspended_by(cx: Context<'_>) -> Result<Option<String>, Unread> {
    if asks(&cx.snapshot.object) {
        return Ok(Some("spec.suspend".into()));
    }
    let mut object = &cx.snapshot.object;
    for _ in 0..OWNERS_MAX {
        let Some((kind, name, uid)) = owner_of(object) else { return Ok(None) };
        let Some(owner) = cx.snapshot.object(kind, &name)? else { return Ok(None) };
        if owner.metadata.uid.as_deref() != Some(uid.as_str()) {
            return Ok(None);
        }
        if asks(owner) {
            return Ok(Some(format!("spec.suspend of its owner {} `{name}`", kind.name())));
        }
        object = owner;
    }
    Ok(None)
}

fn asks(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or(false)
}

fn owner_of(object: &DynamicObject) -> Option<(Kind, String, String)> {
    let reference = object.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true))?;
    let kind = Kind::parse(&reference.kind).filter(|kind| *kind != Kind::Job)?;
    Some((kind, reference.name.clone(), reference.uid.clone()))
}
