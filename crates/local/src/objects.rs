//! What the cluster holds and how it changes: the API server's rules for objects, as a value without locks or files.
//!
//! Every operation is split in two: it first computes a [`Change`] from what is there, and [`Objects::commit`] applies it.
//! Between the two the owner may write the change to disk, so that nobody ever sees an object that a crash would take back.
//!
//! What is modelled: UIDs, versions that conflict, generations that count specs, status as a part of its own, labels,
//! owner references with background collection, finalizers with a deletion timestamp. What is not: field managers, patches
//! other than those of the port, quotas and namespaces as objects.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DynamicObject;
use sealign_reconcile::port::{ClusterError, Kind};
use serde_json::{Map, Value};

use crate::naming;

/// Longest list of finalizers, labels or annotations that an object may carry; far above what anything here sets.
const METADATA_ENTRIES_MAX: usize = 64;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of `name`.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// What an operation would do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Nothing: the object is as it was asked to be.
    Nothing,
    /// The object is there in this form.
    Put(ObjectKey, Box<DynamicObject>),
    /// The object is gone.
    Remove(ObjectKey),
}

/// UID and time of an object that is about to be created.
#[derive(Clone, Debug)]
pub struct Birth {
    /// UID, never used before.
    pub uid: String,
    /// The time.
    pub now: Timestamp,
}

/// All objects of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    objects: BTreeMap<ObjectKey, DynamicObject>,
    /// The last version that was given out; every change takes the next.
    version: u64,
}

impl Objects {
    /// The objects of a snapshot or a state folder.
    pub fn restore(objects: impl IntoIterator<Item = (ObjectKey, DynamicObject)>) -> Self {
        let objects: BTreeMap<_, _> = objects.into_iter().collect();
        let version = objects.values().filter_map(version_of).max().unwrap_or(0);
        Self { objects, version }
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&DynamicObject> {
        self.objects.get(key)
    }

    /// The last version that was given out.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every object, sorted by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &DynamicObject)> {
        self.objects.iter()
    }

    /// Objects of `kind` that carry every one of `labels`, sorted by namespace and name.
    pub fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Vec<DynamicObject> {
        let carries = |object: &DynamicObject| {
            let own = object.metadata.labels.as_ref();
            labels.iter().all(|(name, value)| own.and_then(|own| own.get(name)) == Some(value))
        };
        self.objects
            .iter()
            .filter(|(key, _)| key.kind == kind && namespace.is_none_or(|wanted| wanted == key.namespace))
            .filter(|(_, object)| carries(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Applies a change that this value computed.
    pub fn commit(&mut self, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Put(key, object) => {
                self.version = self.version.max(version_of(&object).unwrap_or(0));
                self.objects.insert(key, *object);
            }
            Change::Remove(key) => {
                self.version += 1;
                self.objects.remove(&key);
            }
        }
    }

    /// A new object. A status that came with it is left out, as the API server does.
    ///
    /// # Errors
    /// `Invalid` for metadata that an API server refuses, `AlreadyExists` when the name is taken.
    pub fn create(&self, kind: Kind, object: &DynamicObject, birth: Birth) -> Result<Change, ClusterError> {
        let key = key_of(kind, object)?;
        naming::check(object).map_err(ClusterError::Invalid)?;
        if self.objects.contains_key(&key) {
            return Err(ClusterError::AlreadyExists(key.to_string()));
        }
        let mut created = object.clone();
        created.types = Some(kube::core::TypeMeta {
            api_version: kind.api_version().to_owned(),
            kind: kind.name().to_owned(),
        });
        if let Value::Object(data) = &mut created.data {
            data.remove("status");
        }
        let meta = &mut created.metadata;
        meta.uid = Some(birth.uid);
        meta.generation = Some(1);
        meta.creation_timestamp = Some(Time(birth.now));
        meta.deletion_timestamp = None;
        Ok(self.put(key, created))
    }

    /// The status of an object replaced, if its version is still `version`.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when the object changed.
    pub fn patch_status(
        &self,
        key: &ObjectKey,
        version: &str,
        status: &Value,
    ) -> Result<Change, ClusterError> {
        let object = self.found(key)?;
        if object.metadata.resource_version.as_deref() != Some(version) {
            return Err(ClusterError::Conflict(key.to_string()));
        }
        self.set_status(key, status)
    }

    /// The status of an object replaced, whatever its version: for the one writer that owns it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<Change, ClusterError> {
        let object = self.found(key)?;
        if object.data.get("status") == Some(status) {
            return Ok(Change::Nothing);
        }
        let mut changed = object.clone();
        let mut data = members(&changed.data);
        data.insert("status".to_owned(), status.clone());
        changed.data = Value::Object(data);
        Ok(self.put(key.clone(), changed))
    }

    /// Labels and annotations merged into an object; null removes one, as in a JSON merge patch.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for anything but labels and annotations with text values.
    pub fn patch_metadata(&self, key: &ObjectKey, metadata: &Value) -> Result<Change, ClusterError> {
        let object = self.found(key)?;
        let mut changed = object.clone();
        for (field, entries) in metadata.as_object().into_iter().flatten() {
            let target = match field.as_str() {
                "labels" => &mut changed.metadata.labels,
                "annotations" => &mut changed.metadata.annotations,
                _ => {
                    let problem = format!("metadata.{field}: only labels and annotations can be patched");
                    return Err(ClusterError::Invalid(problem));
                }
            };
            merge_texts(target.get_or_insert_default(), field, entries)?;
        }
        naming::check(&changed).map_err(ClusterError::Invalid)?;
        Ok(if changed == *object { Change::Nothing } else { self.put(key.clone(), changed) })
    }

    /// The spec, labels and annotations of an object replaced; the generation counts changes of the spec.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub fn update(&self, key: &ObjectKey, wanted: &DynamicObject) -> Result<Change, ClusterError> {
        let object = self.found(key)?;
        naming::check(wanted).map_err(ClusterError::Invalid)?;
        let mut changed = object.clone();
        let spec = wanted.data.get("spec").cloned().unwrap_or(Value::Null);
        if object.data.get("spec") != Some(&spec) {
            let mut data = members(&changed.data);
            data.insert("spec".to_owned(), spec);
            changed.data = Value::Object(data);
            changed.metadata.generation = Some(object.metadata.generation.unwrap_or(0) + 1);
        }
        if wanted.metadata.labels.is_some() {
            changed.metadata.labels.clone_from(&wanted.metadata.labels);
        }
        if wanted.metadata.annotations.is_some() {
            changed.metadata.annotations.clone_from(&wanted.metadata.annotations);
        }
        Ok(if changed == *object { Change::Nothing } else { self.put(key.clone(), changed) })
    }

