//! A decorator that fails on purpose, for the simulation of runner and operator. Deterministic: which call fails and how
//! is given, nothing is drawn.
//!
//! A crash means that the simulated process dies at that call: the call and every later one fail with an error whose
//! [`is_crash`](StoreError::is_crash) is true, until [`FaultyStore::restart`] stands for the next process.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::artifact::{ArtifactStore, CreateOutcome};
use crate::error::StoreError;

/// Text of the fault in errors that end the simulated process.
pub const CRASHED: &str = "crashed";

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process dies before the call takes effect.
    CrashBefore,
    /// The process dies after the call took effect.
    CrashAfterApply,
    /// The call takes effect and its answer is lost.
    TimeoutApplied,
    /// The call takes no effect and its answer does not come.
    TimeoutUnapplied,
    /// The store refuses for now.
    Error,
}

impl Fault {
    /// Every fault, in a fixed order, for exhaustive simulations.
    pub const ALL: [Self; 5] =
        [Self::CrashBefore, Self::CrashAfterApply, Self::TimeoutApplied, Self::TimeoutUnapplied, Self::Error];

    fn applies(self) -> bool {
        matches!(self, Self::CrashAfterApply | Self::TimeoutApplied)
    }

    fn crashes(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfterApply)
    }

    fn name(self) -> &'static str {
        match self {
            Self::CrashBefore | Self::CrashAfterApply => CRASHED,
            Self::TimeoutApplied => "timed out, applied",
            Self::TimeoutUnapplied => "timed out, not applied",
            Self::Error => "refused",
        }
    }
}

/// One of the primitives of [`ArtifactStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// [`ArtifactStore::get_bounded`].
    Get,
    /// [`ArtifactStore::create`].
    Create,
    /// [`ArtifactStore::overwrite`].
    Overwrite,
    /// [`ArtifactStore::exists`].
    Exists,
    /// [`ArtifactStore::list_names`].
    List,
    /// [`ArtifactStore::delete_prefix`].
    Delete,
}

impl Operation {
    /// Whether the operation changes the store.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Overwrite | Self::Delete)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "read",
            Self::Create => "create",
            Self::Overwrite => "write",
            Self::Exists => "look up",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// A fault and the call that it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlannedFault {
    /// Ordinal of the call, from 0: among the calls of `operation` where that is given, else among all calls.
    pub call: u64,
    /// The kind of call that is counted.
    pub operation: Option<Operation>,
    /// What goes wrong.
    pub fault: Fault,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which primitive.
    pub operation: Operation,
    /// Its key or prefix.
    pub key: String,
}

/// A store whose calls fail as planned.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Vec<PlannedFault>,
    calls: Vec<Call>,
    is_crashed: bool,
}

impl<S> FaultyStore<S> {
    /// Wraps `inner`; an empty plan never fails.
    pub fn new(inner: S, plan: Vec<PlannedFault>) -> Self {
        Self { inner, state: Mutex::new(State { plan, ..State::default() }) }
    }

    /// The wrapped store, which never fails: for oracles.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The calls so far, failed ones included, those after a crash excluded.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Whether the simulated process is dead.
    pub fn is_crashed(&self) -> bool {
        self.lock().is_crashed
    }

    /// Stands for the next process: calls work again. Counting goes on, so a fault that has struck does not strike again.
    pub fn restart(&self) {
        self.lock().is_crashed = false;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panicking test must not hide its own message behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call and says what goes wrong with it.
    fn begin(&self, operation: Operation, key: &str) -> Result<Option<Fault>, StoreError> {
        let mut state = self.lock();
        if state.is_crashed {
            return Err(injected(operation, key, CRASHED));
        }
        let overall = state.calls.len() as u64;
        let of_kind = state.calls.iter().filter(|call| call.operation == operation).count() as u64;
        state.calls.push(Call { operation, key: key.to_owned() });
        let hit = state.plan.iter().find(|planned| match planned.operation {
            Some(wanted) => wanted == operation && planned.call == of_kind,
            None => planned.call == overall,
        });
        let fault = hit.map(|planned| planned.fault);
        state.is_crashed = fault.is_some_and(Fault::crashes);
        Ok(fault)
    }

    async fn run<T: Send>(
        &self,
        operation: Operation,
        key: &str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.begin(operation, key)? {
            None => call.await,
            Some(fault) => {
                if fault.applies() {
                    // Its own failure is lost with the answer.
                    let _ = call.await;
                }
                Err(injected(operation, key, fault.name()))
            }
        }
    }
}

fn injected(operation: Operation, key: &str, fault: &'static str) -> StoreError {
    StoreError::Injected { operation: operation.name(), key: key.to_owned(), fault }
}

#[async_trait]
impl<S: ArtifactStore> ArtifactStore for FaultyStore<S> {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.run(Operation::Get, key, self.inner.get_bounded(key, bytes_max)).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        self.run(Operation::Create, key, self.inner.create(key, bytes)).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.run(Operation::Overwrite, key, self.inner.overwrite(key, bytes)).await
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.run(Operation::Exists, key, self.inner.exists(key)).await
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.run(Operation::List, prefix, self.inner.list_names(prefix)).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        self.run(Operation::Delete, prefix, self.inner.delete_prefix(prefix)).await
    }
}
