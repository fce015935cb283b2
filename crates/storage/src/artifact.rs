//! The operations that programs use: seven primitives, and what is composed of them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sealign_manifest::{Digest, key};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;

/// Largest JSON document that is read: a record of 30 turns at the observation cap has under 2 MiB, a plan of a million
/// items under 16. Nesting is bounded too: `serde_json` refuses more than 128 levels.
pub const JSON_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Tries of a settled create: with the waits below, about 3 s against a store that answers at once.
const SETTLE_TRIES: u32 = 5;
/// Wait before the second try; doubled before each further one.
const SETTLE_WAIT: Duration = Duration::from_millis(200);

/// What a create-only write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The object was not there; now it is, durably, with the bytes given.
    Created,
    /// The object was there already and was left as it is. Its bytes may or may not equal those given.
    AlreadyExists,
}

/// What a create that looks again after doubt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The object holds exactly the bytes given, by this or an earlier try.
    Ours,
    /// Another writer came first; these are its bytes.
    Theirs(Bytes),
}

/// A store of artifacts. Keys are paths below its root (letters, digits, `.`, `_`, `-` and `/`).
#[async_trait]
pub trait ArtifactStore: Send + Sync {
    /// The bytes of an object of at most `bytes_max` bytes, or `None` where there is none.
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError>;

    /// Writes an object that must not exist yet. Durable when it returns `Created`; exactly one of any racing writers
    /// gets that answer. On a transient error the write may have been applied: see [`ArtifactStoreExt::create_settled`].
    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError>;

    /// Writes or replaces an object. Only for hints such as progress; results are created.
    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// Whether an object is there.
    async fn exists(&self, key: &str) -> Result<bool, StoreError>;

    /// Keys of all objects under `prefix/` at any depth, sorted; the empty prefix means all. Fails above
    /// [`LIST_NAMES_MAX`](crate::store::LIST_NAMES_MAX).
    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Deletes all objects under `prefix/` and says how many; for garbage collection. The prefix may not be empty.
    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError>;
}

/// Operations composed of the primitives.
#[async_trait]
pub trait ArtifactStoreExt: ArtifactStore {
    /// Reads a JSON document of at most [`JSON_BYTES_MAX`]; `None` where there is no object.
    async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.get_bounded(key, JSON_BYTES_MAX).await? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(source) => Err(StoreError::Json { key: key.to_owned(), source }),
        }
    }

    /// Creates an object from `value` as compact JSON.
    async fn create_json<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<CreateOutcome, StoreError> {
        let bytes = encode(key, value)?;
        self.create(key, bytes).await
    }

    /// Writes or replaces an object by `value` as compact JSON.
    async fn overwrite_json<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let bytes = encode(key, value)?;
        self.overwrite(key, bytes).await
    }

    /// Creates an object and, when the answer was lost, tries again and compares; a bounded number of times. Use it where
    /// the caller has to know whether its own bytes are the ones that count.
    async fn create_settled(&self, key: &str, bytes: Bytes) -> Result<Settled, StoreError> {
        let mut wait = SETTLE_WAIT;
        for _ in 1..SETTLE_TRIES {
            match settle_once(self, key, &bytes).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(key, error = %error, "create is tried again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                settled => return settled,
            }
        }
        settle_once(self, key, &bytes).await
    }

    /// Stores bytes under their digest; one that is there already is not sent again.
    async fn put_blob(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let digest = Digest::of_bytes(&bytes);
        let key = key::blob(&digest);
        if !self.exists(&key).await? {
            // Another writer of the same blob writes the same bytes, so either answer will do.
            self.create(&key, bytes).await?;
        }
        Ok(digest)
    }

    /// The bytes that `digest` names, verified; a missing, oversized or altered blob is an error.
    async fn get_blob(&self, digest: &Digest, bytes_max: u64) -> Result<Bytes, StoreError> {
        let key = key::blob(digest);
        let Some(bytes) = self.get_bounded(&key, bytes_max).await? else {
            return Err(StoreError::Missing { key });
        };
        let actual = Digest::of_bytes(&bytes);
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::Digest { key, actual: actual.to_string() })
        }
    }
}

impl<S: ArtifactStore + ?Sized> ArtifactStoreExt for S {}

async fn settle_once<S: ArtifactStore + ?Sized>(
    store: &S,
    key: &str,
    bytes: &Bytes,
) -> Result<Settled, StoreError> {
    if store.create(key, bytes.clone()).await? == CreateOutcome::Created {
        return Ok(Settled::Ours);
    }
    let bytes_max = JSON_BYTES_MAX.max(bytes.len() as u64);
    match store.get_bounded(key, bytes_max).await? {
        Some(present) if present == *bytes => Ok(Settled::Ours),
        Some(present) => Ok(Settled::Theirs(present)),
        None => Err(StoreError::Missing { key: key.to_owned() }),
    }
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Bytes, StoreError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|source| StoreError::Encode { key: key.to_owned(), source })
}

/// A shared store is a store: `Arc<dyn ArtifactStore>` goes wherever a store does.
#[async_trait]
impl<S: ArtifactStore + ?Sized> ArtifactStore for std::sync::Arc<S> {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        (**self).get_bounded(key, bytes_max).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        (**self).create(key, bytes).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        (**self).overwrite(key, bytes).await
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        (**self).exists(key).await
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        (**self).list_names(prefix).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        (**self).delete_prefix(prefix).await
    }
}
