//! Time and UIDs of a state folder.
//!
//! An object of ours gets a UID that follows from its kind, namespace and name, so that two runs of one manifest in two
//! folders leave the same keys and so the same digests. Where artifacts of such a UID lie in the store already, an object
//! of that name was deleted before, and the new one gets a random UID.

use std::path::PathBuf;

use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_manifest::Digest;
use sealign_plan::names;
use sealign_reconcile::port::Kind;

use crate::memory::{Machine, Sources};

/// The sources of an engine.
#[derive(Clone, Debug)]
pub struct Workplace {
    store: PathBuf,
}

impl Workplace {
    /// The sources of a state folder whose store is `store`.
    pub fn new(store: PathBuf) -> Self {
        Self { store }
    }
}

impl Sources for Workplace {
    fn now(&self) -> Timestamp {
        Machine.now()
    }

    fn uid(&self) -> String {
        Machine.uid()
    }

    fn object_uid(&self, kind: Kind, object: &DynamicObject) -> String {
        if kind == Kind::Job {
            return self.uid();
        }
        let uid = named_uid(kind, object);
        let mut born = object.clone();
        born.metadata.uid = Some(uid.clone());
        let artifacts = self.store.join(names::keys(kind, &born).prefix());
        if artifacts.exists() { self.uid() } else { uid }
    }
}

/// A UUID (version 8: our own form) made of the digest of an object's name.
fn named_uid(kind: Kind, object: &DynamicObject) -> String {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let digest = Digest::of_bytes(format!("{}/{namespace}/{name}", kind.name()).as_bytes());
    let part = |from: usize, to: usize| digest.as_str().get(from..to).unwrap_or_default();
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet", "metadata": { "name": name, "namespace": "demo" },
        }))
        .unwrap()
    }

    #[test]
    fn the_same_name_gets_the_same_uid_in_every_fresh_folder() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let uid = |folder: &tempfile::TempDir, name: &str| {
            Workplace::new(folder.path().to_owned()).object_uid(Kind::TaskSet, &object(name))
        };
        assert_eq!(uid(&one, "a"), uid(&two, "a"));
        assert_ne!(uid(&one, "a"), uid(&one, "b"));
        assert_eq!(uid(&one, "a").len(), 36);
    }

    #[test]
    fn an_object_that_comes_back_gets_another_uid_than_its_predecessor() {
        let folder = tempfile::tempdir().unwrap();
        let workplace = Workplace::new(folder.path().to_owned());
        let first = workplace.object_uid(Kind::TaskSet, &object("a"));
        let prefix = format!("demo/tasksets/a-{}", first.get(..8).unwrap());
        std::fs::create_dir_all(folder.path().join(prefix)).unwrap();
        assert_ne!(workplace.object_uid(Kind::TaskSet, &object("a")), first);
    }
}
