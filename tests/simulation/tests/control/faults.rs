//! Both ports, with one call of one of them going wrong as planned.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kube::core::DynamicObject;
use sealign_local::objects::ObjectKey;
use sealign_reconcile::port::{Cluster, ClusterError, Kind};
use sealign_storage::faulty::CRASHED;
use sealign_storage::{ArtifactStore, CreateOutcome, StoreError};
use serde_json::Value;

use super::cluster::Snapshot;

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CrashBefore,
    CrashAfter,
    Forbidden,
    Conflict,
    Invalid,
    TooManyRequests,
    ServerError,
    Unavailable,
    TimeoutUnapplied,
    TimeoutApplied,
    ResetApplied,
    Hang,
    /// Reads of the cluster answer with what was true some ticks ago.
    Stale,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Forbidden,
        Self::Conflict,
        Self::Invalid,
        Self::TooManyRequests,
        Self::ServerError,
        Self::Unavailable,
        Self::TimeoutUnapplied,
        Self::TimeoutApplied,
        Self::ResetApplied,
        Self::Hang,
        Self::Stale,
    ];

    pub fn crashes(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter)
    }

    fn applies(self) -> bool {
        matches!(self, Self::CrashAfter | Self::TimeoutApplied | Self::ResetApplied)
    }

    fn cluster_error(self) -> ClusterError {
        let text = format!("{self:?}");
        match self {
            Self::Forbidden => ClusterError::Forbidden(text),
            Self::Conflict => ClusterError::Conflict(text),
            Self::Invalid => ClusterError::Invalid(text),
            _ => ClusterError::Unavailable(text),
        }
    }

    fn store_error(self, key: &str) -> StoreError {
        let key = key.to_owned();
        match self {
            Self::CrashBefore | Self::CrashAfter => {
                StoreError::Injected { operation: "call", key, fault: CRASHED }
            }
            Self::Forbidden => StoreError::Denied { operation: "call", key, source: "denied".into() },
            _ => StoreError::Unavailable { operation: "call", key, source: "injected".into() },
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |fault: &Self| format!("{fault:?}") == text;
        Self::ALL.into_iter().find(named).ok_or_else(|| format!("`{text}` is no fault"))
    }
}

#[derive(Debug, Default)]
struct State {
    planned: BTreeMap<usize, Fault>,
    calls: usize,
    /// Ordinals of calls that write.
    writes: Vec<usize>,
    is_crashed: bool,
    has_struck: bool,
    /// A digest of every answer so far.
    view: u64,
}

/// What is planned and what has been called, shared by both ports.
#[derive(Debug, Default)]
pub struct Plan(Mutex<State>);

enum Now {
    Go,
    Fail(Fault),
    Dead,
}

impl Plan {
    pub fn of(call: usize, fault: Fault) -> Self {
        Self::of_many([(call, fault)])
    }

    /// Several faults, each at its call.
    pub fn of_many(planned: impl IntoIterator<Item = (usize, Fault)>) -> Self {
        Self(Mutex::new(State { planned: planned.into_iter().collect(), ..State::default() }))
    }

    pub fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    pub fn writes(&self) -> Vec<usize> {
        self.0.lock().unwrap().writes.clone()
    }

    pub fn has_struck(&self) -> bool {
        self.0.lock().unwrap().has_struck
    }

    pub fn is_crashed(&self) -> bool {
        self.0.lock().unwrap().is_crashed
    }

    /// Equal for two runs that asked the same and were answered the same.
    pub fn view(&self) -> u64 {
        self.0.lock().unwrap().view
    }

    fn saw(&self, answer: impl Hash) {
        let mut state = self.0.lock().unwrap();
        let mut hasher = DefaultHasher::new();
        (state.view, answer).hash(&mut hasher);
        state.view = hasher.finish();
    }

    /// The next process.
    pub fn restart(&self) {
        self.0.lock().unwrap().is_crashed = false;
    }

    fn next(&self, is_write: bool) -> Now {
        let mut state = self.0.lock().unwrap();
        if state.is_crashed {
            return Now::Dead;
        }
        let call = state.calls;
        state.calls += 1;
        if is_write {
            state.writes.push(call);
        }
        match state.planned.get(&call).copied() {
            Some(fault) => {
                state.has_struck = true;
                state.is_crashed = fault.crashes();
                Now::Fail(fault)
            }
            None => Now::Go,
        }
    }
}

