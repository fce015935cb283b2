//! The object that a decision is about, as its children see it.

use kube::core::DynamicObject;
use sealign_crds::ObjectRef;
use sealign_manifest::ObjectKeys;
use serde_json::{Value, json};

use crate::{Kind, names};

/// The object that a decision is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// Keys of its artifacts.
    pub keys: ObjectKeys,
}

impl Owner {
    /// Reads the identity of an object.
    pub fn of(kind: Kind, object: &DynamicObject) -> Self {
        let metadata = &object.metadata;
        Self {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation,
            keys: names::keys(kind, object),
        }
    }

    /// As workers and lineage name it.
    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.name().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// The owner reference of its children: they go when it goes.
    pub fn reference(&self) -> Value {
        json!({
            "apiVersion": self.kind.api_version(),
            "kind": self.kind.name(),
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }
}
