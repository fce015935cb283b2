//! Models and data from the store into local folders.

use std::path::{Path, PathBuf};

use sealign_manifest::group::{ForestManifest, OutputRef};
use sealign_manifest::train::{ModelManifest, ModelSource};
use sealign_manifest::{Digest, ObjectKeys};
use sealign_storage::artifact::JSON_BYTES_MAX;
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _};
use serde_json::Value;

use super::{Bucket, JobError, builtin};

/// A weights shard at most; the Hub's are 5 GB.
const SHARD_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// A file of examples at most.
const EXAMPLES_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Brings a model into a folder below `scratch` and returns it.
pub fn model(bucket: &Bucket, source: &ModelSource, scratch: &Path) -> Result<PathBuf, JobError> {
    match source {
        ModelSource::Builtin(name) => builtin::unpack(name, scratch),
        ModelSource::Directory(path) => {
            let path = PathBuf::from(path);
            if path.join("config.json").is_file() {
                return Ok(path);
            }
            Err(JobError::Input(format!(
                "`dir:{}` has no config.json that this pod can read",
                path.display()
            )))
        }
        ModelSource::Manifest(key) => {
            let manifest: Option<ModelManifest> = bucket.wait(bucket.store.get_json(key))?;
            let manifest = manifest
                .ok_or_else(|| JobError::Input(format!("`artifact:{key}` does not exist in the store")))?;
            let folder = scratch.join("base");
            create(&folder)?;
            for (name, file) in &manifest.files {
                if name.contains(['/', '\\']) || name.starts_with('.') {
                    return Err(JobError::Input(format!(
                        "`artifact:{key}` names a file outside of its folder"
                    )));
                }
                let file_key = ObjectKeys::beside(key).join(&file.file);
                download(bucket, &file_key, file, &folder.join(name), SHARD_BYTES_MAX)?;
            }
            Ok(folder)
        }
    }
}

/// A forest that examples are taken from.
#[derive(Debug)]
pub struct Forest {
    /// Its manifest.
    pub manifest: ForestManifest,
    /// Digest of the manifest's bytes.
    pub digest: Digest,
    keys: ObjectKeys,
}

/// The forest whose manifest lies at `key`.
pub fn forest(bucket: &Bucket, key: &str) -> Result<Forest, JobError> {
    let bytes = bucket.wait(bucket.store.get_bounded(key, JSON_BYTES_MAX))?;
    let bytes =
        bytes.ok_or_else(|| JobError::Input(format!("the forest `{key}` does not exist in the store")))?;
    let manifest = serde_json::from_slice(&bytes)
        .map_err(|error| JobError::Input(format!("`{key}` is not a forest of this version: {error}")))?;
    Ok(Forest { manifest, digest: Digest::of_bytes(&bytes), keys: ObjectKeys::beside(key) })
}

/// Brings the forest's output `name` into `folder` and returns the file.
pub fn examples(bucket: &Bucket, forest: &Forest, name: &str, folder: &Path) -> Result<PathBuf, JobError> {
    let output = forest.manifest.outputs.get(name);
    let output = output.ok_or_else(|| JobError::Input(format!("the forest has no output `{name}`")))?;
    let path = folder.join(format!("{name}.jsonl"));
    download(bucket, &forest.keys.join(&output.file), output, &path, EXAMPLES_BYTES_MAX)?;
    Ok(path)
}

/// Rewrites rows so that every assistant message is learnt, unparseable ones too.
pub fn learn_every_turn(path: &Path) -> Result<(), JobError> {
    let local = |source| JobError::Local { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(local)?;
    let mut rows = String::with_capacity(text.len());
    for line in text.lines() {
        let mut row: Value = serde_json::from_str(line)
            .map_err(|error| JobError::Input(format!("{}: {error}", path.display())))?;
        for message in row.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(members) = message.as_object_mut() {
                members.remove("train");
            }
        }
        rows.push_str(&row.to_string());
        rows.push('\n');
    }
    std::fs::write(path, rows).map_err(local)
}

fn download(
    bucket: &Bucket,
    key: &str,
    file: &OutputRef,
    target: &Path,
    bytes_max: u64,
) -> Result<(), JobError> {
    if target.exists() {
        std::fs::remove_file(target).map_err(|source| JobError::Local { path: target.to_owned(), source })?;
    }
    bucket.wait(bucket.store.download_file(key, target, bytes_max, Some(&file.digest)))?;
    Ok(())
}

/// Makes a folder and its parents.
pub fn create(folder: &Path) -> Result<(), JobError> {
    std::fs::create_dir_all(folder).map_err(|source| JobError::Local { path: folder.to_owned(), source })
}
