//! The state folder: one file an object, written beside its place, synced and renamed into it.
//!
//! One process at a time holds the folder, by a lock that the system releases when the process ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kube::core::DynamicObject;
use sealign_reconcile::port::Kind;

use crate::objects::{Change, ObjectKey};

/// Largest object file: above the 1.5 MiB that an API server takes.
const OBJECT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process holds it.
    #[error("state folder {} is in use by another run; wait for it or choose another folder with --state", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be made, read or written.
    #[error("state folder: {} cannot be {action}: {source}", path.display())]
    Access {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file in it is not an object.
    #[error("state folder: {} is damaged ({problem}); move it away, or choose another folder with --state", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// How certain a write is when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: it outlives a power loss.
    Synced,
    /// With the system: it outlives the process.
    Written,
}

/// A state folder that this process holds.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`FolderError::InUse`] when another process has it, else [`FolderError::Access`].
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        fs::create_dir_all(root.join("objects")).map_err(access("made", root))?;
        let root = root.canonicalize().map_err(access("found", root))?;
        let lock_path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(access("opened", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(FolderError::InUse { path: root }),
            Err(fs::TryLockError::Error(source)) => {
                Err(FolderError::Access { action: "locked", path: lock_path, source })
            }
        }
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Every object in it.
    ///
    /// # Errors
    /// [`FolderError`] for files that cannot be read or are not objects.
    pub fn load(&self) -> Result<Vec<(ObjectKey, DynamicObject)>, FolderError> {
        read_objects(&self.root)
    }

    /// Brings a change to disk.
    ///
    /// # Errors
    /// [`FolderError::Access`].
    pub fn write(&self, change: &Change, durability: Durability) -> Result<(), FolderError> {
        match change {
            Change::Nothing => Ok(()),
            Change::Remove(key) => {
                let path = self.file(key);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(access("removed", &path)(error))
                    }
                    _ => Ok(()),
                }
            }
            Change::Put(key, object) => {
                let path = self.file(key);
                let text = serde_json::to_vec(object).map_err(|error| FolderError::Damaged {
                    path: path.clone(),
                    problem: error.to_string(),
                })?;
                replace(&path, &text, durability)
            }
        }
    }

    fn file(&self, key: &ObjectKey) -> PathBuf {
        let mut path = self.root.join("objects").join(key.kind.plural());
        path.push(&key.namespace);
        path.push(format!("{}.json", key.name));
        path
    }
}

/// The objects of a state folder, without taking its lock: for looking at a run from beside it.
///
/// # Errors
/// [`FolderError`] for files that cannot be read or are not objects.
pub fn read_objects(root: &Path) -> Result<Vec<(ObjectKey, DynamicObject)>, FolderError> {
    let mut objects = Vec::new();
    for kind in [&Kind::OURS[..], &[Kind::Job]].concat() {
        for namespace in entries(&root.join("objects").join(kind.plural()))? {
            for path in entries(&namespace)? {
                // A file that a crash left beside its place; its object never was.
                if path.extension().is_none_or(|extension| extension != "json") {
                    continue;
                }
                if let Some(object) = read_object(&path)? {
                    let name = object.metadata.name.clone().unwrap_or_default();
                    let space = object.metadata.namespace.clone().unwrap_or_default();
                    objects.push((ObjectKey::new(kind, &space, &name), object));
                }
            }
        }
    }
    Ok(objects)
}

/// `None` when the file went away meanwhile.
fn read_object(path: &Path) -> Result<Option<DynamicObject>, FolderError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(access("opened", path))?,
    };
    let mut bytes = Vec::new();
    file.take(OBJECT_BYTES_MAX).read_to_end(&mut bytes).map_err(access("read", path))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| FolderError::Damaged { path: path.to_owned(), problem: error.to_string() })
}

/// Puts `bytes` at `path` so that a reader sees all of them or what was there before.
///
/// # Errors
/// [`FolderError::Access`].
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), FolderError> {
    let Some(parent) = path.parent() else {
        return Err(FolderError::Damaged { path: path.to_owned(), problem: "it has no folder".to_owned() });
    };
    if !parent.is_dir() {
        fs::create_dir_all(parent).map_err(access("made", parent))?;
    }
    let beside = path.with_extension("part");
    let mut file = File::create(&beside).map_err(access("made", &beside))?;
    file.write_all(bytes).map_err(access("written", &beside))?;
    if durability == Durability::Synced {
        file.sync_data().map_err(access("synced", &beside))?;
    }
    fs::rename(&beside, path).map_err(access("renamed", &beside))?;
    if durability == Durability::Synced {
        let folder = File::open(parent).map_err(access("opened", parent))?;
        folder.sync_all().map_err(access("synced", parent))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(access("read", folder))?,
    };
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(entry.map_err(access("read", folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

fn access(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Access { action, path, source }
}
