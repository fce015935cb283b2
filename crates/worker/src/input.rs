//! Reading the files that users name in a spec: `artifact:KEY` in the store, `file:PATH` on this machine.

use std::path::{Path, PathBuf};

use sealign_storage::ArtifactStore;

use crate::error::WorkerError;
use crate::saving::patiently;

/// Largest file that is read whole: a million rows of some two KiB.
pub const INPUT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Files of one folder at most.
pub const FILES_MAX: usize = 200_000;
/// Deepest folder that is entered.
const DEPTH_MAX: usize = 32;

/// Reads one file; `field` is the field of the spec that names it.
///
/// # Errors
/// [`WorkerError::Rejected`] where there is no such file or it is too large.
pub async fn read(store: &dyn ArtifactStore, field: &str, source: &str) -> Result<Vec<u8>, WorkerError> {
    let refuse = |problem: String| WorkerError::rejected(format!("{field}: {problem}"));
    if let Some(key) = source.strip_prefix("artifact:") {
        let found = patiently(|| store.get_bounded(key, INPUT_BYTES_MAX))
            .await
            .map_err(|error| if error.is_transient() { error.into() } else { refuse(error.to_string()) })?;
        return match found {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(refuse(format!("the store has no object `{key}`: upload it, or correct the key"))),
        };
    }
    let path = local_path(field, source)?;
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read_local(&path)).await;
    read.unwrap_or_else(|stopped| Err(stopped.to_string())).map_err(|problem| {
        refuse(format!("the file `{shown}` cannot be read: {problem}; give a readable file"))
    })
}

/// The files below a file or folder, with their paths relative to it, in order of path. `wants` says which are read.
///
/// # Errors
/// [`WorkerError::Rejected`] where there is nothing, or more than [`FILES_MAX`].
pub async fn read_all(
    store: &dyn ArtifactStore,
    field: &str,
    source: &str,
    wants: fn(&str) -> bool,
) -> Result<Vec<(String, Vec<u8>)>, WorkerError> {
    let refuse = |problem: String| WorkerError::rejected(format!("{field}: {problem}"));
    let Some(prefix) = source.strip_prefix("artifact:") else {
        let path = local_path(field, source)?;
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || read_tree(&path, wants)).await;
        return read.unwrap_or_else(|stopped| Err(stopped.to_string())).map_err(|problem| {
            refuse(format!("`{shown}` cannot be read: {problem}; give a file or a folder"))
        });
    };
    let names = patiently(|| store.list_names(prefix)).await?;
    if names.is_empty() {
        let bytes = read(store, field, source).await?;
        let name = prefix.rsplit('/').next().unwrap_or(prefix);
        return Ok(vec![(name.to_owned(), bytes)]);
    }
    let mut files = Vec::new();
    for name in names {
        let relative = name.strip_prefix(prefix).map_or(name.as_str(), |rest| rest.trim_start_matches('/'));
        if wants(relative) {
            files.push((relative.to_owned(), read(store, field, &format!("artifact:{name}")).await?));
        }
    }
    Ok(files)
}

fn local_path(field: &str, source: &str) -> Result<PathBuf, WorkerError> {
    match source.strip_prefix("file:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err(WorkerError::rejected(format!(
            "{field}: `{}` is neither `artifact:KEY` nor `file:PATH`",
            source.chars().take(80).collect::<String>()
        ))),
    }
}

fn read_local(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > INPUT_BYTES_MAX {
        return Err(format!("it has {size} bytes, more than {INPUT_BYTES_MAX}"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

fn read_tree(root: &Path, wants: fn(&str) -> bool) -> Result<Vec<(String, Vec<u8>)>, String> {
    let kind = std::fs::metadata(root).map_err(|error| error.to_string())?;
    if !kind.is_dir() {
        let name = root.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        return Ok(vec![(name, read_local(root)?)]);
    }
    let mut paths = Vec::new();
    walk(root, 0, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if wants(&relative) {
            files.push((relative, read_local(&path)?));
        }
    }
    Ok(files)
}

fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("folders are nested deeper than {DEPTH_MAX}"));
    }
    for entry in std::fs::read_dir(folder).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        // Links are not followed: a folder of imported files may hold anything.
        let kind = entry.file_type().map_err(|error| error.to_string())?;
        if kind.is_dir() {
            walk(&entry.path(), depth + 1, paths)?;
        } else if kind.is_file() {
            if paths.len() == FILES_MAX {
                return Err(format!("it holds more than {FILES_MAX} files"));
            }
            paths.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_storage::Store;

    #[tokio::test]
    async fn a_missing_file_is_refused_with_field_and_remedy() {
        let store = Store::memory();
        for source in ["file:/nowhere/rows.jsonl", "artifact:data/rows.jsonl", "rows.jsonl"] {
            let error = read(&store, "source.humanEvalFix.rows", source).await.unwrap_err();
            assert!(matches!(error, WorkerError::Rejected(_)), "{source}");
            assert!(error.to_string().starts_with("source.humanEvalFix.rows: "), "{error}");
        }
    }

    #[tokio::test]
    async fn a_prefix_is_read_like_a_folder() {
        let store = Store::memory();
        for key in ["sets/a/1.jsonl", "sets/a/b/2.jsonl", "sets/a/readme.md", "sets/ab/3.jsonl"] {
            store.create(key, key.into()).await.unwrap();
        }
        let files =
            read_all(&store, "from", "artifact:sets/a", sealign_trajectory::import::wants).await.unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["1.jsonl", "b/2.jsonl"]);
        let one = read_all(&store, "from", "artifact:sets/a/1.jsonl", |_| true).await.unwrap();
        assert_eq!(one, [("1.jsonl".to_owned(), b"sets/a/1.jsonl".to_vec())]);
    }
}
