//! What a garbage collector needs beyond the primitives: listings of any length, deletion by key, and the sight of what
//! killed writers leave in a folder.
//!
//! It decides nothing: which objects are garbage is the caller's knowledge.

use std::io;
use std::path::Path as FilePath;
use std::time::SystemTime;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore as _;

use crate::error::StoreError;
use crate::object_key::{self, KEY_BYTES_MAX};
use crate::store::Store;

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written, in seconds since 1970.
    pub modified_seconds: i64,
}

/// Staged files of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// Their number.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Store {
    /// Every object under `prefix/` at any depth, in no order, page by page; the empty prefix means all.
    ///
    /// # Errors
    /// [`StoreError::Key`] at once; those of the store within the stream.
    pub fn stream(&self, prefix: &str) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        let path = object_key::parse_prefix(prefix)?;
        let shown = prefix.to_owned();
        let found = self.inner.list(path.as_ref()).filter_map(move |entry| {
            let listed = match entry {
                Ok(object) => Some(Ok(Listed {
                    key: object.location.as_ref().to_owned(),
                    bytes: object.size,
                    modified_seconds: object.last_modified.timestamp(),
                })),
                // A folder's entry that vanished between being listed and being looked at.
                Err(object_store::Error::NotFound { .. }) => None,
                Err(error) => Some(Err(StoreError::from_object_store("list", &shown, error))),
            };
            std::future::ready(listed)
        });
        Ok(found.boxed())
    }

    /// Deletes objects; those that are gone already are not counted.
    ///
    /// # Errors
    /// [`StoreError`]; some may have been deleted then.
    pub async fn delete_keys(&self, keys: &[String]) -> Result<u64, StoreError> {
        let paths = keys.iter().map(|key| object_key::parse(key)).collect::<Result<Vec<_>, _>>()?;
        let mut deleted = self.inner.delete_stream(stream::iter(paths).map(Ok).boxed());
        let mut count = 0;
        loop {
            match deleted.try_next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => return Ok(count),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    let first = keys.first().map_or("", String::as_str);
                    return Err(StoreError::from_object_store("delete", first, error));
                }
            }
        }
    }

    /// The files that writers staged before `before` and never published, since they were killed; with `delete` they go, and
    /// empty folders with them. Only a folder has any: a bucket drops unfinished uploads by its own rules.
    ///
    /// # Errors
    /// [`StoreError::LocalFile`].
    pub async fn staged(&self, before: SystemTime, delete: bool) -> Result<Staged, StoreError> {
        let Some(root) = self.directory.clone() else { return Ok(Staged::default()) };
        let shown = root.display().to_string();
        let walked = tokio::task::spawn_blocking(move || {
            let mut staged = Staged::default();
            walk(&root, 0, before, delete, &mut staged).map(|()| staged)
        });
        let walked = walked.await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
        walked.map_err(|source| StoreError::LocalFile { path: shown, source })
    }
}

fn walk(
    folder: &FilePath,
    depth: usize,
    before: SystemTime,
    delete: bool,
    staged: &mut Staged,
) -> io::Result<()> {
    // No key has more parts; what lies deeper is none of ours.
    if depth > KEY_BYTES_MAX / 2 {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), depth + 1, before, delete, staged)?;
            if delete {
                // Refused where something lies in it, which is what is wanted.
                let _full = std::fs::remove_dir(entry.path());
            }
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            let data = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if data.modified()? >= before {
                continue;
            }
            staged.files += 1;
            staged.bytes += data.len();
            if delete {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// A staged file is called like its object, `#` and a number; no key has a `#`.
fn is_staged(name: &str) -> bool {
    let number = name.split_once('#').map_or("", |(_, number)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}
