//! Files that are too large for memory, such as weights: streamed up and down, digests computed on the way.

use std::fmt::Write as _;
use std::path::Path as FilePath;

use futures::StreamExt;
use object_store::buffered::BufWriter;
use object_store::{ObjectStoreExt, path::Path};
use sealign_manifest::Digest;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::StoreError;
use crate::object_key;
use crate::store::Store;

/// Bytes that are read at a time, and the size of an upload's part; S3 wants at least 5 MiB.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// What was transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Their number.
    pub bytes: u64,
}

impl Store {
    /// Uploads the file at `source`. Not create-only: large objects are written under keys that only one step owns, and
    /// count when the manifest that names their digests exists.
    ///
    /// # Errors
    /// [`StoreError::LocalFile`] for the file, others for the store; a failed upload is aborted.
    pub async fn upload_file(&self, key: &str, source: &FilePath) -> Result<Transferred, StoreError> {
        let path = object_key::parse(key)?;
        let mut file = tokio::fs::File::open(source).await.map_err(|error| local(source, error))?;
        let mut writer = BufWriter::with_capacity(self.inner.clone(), path, CHUNK_BYTES);
        match copy_up(key, source, &mut file, &mut writer).await {
            Ok(transferred) => Ok(transferred),
            Err(error) => {
                // Without the abort an S3 bucket keeps (and bills) the parts.
                if let Err(abort) = writer.abort().await {
                    tracing::debug!(key, error = %abort, "the upload could not be aborted");
                }
                Err(error)
            }
        }
    }

    /// Downloads an object of at most `bytes_max` bytes to `target`, which must not exist; it is complete and synced, or
    /// absent, when this returns. With `expected` the digest must match.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::TooLarge`], [`StoreError::Digest`], or those of file and store.
    pub async fn download_file(
        &self,
        key: &str,
        target: &FilePath,
        bytes_max: u64,
        expected: Option<&Digest>,
    ) -> Result<Transferred, StoreError> {
        let path = object_key::parse(key)?;
        let mut staged = target.as_os_str().to_owned();
        staged.push(".part");
        let staged = FilePath::new(&staged);
        let result = match self.copy_down(key, &path, staged, bytes_max).await {
            Ok(got) => match expected {
                Some(digest) if *digest != got.digest => {
                    Err(StoreError::Digest { key: key.to_owned(), actual: got.digest.to_string() })
                }
                _ => tokio::fs::rename(staged, target)
                    .await
                    .map(|()| got)
                    .map_err(|error| local(target, error)),
            },
            Err(error) => Err(error),
        };
        if result.is_err() {
            // Nothing to do where it was never made.
            let _ = tokio::fs::remove_file(staged).await;
        }
        result
    }

    async fn copy_down(
        &self,
        key: &str,
        path: &Path,
        staged: &FilePath,
        bytes_max: u64,
    ) -> Result<Transferred, StoreError> {
        let fail = |error| StoreError::from_object_store("read", key, error);
        let found = match self.inner.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(StoreError::Missing { key: key.to_owned() });
            }
            Err(error) => return Err(fail(error)),
        };
        let mut file = tokio::fs::File::create(staged).await.map_err(|error| local(staged, error))?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(fail)?;
            bytes += chunk.len() as u64;
            if bytes > bytes_max {
                return Err(StoreError::TooLarge { key: key.to_owned(), size: bytes, limit: bytes_max });
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(|error| local(staged, error))?;
        }
        file.sync_all().await.map_err(|error| local(staged, error))?;
        Ok(Transferred { digest: digest_of(hasher), bytes })
    }
}

async fn copy_up(
    key: &str,
    source: &FilePath,
    file: &mut tokio::fs::File,
    writer: &mut BufWriter,
) -> Result<Transferred, StoreError> {
    let unavailable = |error: std::io::Error| StoreError::Unavailable {
        operation: "upload",
        key: key.to_owned(),
        source: error.into(),
    };
    let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk).await.map_err(|error| local(source, error))?;
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
        bytes += count as u64;
        writer.write_all(read).await.map_err(unavailable)?;
    }
    writer.shutdown().await.map_err(unavailable)?;
    Ok(Transferred { digest: digest_of(hasher), bytes })
}

/// The digest as a name. Sixty-four hexadecimal digits always parse, so the fallback is never taken.
fn digest_of(hasher: Sha256) -> Digest {
    let mut digits = String::with_capacity(64);
    for byte in hasher.finalize() {
        let _ = write!(digits, "{byte:02x}");
    }
    Digest::parse(&digits).unwrap_or_else(|_| Digest::of_bytes(&[]))
}

fn local(path: &FilePath, source: std::io::Error) -> StoreError {
    StoreError::LocalFile { path: path.display().to_string(), source }
}