pub struct FaultyCluster {
    pub inner: Arc<dyn Cluster>,
    pub plan: Arc<Plan>,
    /// What stale reads answer.
    pub past: Snapshot,
}

fn dead() -> ClusterError {
    // The simulated process is dead: nothing it does after this counts.
    ClusterError::Unavailable(CRASHED.into())
}

/// What tells one state of an object from another.
fn identity(object: &DynamicObject) -> (Option<String>, Option<String>) {
    (object.metadata.uid.clone(), object.metadata.resource_version.clone())
}

impl FaultyCluster {
    async fn run<T>(
        &self,
        is_write: bool,
        call: impl Future<Output = Result<T, ClusterError>> + Send,
        stale: impl FnOnce(&Snapshot) -> Option<T>,
    ) -> Result<T, ClusterError> {
        match self.plan.next(is_write) {
            Now::Dead => Err(dead()),
            Now::Go => call.await,
            Now::Fail(Fault::Stale) => match stale(&self.past) {
                Some(answer) => Ok(answer),
                None => call.await,
            },
            Now::Fail(fault) => {
                if fault.applies() {
                    let _ = call.await;
                }
                Err(fault.cluster_error())
            }
        }
    }
}

#[async_trait]
impl Cluster for FaultyCluster {
    async fn get(&self, kind: Kind, ns: &str, name: &str) -> Result<Option<DynamicObject>, ClusterError> {
        let stale = |past: &Snapshot| Some(past.get(&ObjectKey::new(kind, ns, name)).cloned());
        let found = self.run(false, self.inner.get(kind, ns, name), stale).await;
        self.plan.saw((kind, name, found.as_ref().ok().map(|object| object.as_ref().map(identity))));
        found
    }

    async fn list(
        &self,
        kind: Kind,
        ns: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<DynamicObject>, ClusterError> {
        let stale = |past: &Snapshot| Some(past.list(kind, ns, labels));
        let found = self.run(false, self.inner.list(kind, ns, labels), stale).await;
        let listed = found.as_ref().ok().map(|objects| objects.iter().map(identity).collect::<Vec<_>>());
        self.plan.saw((kind, labels, listed));
        found
    }

    async fn create(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, ClusterError> {
        self.run(true, self.inner.create(kind, object), |_| None).await
    }

    async fn patch_status(
        &self,
        kind: Kind,
        ns: &str,
        name: &str,
        version: &str,
        status: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        self.run(true, self.inner.patch_status(kind, ns, name, version, status), |_| None).await
    }

    async fn patch_metadata(
        &self,
        kind: Kind,
        ns: &str,
        name: &str,
        metadata: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        self.run(true, self.inner.patch_metadata(kind, ns, name, metadata), |_| None).await
    }

    async fn delete(&self, kind: Kind, ns: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        self.run(true, self.inner.delete(kind, ns, name, uid), |_| None).await
    }

    async fn changed(&self, limit: Duration) {
        self.inner.changed(limit).await;
    }
}

pub struct FaultyStore {
    pub inner: Arc<dyn ArtifactStore>,
    pub plan: Arc<Plan>,
}

impl FaultyStore {
    async fn run<T>(
        &self,
        is_write: bool,
        key: &str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.plan.next(is_write) {
            Now::Dead => Err(Fault::CrashBefore.store_error(key)),
            // The store is strongly consistent: it has no past to answer with.
            Now::Go | Now::Fail(Fault::Stale) => call.await,
            Now::Fail(fault) => {
                if fault.applies() {
                    let _ = call.await;
                }
                Err(fault.store_error(key))
            }
        }
    }
}

#[async_trait]
impl ArtifactStore for FaultyStore {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let found = self.run(false, key, self.inner.get_bounded(key, bytes_max)).await;
        self.plan.saw((key, found.as_ref().ok()));
        found
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        self.run(true, key, self.inner.create(key, bytes)).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.run(true, key, self.inner.overwrite(key, bytes)).await
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let found = self.run(false, key, self.inner.exists(key)).await;
        self.plan.saw((key, found.as_ref().ok()));
        found
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let found = self.run(false, prefix, self.inner.list_names(prefix)).await;
        self.plan.saw((prefix, found.as_ref().ok()));
        found
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        self.run(true, prefix, self.inner.delete_prefix(prefix)).await
    }
}
