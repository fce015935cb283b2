//! The in-memory cluster: [`Objects`] behind a lock, as the `Cluster` port.
//!
//! Time and UIDs come from outside, so that a simulation repeats itself. With a [`Folder`] every change is on disk before
//! anybody sees it; without one nothing touches a file. Status of Jobs is written by the Job controller of this crate
//! through [`MemoryCluster::set_job_status`], and not synced: after a power loss the Job's pods say it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_reconcile::port::{Cluster, ClusterError, Kind};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::admission::{Admission, Refused};
use crate::folder::{Durability, Folder};
use crate::objects::{Birth, Change, ObjectKey, Objects, key_of};

/// Where time and UIDs come from.
pub trait Sources: Send + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
    /// A UID that was never given out before, in the form of a UUID.
    fn uid(&self) -> String;
    /// A UID for an object that is about to be created, never one that an object of its name had before.
    fn object_uid(&self, kind: Kind, object: &DynamicObject) -> String {
        let _ = (kind, object);
        self.uid()
    }
}

/// The machine's clock and random UIDs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Sources for Machine {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn uid(&self) -> String {
        let [a, b, c, d]: [u32; 4] = rand::random();
        let (b, c) = (b & 0xffff_0fff | 0x4000, c & 0x3fff_ffff | 0x8000_0000);
        format!("{a:08x}-{:04x}-{:04x}-{:04x}-{:04x}{d:08x}", b >> 16, b & 0xffff, c >> 16, c & 0xffff)
    }
}

/// A cluster in memory.
pub struct MemoryCluster {
    objects: Mutex<Objects>,
    sources: Arc<dyn Sources>,
    admission: Option<Arc<Admission>>,
    folder: Option<Folder>,
    collects: bool,
    changed: Notify,
    jobs: watch::Sender<u64>,
}

impl MemoryCluster {
    /// An empty cluster without files, admission or background collection: what a simulation starts from.
    pub fn new(sources: Arc<dyn Sources>) -> Self {
        Self {
            objects: Mutex::new(Objects::default()),
            sources,
            admission: None,
            folder: None,
            collects: false,
            changed: Notify::new(),
            jobs: watch::Sender::new(0),
        }
    }

    /// With schema and rules checked as an API server does.
    #[must_use]
    pub fn with_admission(mut self, admission: Arc<Admission>) -> Self {
        self.admission = Some(admission);
        self
    }

    /// With what is owned collected right after its owner's deletion, instead of by [`collect_garbage`](Self::collect_garbage).
    #[must_use]
    pub fn with_collection(mut self) -> Self {
        self.collects = true;
        self
    }

    /// With the objects of `folder`, which every change goes to from now on.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be read.
    pub fn with_folder(mut self, folder: Folder) -> Result<Self, ClusterError> {
        let loaded = folder.load().map_err(|error| ClusterError::Unavailable(error.to_string()))?;
        self.objects = Mutex::new(Objects::restore(loaded));
        self.folder = Some(folder);
        self.collect_garbage()?;
        Ok(self)
    }

    /// A copy of everything, for simulations that crash the cluster's clients.
    pub fn snapshot(&self) -> Objects {
        self.lock().clone()
    }

    /// Puts a snapshot in the place of everything.
    pub fn restore(&self, objects: Objects) {
        *self.lock() = objects;
        self.wake();
    }

    /// Makes [`Cluster::changed`] return: something outside the cluster changed (a manifest in the store).
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Counts changes of Jobs other than of their status.
    pub fn watch_jobs(&self) -> watch::Receiver<u64> {
        self.jobs.subscribe()
    }

    /// The time as the cluster's source has it.
    pub fn now(&self) -> Timestamp {
        self.sources.now()
    }

    /// A fresh UID of the cluster's source.
    pub fn fresh_uid(&self) -> String {
        self.sources.uid()
    }

    /// Creates an object, or changes its spec, labels and annotations where it exists, after admission.
    ///
    /// # Errors
    /// As `create` of the port; a frozen field that would change is `Invalid`.
    pub fn apply(&self, kind: Kind, object: &DynamicObject) -> Result<Applied, ClusterError> {
        let key = key_of(kind, object)?;
        let existing = self.lock().get(&key).cloned();
        let Some(old) = existing else {
            return self.insert(kind, object).map(Applied::Created);
        };
        let admitted = self.admit(kind, object, Some(&old))?;
        let mut objects = self.lock();
        let change = objects.update(&key, &admitted)?;
        let is_same = change == Change::Nothing;
        let after = self.commit(&mut objects, change, Durability::Synced)?.unwrap_or(old);
        Ok(if is_same { Applied::Unchanged(after) } else { Applied::Updated(after) })
    }

    /// Replaces the status of a Job. Only the Job controller writes it, so no version is compared. `wakes` says whether
    /// [`Cluster::changed`] shall return.
    ///
    /// # Errors
    /// `NotFound` when the Job is gone; `Unavailable` when the folder cannot be written.
    pub fn set_job_status(&self, key: &ObjectKey, status: &Value, wakes: bool) -> Result<(), ClusterError> {
        let mut objects = self.lock();
        let change = objects.set_status(key, status)?;
        let has_changed = change != Change::Nothing;
        self.commit_quietly(&mut objects, change, Durability::Written)?;
        drop(objects);
        if has_changed && wakes {
            self.wake();
        }
        Ok(())
    }

