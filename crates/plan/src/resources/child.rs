//! Custom resources that other custom resources own.

use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::json;

use super::pod::from_json;
use crate::owner::Owner;
use crate::snapshot::NoDecision;
use crate::{Kind, labels};

/// Builds a custom resource `name` that `owner` owns.
pub fn object<T: Serialize>(
    owner: &Owner,
    kind: Kind,
    name: &str,
    spec: &T,
) -> Result<DynamicObject, NoDecision> {
    from_json(json!({
        "apiVersion": kind.api_version(),
        "kind": kind.name(),
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": labels::of_owner(&owner.uid),
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }))
}
