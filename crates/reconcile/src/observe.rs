//! Look: answers what a decision asks, from the cluster and the store, until it can be made.
//!
//! Create-only documents never change, so those that were read once are remembered, within a bound; a campaign of many
//! thousand closed groups is looked at with a few reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_plan::{Answer, Installation, NoDecision, Query, Snapshot, Step, Unread, labels};

use crate::error::ReconcileError;
use crate::port::{Artifacts, Cluster};

/// Reads in flight for one decision.
const READS_AT_ONCE: usize = 16;
/// Largest document that a decision reads: the plan of a million attempts has under 3 MiB.
const DOCUMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Times that one decision may ask. Each asks about 64 groups at least, so this reaches a plan of a million attempts.
const ASKED_MAX: usize = 2_000;
/// Bytes of documents that are remembered.
const REMEMBERED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Keys that are remembered to exist, about 100 bytes each.
const REMEMBERED_KEYS_MAX: usize = 200_000;

/// Documents that were read and cannot change.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Remembered>);

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.lock().clone()))
    }
}

#[derive(Clone, Debug, Default)]
struct Remembered {
    documents: BTreeMap<String, Bytes>,
    bytes: usize,
    keys: BTreeSet<String>,
}

impl Memory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        // Nothing in here can be half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn document(&self, key: &str) -> Option<Bytes> {
        self.lock().documents.get(key).cloned()
    }

    fn exists(&self, key: &str) -> bool {
        let memory = self.lock();
        memory.keys.contains(key) || memory.documents.contains_key(key)
    }

    fn keep_document(&self, key: &str, bytes: &Bytes) {
        if !is_create_only(key) {
            return;
        }
        let mut memory = self.lock();
        if memory.bytes.saturating_add(bytes.len()) > REMEMBERED_BYTES_MAX {
            memory.documents.clear();
            memory.bytes = 0;
        }
        memory.bytes = memory.bytes.saturating_add(bytes.len());
        memory.documents.insert(key.to_owned(), bytes.clone());
    }

    fn keep_key(&self, key: &str) {
        let mut memory = self.lock();
        if memory.keys.len() >= REMEMBERED_KEYS_MAX {
            memory.keys.clear();
        }
        memory.keys.insert(key.to_owned());
    }
}

/// Progress is the one thing that is overwritten.
fn is_create_only(key: &str) -> bool {
    !key.ends_with("/progress.json")
}

/// Where a decision's questions go.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The cluster.
    pub cluster: &'a dyn Cluster,
    /// The store.
    pub artifacts: &'a dyn Artifacts,
    /// What was read before.
    pub memory: &'a Memory,
}

impl World<'_> {
    /// Asks the plan about `snapshot`, answering its questions, until it decides.
    pub async fn decide(
        &self,
        snapshot: &mut Snapshot,
        installation: &Installation,
        now: Timestamp,
    ) -> Result<Step, ReconcileError> {
        for _ in 0..ASKED_MAX {
            match sealign_plan::step(snapshot, installation, now) {
                Ok(step) => return Ok(step),
                Err(NoDecision::Unread(Unread(queries))) => self.answer(snapshot, queries).await?,
                Err(other) => return Err(ReconcileError::Decide(other)),
            }
        }
        Err(ReconcileError::Endless(ASKED_MAX))
    }

    async fn answer(&self, snapshot: &mut Snapshot, queries: Vec<Query>) -> Result<(), ReconcileError> {
        let namespace = snapshot.object.metadata.namespace.clone().unwrap_or_default();
        let uid = snapshot.object.metadata.uid.clone().unwrap_or_default();
        let answered: Vec<Result<(Query, Answer), ReconcileError>> = stream::iter(queries)
            .map(|query| {
                let (namespace, uid) = (namespace.as_str(), uid.as_str());
                async move {
                    let answer = self.ask(&query, namespace, uid).await?;
                    Ok((query, answer))
                }
            })
            .buffered(READS_AT_ONCE)
            .collect()
            .await;
        for answer in answered {
            let (query, answer) = answer?;
            snapshot.insert(query, answer);
        }
        Ok(())
    }

    async fn ask(&self, query: &Query, namespace: &str, uid: &str) -> Result<Answer, ReconcileError> {
        match query {
            Query::Object(kind, name) => {
                let found = self.cluster.get(*kind, namespace, name).await;
                found.map(|object| Answer::Object(object.map(Box::new))).map_err(ReconcileError::ReadCluster)
            }
            Query::Children(kind) => {
                let found = self.cluster.list(*kind, Some(namespace), &labels::of_owner(uid)).await;
                found.map(Answer::Children).map_err(ReconcileError::ReadCluster)
            }
            Query::Document(key) => self.document(key).await.map(Answer::Document),
            Query::Exists(key) => self.exists(key).await.map(Answer::Exists),
            Query::Names(prefix) => {
                let names = self.artifacts.list_names(prefix).await;
                names.map(Answer::Names).map_err(ReconcileError::ReadStore)
            }
        }
    }

    async fn document(&self, key: &str) -> Result<Option<Bytes>, ReconcileError> {
        if let Some(bytes) = self.memory.document(key) {
            return Ok(Some(bytes));
        }
        let found = self.artifacts.get_bounded(key, DOCUMENT_BYTES_MAX).await;
        let bytes = found.map_err(ReconcileError::ReadStore)?;
        if let Some(bytes) = &bytes {
            self.memory.keep_document(key, bytes);
        }
        Ok(bytes)
    }

    async fn exists(&self, key: &str) -> Result<bool, ReconcileError> {
        if self.memory.exists(key) {
            return Ok(true);
        }
        let exists = self.artifacts.exists(key).await.map_err(ReconcileError::ReadStore)?;
        if exists {
            self.memory.keep_key(key);
        }
        Ok(exists)
    }
}

/// The version that a status write must name.
pub fn version(object: &DynamicObject) -> &str {
    object.metadata.resource_version.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_is_remembered_and_progress_is_read_again() {
        let (memory, bytes) = (Memory::default(), Bytes::from_static(b"{}"));
        for key in ["c/plan.json", "c/progress.json"] {
            memory.keep_document(key, &bytes);
        }
        assert_eq!((memory.document("c/plan.json"), memory.exists("c/plan.json")), (Some(bytes), true));
        assert_eq!((memory.document("c/progress.json"), memory.exists("c/progress.json")), (None, false));
    }
}