    /// Deletes what has no owner left, and what that owned; says how many objects.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be written.
    pub fn collect_garbage(&self) -> Result<usize, ClusterError> {
        let mut objects = self.lock();
        let mut count = 0;
        while let Some((key, uid)) = objects.orphan() {
            let change = objects.delete(&key, &uid, self.sources.now());
            if change == Change::Nothing {
                break;
            }
            self.commit(&mut objects, change, Durability::Synced)?;
            count += 1;
        }
        Ok(count)
    }

    /// Takes a finalizer off an object.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the folder cannot be written.
    pub fn release(&self, key: &ObjectKey, finalizer: &str) -> Result<(), ClusterError> {
        let mut objects = self.lock();
        let change = objects.release(key, finalizer)?;
        self.commit(&mut objects, change, Durability::Synced)?;
        drop(objects);
        if self.collects { self.collect_garbage().map(|_| ()) } else { Ok(()) }
    }

    fn insert(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, ClusterError> {
        let admitted = self.admit(kind, object, None)?;
        let birth = Birth { uid: self.sources.object_uid(kind, &admitted), now: self.sources.now() };
        let mut objects = self.lock();
        let change = objects.create(kind, &admitted, birth)?;
        let created = self.commit(&mut objects, change, Durability::Synced)?;
        created.ok_or_else(|| ClusterError::Unavailable("a create left no object".to_owned()))
    }

    fn admit(
        &self,
        kind: Kind,
        object: &DynamicObject,
        old: Option<&DynamicObject>,
    ) -> Result<DynamicObject, ClusterError> {
        let Some(admission) = self.admission.as_ref().filter(|_| kind != Kind::Job) else {
            return Ok(object.clone());
        };
        admission.admit(kind, object, old).map_err(|refused| ClusterError::Invalid(refused.to_string()))
    }

    fn commit(
        &self,
        objects: &mut Objects,
        change: Change,
        durability: Durability,
    ) -> Result<Option<DynamicObject>, ClusterError> {
        let touches_jobs =
            matches!(&change, Change::Put(key, _) | Change::Remove(key) if key.kind == Kind::Job);
        let has_changed = change != Change::Nothing;
        let after = self.commit_quietly(objects, change, durability)?;
        if touches_jobs {
            self.jobs.send_modify(|count| *count += 1);
        }
        if has_changed {
            self.wake();
        }
        Ok(after)
    }

    fn commit_quietly(
        &self,
        objects: &mut Objects,
        change: Change,
        durability: Durability,
    ) -> Result<Option<DynamicObject>, ClusterError> {
        if let Some(folder) = &self.folder {
            folder
                .write(&change, durability)
                .map_err(|error| ClusterError::Unavailable(error.to_string()))?;
        }
        let after = if let Change::Put(_, object) = &change { Some((**object).clone()) } else { None };
        objects.commit(change);
        Ok(after)
    }

    /// The lock is never held across an await, and a panic elsewhere cannot leave half a change: commits are one insert.
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`MemoryCluster::apply`] did.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// The object is new.
    Created(DynamicObject),
    /// A field that may change has changed.
    Updated(DynamicObject),
    /// The object was as wanted.
    Unchanged(DynamicObject),
}

#[async_trait]
impl Cluster for MemoryCluster {
    async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, ClusterError> {
        Ok(self.lock().get(&ObjectKey::new(kind, namespace, name)).cloned())
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<DynamicObject>, ClusterError> {
        Ok(self.lock().list(kind, namespace, labels))
    }

    async fn create(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, ClusterError> {
        self.insert(kind, object)
    }

    async fn patch_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
        status: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        let key = ObjectKey::new(kind, namespace, name);
        if let Some(admission) = &self.admission {
            let refused = |refused: Refused| ClusterError::Invalid(refused.to_string());
            admission.check_status(kind, status).map_err(refused)?;
        }
        let mut objects = self.lock();
        let change = objects.patch_status(&key, version, status)?;
        if let Some(after) = self.commit(&mut objects, change, Durability::Synced)? {
            return Ok(after);
        }
        objects.get(&key).cloned().ok_or_else(|| ClusterError::NotFound(key.to_string()))
    }

    async fn patch_metadata(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        metadata: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        let key = ObjectKey::new(kind, namespace, name);
        let mut objects = self.lock();
        let change = objects.patch_metadata(&key, metadata)?;
        if let Some(after) = self.commit(&mut objects, change, Durability::Synced)? {
            return Ok(after);
        }
        objects.get(&key).cloned().ok_or_else(|| ClusterError::NotFound(key.to_string()))
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        let key = ObjectKey::new(kind, namespace, name);
        let mut objects = self.lock();
        let change = objects.delete(&key, uid, self.sources.now());
        self.commit(&mut objects, change, Durability::Synced)?;
        drop(objects);
        if self.collects { self.collect_garbage().map(|_| ()) } else { Ok(()) }
    }

    async fn changed(&self, limit: Duration) {
        // One permit is kept, so a change between an observation and this call is not missed; one loop waits here.
        let _ = tokio::time::timeout(limit, self.changed.notified()).await;
    }
}
