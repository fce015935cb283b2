//! Custom resources that an object creates and owns.

use kube::core::DynamicObject;
use sealign_crds::condition::reason;

use crate::Kind;
use crate::context::{Context, Draft};
use crate::policies::reference::Obstacle;
use crate::snapshot::{NoDecision, is_leaving};

/// A child.
#[derive(Clone, Debug)]
pub enum Child<'a> {
    /// It is there.
    There(&'a DynamicObject),
    /// It is being created, or its predecessor is being deleted.
    Pending,
    /// Its name belongs to another.
    Taken(Obstacle),
}

/// Finds the child `name`, or creates it.
pub fn ensure<'a>(
    cx: Context<'a>,
    draft: &mut Draft,
    kind: Kind,
    name: &str,
    build: impl FnOnce() -> Result<DynamicObject, NoDecision>,
) -> Result<Child<'a>, NoDecision> {
    let Some(object) = cx.snapshot.object(kind, name)? else {
        draft.create(kind, build()?);
        return Ok(Child::Pending);
    };
    if !is_owned_by(object, &cx.owner.uid) {
        return Ok(Child::Taken(Obstacle {
            succeeded: None,
            reason: reason::NAME_TAKEN,
            message: format!(
                "{} `{name}` exists and is not ours: delete or rename it, or create this object under another name",
                kind.name()
            ),
        }));
    }
    Ok(if is_leaving(object) { Child::Pending } else { Child::There(object) })
}

/// Whether `object`'s controller is the object of this UID.
pub fn is_owned_by(object: &DynamicObject, uid: &str) -> bool {
    object.metadata.owner_references.iter().flatten().any(|r| r.controller == Some(true) && r.uid == uid)
}
