//! Models that are shipped inside the program.

use std::path::{Path, PathBuf};

use super::JobError;

/// One file of a built-in model.
struct File {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(File { name: $name, bytes: include_bytes!(concat!("../../models/", $folder, "/", $name)) }),+]
    };
}

/// The base model of the quickstart; `make base-model` makes it, its `manifest.json` says from what.
const MINI_BASE: &[File] = files!("mini-base":
    "config.json", "generation_config.json", "manifest.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
);

/// Names that `builtin:NAME` may have.
pub const NAMES: [&str; 1] = ["mini-base"];

/// Writes the model `name` into `folder` and returns its path.
pub fn unpack(name: &str, folder: &Path) -> Result<PathBuf, JobError> {
    let files = match name {
        "mini-base" => MINI_BASE,
        _ => {
            return Err(JobError::Input(format!(
                "`builtin:{name}` is not a built-in model; there is `builtin:{}`",
                NAMES.join("`, `builtin:")
            )));
        }
    };
    let target = folder.join(name);
    std::fs::create_dir_all(&target).map_err(|source| JobError::Local { path: target.clone(), source })?;
    for File { name, bytes } in files {
        let path = target.join(name);
        std::fs::write(&path, bytes).map_err(|source| JobError::Local { path, source })?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::directory;

    #[test]
    fn every_builtin_model_can_be_read_and_matches_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        for name in NAMES {
            let path = unpack(name, folder.path()).unwrap();
            let config = directory::read_config(&path).unwrap();
            directory::read_weights(&path, &config).unwrap();
            let tokenizer = directory::read_tokenizer(&path).unwrap();
            directory::check_vocabulary(&path, &tokenizer, &config).unwrap();
            let manifest = crate::train::export::read_manifest(&path).unwrap();
            for (file, entry) in manifest.files {
                assert_eq!(
                    crate::train::checkpoint::digest_file(&path.join(&file)).unwrap(),
                    entry.digest,
                    "{file}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        let error = unpack("qwen", folder.path()).unwrap_err().to_string();
        assert!(error.contains("builtin:mini-base"), "{error}");
    }
}
