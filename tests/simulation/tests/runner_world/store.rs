//! A store in memory, cheap to copy, and the way of one process to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sealign_storage::{ArtifactStore, CreateOutcome, StoreError};

use super::faults::{Fault, Port, Process};

/// How long a slow answer takes: longer than a sandbox waits for a sign of life.
const SLOW: Duration = Duration::from_secs(100);
/// When a write arrives whose writer died: the next runner has read everything by then.
const LATE: Duration = Duration::from_secs(20);

pub type Objects = BTreeMap<String, Bytes>;

/// A store that never fails: what oracles and the operator see.
#[derive(Debug, Default)]
pub struct MapStore {
    objects: Mutex<Arc<Objects>>,
    /// Kinds of the calls so far: whether each wrote.
    pub calls: Mutex<Vec<bool>>,
}

impl MapStore {
    pub fn of(objects: Arc<Objects>) -> Self {
        Self { objects: Mutex::new(objects), calls: Mutex::default() }
    }

    pub fn objects(&self) -> Arc<Objects> {
        self.objects.lock().unwrap().clone()
    }
}

#[async_trait]
impl ArtifactStore for MapStore {
    async fn get_bounded(&self, key: &str, _: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(self.objects.lock().unwrap().get(key).cloned())
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(key) {
            return Ok(CreateOutcome::AlreadyExists);
        }
        Arc::make_mut(&mut objects).insert(key.to_owned(), bytes);
        Ok(CreateOutcome::Created)
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        Arc::make_mut(&mut self.objects.lock().unwrap()).insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.objects.lock().unwrap().contains_key(key))
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{prefix}/");
        let objects = self.objects.lock().unwrap();
        let below = objects.range(prefix.clone()..).map(|(key, _)| key);
        Ok(below.take_while(|key| key.starts_with(&prefix)).cloned().collect())
    }

    async fn delete_prefix(&self, _: &str) -> Result<u64, StoreError> {
        panic!("a runner deletes nothing")
    }
}

/// The way of one process to the store.
pub struct Way {
    pub store: Arc<MapStore>,
    pub process: Process,
}

impl Way {
    async fn read<T>(
        &self,
        key: &str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.store.calls.lock().unwrap().push(false);
        let fault = self.process.call(Port::Store).await;
        if self.process.switch.is_away(fault == Some(Fault::Away)) || fault == Some(Fault::Lost) {
            return Err(no_answer(key));
        }
        if fault == Some(Fault::Slow) {
            tokio::time::sleep(SLOW).await;
        }
        // Others get their turn.
        tokio::task::yield_now().await;
        call.await
    }

    async fn write(&self, key: &str, bytes: Bytes, is_create: bool) -> Result<CreateOutcome, StoreError> {
        self.store.calls.lock().unwrap().push(true);
        let fault = self.process.call(Port::Store).await;
        if self.process.switch.is_away(fault == Some(Fault::Away)) || fault == Some(Fault::Lost) {
            return Err(no_answer(key));
        }
        match fault {
            Some(Fault::Slow) => tokio::time::sleep(SLOW).await,
            Some(Fault::CrashLate) => {
                let (store, key) = (self.store.clone(), key.to_owned());
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    apply(&store, &key, bytes, is_create).await
                });
                return self.process.die().await;
            }
            Some(Fault::Raced) => {
                apply(&self.store, key, bytes.clone(), is_create).await?;
            }
            _ => tokio::task::yield_now().await,
        }
        let applied = apply(&self.store, key, bytes, is_create).await;
        match fault {
            Some(Fault::CrashAfter) => self.process.die().await,
            Some(Fault::ReplyLost) => Err(no_answer(key)),
            _ => applied,
        }
    }
}

async fn apply(
    store: &MapStore,
    key: &str,
    bytes: Bytes,
    is_create: bool,
) -> Result<CreateOutcome, StoreError> {
    if is_create {
        store.create(key, bytes).await
    } else {
        store.overwrite(key, bytes).await.map(|()| CreateOutcome::Created)
    }
}

fn no_answer(key: &str) -> StoreError {
    StoreError::Unavailable { operation: "call", key: key.to_owned(), source: "simulated".into() }
}

#[async_trait]
impl ArtifactStore for Way {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.read(key, self.store.get_bounded(key, bytes_max)).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        self.write(key, bytes, true).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.write(key, bytes, false).await.map(|_| ())
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.read(key, self.store.exists(key)).await
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.read(prefix, self.store.list_names(prefix)).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        self.store.delete_prefix(prefix).await
    }
}
