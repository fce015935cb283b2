//! The in-memory cluster of `sealign-local`, held so that a fork costs nothing: objects are shared until they change, and
//! each knows its own digest. The rules are those of [`Objects`], applied to one object at a time.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use kube::core::DynamicObject;
use sealign_local::memory::Sources;
use sealign_local::objects::{Birth, Change, ObjectKey, Objects, key_of};
use sealign_reconcile::port::{Cluster, ClusterError, Kind};
use serde_json::Value;

/// Fields of a status that only tell people when something happened, or in which words: the future does not hang on them.
const TOLD: [&str; 6] =
    ["startTime", "completionTime", "lastTransitionTime", "attemptsPerMinute", "etaSeconds", "message"];

struct Entry {
    object: DynamicObject,
    digest: u64,
}

/// Everything that a cluster holds, shared.
#[derive(Clone, Default)]
pub struct Snapshot {
    entries: Arc<BTreeMap<ObjectKey, Arc<Entry>>>,
    version: u64,
    /// Sum of the entries' digests.
    digest: u64,
}

impl Snapshot {
    pub fn get(&self, key: &ObjectKey) -> Option<&DynamicObject> {
        self.entries.get(key).map(|entry| &entry.object)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &DynamicObject)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.object))
    }

    pub fn list(
        &self,
        kind: Kind,
        ns: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Vec<DynamicObject> {
        let carries = |object: &DynamicObject| {
            let own = object.metadata.labels.as_ref();
            labels.iter().all(|(name, value)| own.and_then(|own| own.get(name)) == Some(value))
        };
        self.iter()
            .filter(|(key, _)| key.kind == kind && ns.is_none_or(|wanted| wanted == key.namespace))
            .filter(|(_, object)| carries(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Equal for equal objects, whatever their versions and times.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn put(&mut self, key: ObjectKey, object: DynamicObject) {
        let digest = digest(&key, &object);
        let before = Arc::make_mut(&mut self.entries).insert(key, Arc::new(Entry { object, digest }));
        let before = before.map_or(0, |entry| entry.digest);
        self.digest = self.digest.wrapping_add(digest).wrapping_sub(before);
    }

    fn remove(&mut self, key: &ObjectKey) {
        let before = Arc::make_mut(&mut self.entries).remove(key);
        self.digest = self.digest.wrapping_sub(before.map_or(0, |entry| entry.digest));
    }
}

/// Of Jobs only that they are there: what runs in them is the world's, which has a digest of its own.
fn digest(key: &ObjectKey, object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    object.metadata.deletion_timestamp.is_some().hash(&mut hasher);
    if key.kind != Kind::Job {
        hash_data(&object.data, &mut hasher);
    }
    hasher.finish()
}

fn hash_data(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !TOLD.contains(&name.as_str())) {
                name.hash(hasher);
                hash_data(value, hasher);
            }
        }
        Value::Array(items) => {
            items.len().hash(hasher);
            for item in items {
                hash_data(item, hasher);
            }
        }
        Value::String(text) => text.hash(hasher),
        other => other.to_string().hash(hasher),
    }
}

/// A cluster that was forked from a snapshot.
pub struct SimCluster {
    held: Mutex<Snapshot>,
    sources: Arc<dyn Sources>,
}

impl SimCluster {
    pub fn of(snapshot: Snapshot, sources: Arc<dyn Sources>) -> Self {
        Self { held: Mutex::new(snapshot), sources }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    /// Changes an object's spec, as a user would.
    pub fn update(&self, kind: Kind, object: &DynamicObject) {
        let key = key_of(kind, object).unwrap();
        self.change(&key, |one| one.update(&key, object)).unwrap();
    }

    /// What the Job controller says of a Job.
    pub fn set_job_status(&self, key: &ObjectKey, status: &Value) {
        self.change(key, |one| one.set_status(key, status)).unwrap();
    }

    /// Deletes what has no owner left, and what that owned.
    pub fn collect_garbage(&self) {
        let all = Objects::restore(self.lock().iter().map(|(key, object)| (key.clone(), object.clone())));
        let Some((key, uid)) = all.orphan() else { return };
        self.change(&key, |one| Ok(one.delete(&key, &uid, self.sources.now()))).unwrap();
        self.collect_garbage();
    }

    /// Carries out what the rules make of an operation on one object; returns the object as it is then.
    fn change(
        &self,
        key: &ObjectKey,
        rule: impl FnOnce(&Objects) -> Result<Change, ClusterError>,
    ) -> Result<Option<DynamicObject>, ClusterError> {
        let mut held = self.lock();
        let one = Objects::restore(held.get(key).map(|object| (key.clone(), object.clone())));
        match rule(&one)? {
            Change::Nothing => {}
            Change::Put(key, mut object) => {
                held.version += 1;
                object.metadata.resource_version = Some(held.version.to_string());
                held.put(key, *object);
            }
            Change::Remove(key) => held.remove(&key),
        }
        Ok(held.get(key).cloned())
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.held.lock().unwrap()
    }
}

fn found(key: &ObjectKey, object: Option<DynamicObject>) -> Result<DynamicObject, ClusterError> {
    object.ok_or_else(|| ClusterError::NotFound(key.to_string()))
}

#[async_trait]
impl Cluster for SimCluster {
    async fn get(&self, kind: Kind, ns: &str, name: &str) -> Result<Option<DynamicObject>, ClusterError> {
        Ok(self.lock().get(&ObjectKey::new(kind, ns, name)).cloned())
    }

    async fn list(
        &self,
        kind: Kind,
        ns: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<DynamicObject>, ClusterError> {
        Ok(self.lock().list(kind, ns, labels))
    }

    async fn create(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, ClusterError> {
        let birth = Birth { uid: self.sources.object_uid(kind, object), now: self.sources.now() };
        let key = key_of(kind, object)?;
        found(&key, self.change(&key, |one| one.create(kind, object, birth))?)
    }

    async fn patch_status(
        &self,
        kind: Kind,
        ns: &str,
        name: &str,
        version: &str,
        status: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        let key = ObjectKey::new(kind, ns, name);
        found(&key, self.change(&key, |one| one.patch_status(&key, version, status))?)
    }

    async fn patch_metadata(
        &self,
        kind: Kind,
        ns: &str,
        name: &str,
        metadata: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        let key = ObjectKey::new(kind, ns, name);
        found(&key, self.change(&key, |one| one.patch_metadata(&key, metadata))?)
    }

    async fn delete(&self, kind: Kind, ns: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        let key = ObjectKey::new(kind, ns, name);
        self.change(&key, |one| Ok(one.delete(&key, uid, self.sources.now()))).map(|_| ())
    }

    async fn changed(&self, _: Duration) {
        // Nobody waits here: the harness decides when to look.
    }
}