    /// An object deleted, if it still has this UID; with finalizers it only gets its deletion timestamp. What it owns stays
    /// until [`orphan`](Self::orphan) finds it.
    pub fn delete(&self, key: &ObjectKey, uid: &str, now: Timestamp) -> Change {
        let Some(object) = self.objects.get(key) else { return Change::Nothing };
        if object.metadata.uid.as_deref() != Some(uid) {
            return Change::Nothing;
        }
        let is_held = object.metadata.finalizers.as_ref().is_some_and(|held| !held.is_empty());
        if !is_held {
            return Change::Remove(key.clone());
        }
        if object.metadata.deletion_timestamp.is_some() {
            return Change::Nothing;
        }
        let mut changed = object.clone();
        changed.metadata.deletion_timestamp = Some(Time(now));
        self.put(key.clone(), changed)
    }

    /// A finalizer taken off; the last one of an object that is being deleted removes it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn release(&self, key: &ObjectKey, finalizer: &str) -> Result<Change, ClusterError> {
        let mut changed = self.found(key)?.clone();
        let left: Vec<String> = changed
            .metadata
            .finalizers
            .take()
            .unwrap_or_default()
            .into_iter()
            .filter(|one| one != finalizer)
            .collect();
        if left.is_empty() && changed.metadata.deletion_timestamp.is_some() {
            return Ok(Change::Remove(key.clone()));
        }
        changed.metadata.finalizers = Some(left);
        Ok(self.put(key.clone(), changed))
    }

    /// An object all of whose owners are gone, first in order of keys: what background collection deletes next.
    pub fn orphan(&self) -> Option<(ObjectKey, String)> {
        let living: BTreeSet<&str> =
            self.objects.values().filter_map(|object| object.metadata.uid.as_deref()).collect();
        self.objects.iter().find_map(|(key, object)| {
            let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
            let is_orphan = !owners.is_empty()
                && object.metadata.deletion_timestamp.is_none()
                && owners.iter().all(|owner| !living.contains(owner.uid.as_str()));
            is_orphan.then(|| (key.clone(), object.metadata.uid.clone().unwrap_or_default()))
        })
    }

    fn found(&self, key: &ObjectKey) -> Result<&DynamicObject, ClusterError> {
        self.objects.get(key).ok_or_else(|| ClusterError::NotFound(key.to_string()))
    }

    fn put(&self, key: ObjectKey, mut object: DynamicObject) -> Change {
        object.metadata.resource_version = Some((self.version + 1).to_string());
        Change::Put(key, Box::new(object))
    }
}

/// The key under which `object` lies.
///
/// # Errors
/// `Invalid` when it has no name, no namespace, or says that it is of another kind.
pub fn key_of(kind: Kind, object: &DynamicObject) -> Result<ObjectKey, ClusterError> {
    let invalid = |problem: &str| Err(ClusterError::Invalid(problem.to_owned()));
    let Some(name) = &object.metadata.name else { return invalid("metadata.name: is missing; give a name") };
    let Some(namespace) = &object.metadata.namespace else {
        return invalid("metadata.namespace: is missing; every object here lives in a namespace");
    };
    match &object.types {
        Some(types) if types.kind != kind.name() || types.api_version != kind.api_version() => {
            Err(ClusterError::Invalid(format!(
                "kind: {} {} was given where {} {} is expected",
                types.api_version,
                types.kind,
                kind.api_version(),
                kind.name()
            )))
        }
        _ => Ok(ObjectKey::new(kind, namespace, name)),
    }
}

fn merge_texts(
    target: &mut BTreeMap<String, String>,
    field: &str,
    entries: &Value,
) -> Result<(), ClusterError> {
    for (name, value) in entries.as_object().into_iter().flatten() {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::String(text) => {
                target.insert(name.clone(), text.clone());
            }
            _ => return Err(ClusterError::Invalid(format!("metadata.{field}.{name}: must be a text"))),
        }
    }
    if target.len() > METADATA_ENTRIES_MAX {
        let problem = format!("metadata.{field}: at most {METADATA_ENTRIES_MAX} entries");
        return Err(ClusterError::Invalid(problem));
    }
    Ok(())
}

fn members(data: &Value) -> Map<String, Value> {
    data.as_object().cloned().unwrap_or_default()
}

fn version_of(object: &DynamicObject) -> Option<u64> {
    object.metadata.resource_version.as_deref()?.parse().ok()
}
