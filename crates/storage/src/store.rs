//! [`Store`]: the primitives over one bucket or folder.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::artifact::{ArtifactStore, CreateOutcome};
use crate::error::StoreError;
use crate::object_key;

/// Names that one listing returns at most: a group has 64 records, a campaign of a million attempts some ten thousand
/// round maps; above this something is wrong, and memory must not pay for it.
pub const LIST_NAMES_MAX: usize = 200_000;

/// A bucket or a folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<dyn ObjectStore>,
    /// The folder, where the store is one.
    pub(crate) directory: Option<PathBuf>,
}

impl Store {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, directory: Option<PathBuf>) -> Self {
        Self { inner, directory }
    }

    /// Syncs the directory entry of an object that another process published: its writer may have died between the
    /// link and its own sync, and a caller that sees `AlreadyExists` goes on as if the object were durable.
    async fn sync_entry(&self, path: &Path) -> Result<(), StoreError> {
        let Some(root) = &self.directory else { return Ok(()) };
        let entry = root.join(path.as_ref());
        let Some(parent) = entry.parent().map(std::path::Path::to_owned) else { return Ok(()) };
        let shown = parent.display().to_string();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(parent)?.sync_all()).await;
        match synced.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
            Ok(()) => Ok(()),
            Err(source) => {
                Err(StoreError::Unavailable { operation: "sync", key: shown, source: source.into() })
            }
        }
    }
}

#[async_trait]
impl ArtifactStore for Store {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let path = object_key::parse(key)?;
        let fail = |error| StoreError::from_object_store("read", key, error);
        let found = match self.inner.get(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let too_large = |size| StoreError::TooLarge { key: key.to_owned(), size, limit: bytes_max };
        if found.meta.size > bytes_max {
            return Err(too_large(found.meta.size));
        }
        // The size is the server's word; the bytes are counted as well.
        let mut bytes = Vec::with_capacity(usize::try_from(found.meta.size).unwrap_or(0));
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(fail)?;
            let size = (bytes.len() + chunk.len()) as u64;
            if size > bytes_max {
                return Err(too_large(size));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.into()))
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        let path = object_key::parse(key)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.put_opts(&path, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(CreateOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.sync_entry(&path).await?;
                Ok(CreateOutcome::AlreadyExists)
            }
            Err(error) => Err(StoreError::from_object_store("create", key, error)),
        }
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = object_key::parse(key)?;
        match self.inner.put(&path, PutPayload::from_bytes(bytes)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(StoreError::from_object_store("write", key, error)),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let path = object_key::parse(key)?;
        match self.inner.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(StoreError::from_object_store("look up", key, error)),
        }
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = object_key::parse_prefix(prefix)?;
        // The client fetches page by page; one name more than the bound is enough to know that it is passed.
        let mut found = self.inner.list(path.as_ref()).take(LIST_NAMES_MAX + 1);
        let mut names = Vec::new();
        loop {
            match found.try_next().await {
                Ok(Some(object)) => names.push(object.location.as_ref().to_owned()),
                Ok(None) => break,
                // A folder's entry that vanished between being listed and being looked at.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(StoreError::from_object_store("list", prefix, error)),
            }
        }
        if names.len() > LIST_NAMES_MAX {
            return Err(StoreError::TooMany { prefix: prefix.to_owned(), limit: LIST_NAMES_MAX });
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        let path = object_key::parse(prefix)?;
        let fail = |error| StoreError::from_object_store("delete", prefix, error);
        let locations = self.inner.list(Some(&path)).map_ok(|object| object.location).boxed();
        let mut deleted = self.inner.delete_stream(locations);
        let mut count = 0;
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) => count += 1,
                // Another collector was faster.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(count)
    }
}
