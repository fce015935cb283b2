//! Which state folder a command means.

use std::path::{Path, PathBuf};

use kube::core::DynamicObject;
use sealign_local::folder::read_objects;
use sealign_local::objects::ObjectKey;
use sealign_reconcile::port::Kind;

use crate::error::CliError;

/// Folder of all state folders that nobody named.
const HOME: &str = ".sealign";

/// The state folder of a manifest: the one given, else `.sealign/<name of the manifest without its ending>`.
pub fn of_manifest(given: Option<&Path>, manifest: &Path) -> PathBuf {
    let stem = manifest.file_stem().unwrap_or(manifest.as_os_str());
    given.map_or_else(|| Path::new(HOME).join(stem), Path::to_owned)
}

/// The state folder that a command looks at: the one given, else the only one there is.
///
/// # Errors
/// [`CliError::Argument`] when there is none, or more than one.
pub fn existing(given: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(given) = given {
        if given.join("objects").is_dir() {
            return Ok(given.to_owned());
        }
        return Err(CliError::Argument(format!(
            "--state {}: is not the state folder of a run; `sealign run --state` makes one",
            given.display()
        )));
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(HOME)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("objects").is_dir())
        .collect();
    found.sort();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            found.push(last);
            let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
            Err(CliError::Argument(format!(
                "--state: several runs are here; choose one of {}",
                names.join(", ")
            )))
        }
        (None, _) => {
            let remedy = format!(
                "--state: no run is here (looked in {HOME}/); name its folder, or run a manifest first"
            );
            Err(CliError::Argument(remedy))
        }
    }
}

/// The objects of a run, our own kinds only.
///
/// # Errors
/// [`CliError::State`].
pub fn objects(state: &Path) -> Result<Vec<(ObjectKey, DynamicObject)>, CliError> {
    let mut objects = read_objects(state)?;
    objects.retain(|(key, _)| key.kind != Kind::Job);
    Ok(objects)
}

/// The file of a key of the run's store.
pub fn stored(state: &Path, key: &str) -> PathBuf {
    state.join("store").join(key)
}
