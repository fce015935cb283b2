//! Writing to the store with patience: a result in hand outlives a store that is away for a while.

use std::time::Duration;

use sealign_manifest::group::OutputRef;
use sealign_manifest::{Digest, ObjectKeys, key};
use sealign_storage::{ArtifactStore, ArtifactStoreExt, Settled, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Further rounds of a write after the store's own repetitions (about 3 s each): some five minutes in all, as long as an
/// ordinary outage of an object store, and short against the work that would be lost.
const ROUNDS_MAX: u32 = 30;
/// Wait between two of them.
const ROUND_WAIT: Duration = Duration::from_secs(7);

/// Creates an object and returns the bytes that count: `bytes`, or those of a writer that was first.
///
/// # Errors
/// [`StoreError`] after some five minutes of transient ones.
pub async fn settle(store: &dyn ArtifactStore, key: &str, bytes: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let settled = patiently(|| store.create_settled(key, bytes.clone().into())).await?;
    Ok(match settled {
        Settled::Ours => bytes,
        Settled::Theirs(theirs) => theirs.to_vec(),
    })
}

/// [`settle`] for a document; returns the document that counts, and the digest of its bytes.
///
/// # Errors
/// [`StoreError`], also where a present object is no such document.
pub async fn settle_json<T: Serialize + DeserializeOwned>(
    store: &dyn ArtifactStore,
    key: &str,
    value: &T,
) -> Result<(T, Digest), StoreError> {
    let encode = |source| StoreError::Encode { key: key.to_owned(), source };
    let bytes = settle(store, key, serde_json::to_vec(value).map_err(encode)?).await?;
    let digest = Digest::of_bytes(&bytes);
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok((value, digest)),
        Err(source) => Err(StoreError::Json { key: key.to_owned(), source }),
    }
}

/// Stores bytes under their digest.
///
/// # Errors
/// [`StoreError`] after some five minutes of transient ones.
pub async fn settle_blob(store: &dyn ArtifactStore, bytes: Vec<u8>) -> Result<Digest, StoreError> {
    let digest = Digest::of_bytes(&bytes);
    let key = key::blob(&digest);
    if !patiently(|| store.exists(&key)).await? {
        settle(store, &key, bytes).await?;
    }
    Ok(digest)
}

/// Calls until the answer is not a transient error, a bounded number of times.
///
/// # Errors
/// The last error.
pub async fn patiently<T, F, R>(mut call: F) -> Result<T, StoreError>
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..ROUNDS_MAX {
        match call().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "the store does not answer; it is asked again");
                tokio::time::sleep(ROUND_WAIT).await;
            }
            answered => return answered,
        }
    }
    call().await
}

/// Whether an object is there, asked patiently.
///
/// # Errors
/// [`StoreError`] after some five minutes of transient ones.
pub async fn exists(store: &dyn ArtifactStore, key: &str) -> Result<bool, StoreError> {
    patiently(|| store.exists(key)).await
}

/// A document, read patiently; `None` where there is none.
///
/// # Errors
/// [`StoreError`], also where the object is no such document.
pub async fn read_json<T: DeserializeOwned>(
    store: &dyn ArtifactStore,
    key: &str,
) -> Result<Option<T>, StoreError> {
    patiently(|| store.get_json(key)).await
}

/// An object's bytes, read patiently; `None` where there is none.
///
/// # Errors
/// [`StoreError`] after some five minutes of transient ones.
pub async fn read(
    store: &dyn ArtifactStore,
    key: &str,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(patiently(|| store.get_bounded(key, bytes_max)).await?.map(|bytes| bytes.to_vec()))
}

/// Creates an output of a worker, `file` below `keys`, and returns how the manifest there names the one that counts.
///
/// # Errors
/// [`StoreError`] after some five minutes of transient ones.
pub async fn output(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
    file: &str,
    bytes: Vec<u8>,
) -> Result<OutputRef, StoreError> {
    let counting = settle(store, &keys.join(file), bytes).await?;
    let size = u64::try_from(counting.len()).unwrap_or(u64::MAX);
    Ok(OutputRef { file: file.to_owned(), digest: Digest::of_bytes(&counting), bytes: size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_storage::Store;

    #[tokio::test]
    async fn the_bytes_of_the_writer_that_was_first_count() {
        let store = Store::memory();
        assert_eq!(settle_json(&store, "k", &1_u32).await.unwrap(), (1, Digest::of_bytes(b"1")));
        assert_eq!(settle_json(&store, "k", &2_u32).await.unwrap(), (1, Digest::of_bytes(b"1")));
    }
}
