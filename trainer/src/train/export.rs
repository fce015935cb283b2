//! The finished model: Hugging Face layout and a manifest, in one folder that appears whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sealign_manifest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checkpoint::{CheckpointError, digest_file, write_whole};
use crate::model::Decoder;
use crate::model::adapter::{self, Lora};
use crate::model::tensors::{self, SaveType};

/// Files of a tokenizer that are carried over when they exist.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
];

/// Files of an adapter in PEFT's layout.
pub const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// `manifest.json` of a model folder; written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelFolderManifest {
    /// Digest and size of every other file.
    pub files: BTreeMap<String, FileEntry>,
    /// Digests of what went in: `run` over all of it, `settings`, `model/...`, `sft/...`, `preferences/...`.
    pub inputs: BTreeMap<String, Digest>,
    /// Optimiser steps of the weights that were kept.
    pub step: usize,
    /// Optimiser steps that were run.
    pub steps: usize,
    /// Final figures.
    pub metrics: BTreeMap<String, Value>,
}

/// One file of a model folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// What the manifest says beside the files.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// See [`ModelFolderManifest::inputs`].
    pub inputs: BTreeMap<String, Digest>,
    /// Steps of the kept weights.
    pub step: usize,
    /// Steps that were run.
    pub steps: usize,
    /// Final figures.
    pub metrics: BTreeMap<String, Value>,
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), action, source }
}

/// Writes the model folder; an existing one is replaced.
pub fn write_model(
    target: &Path,
    model: &Decoder,
    tokenizer: &Path,
    save_type: SaveType,
    provenance: Provenance,
) -> Result<ModelFolderManifest, CheckpointError> {
    let partial = PathBuf::from(format!("{}.partial-{}", target.display(), std::process::id()));
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(|source| io(&partial, "removed", source))?;
    }
    std::fs::create_dir_all(&partial).map_err(|source| io(&partial, "created", source))?;
    write_layout(&partial, model, save_type)?;
    for name in TOKENIZER_FILES {
        let from = tokenizer.join(name);
        if from.exists() {
            std::fs::copy(&from, partial.join(name)).map_err(|source| io(&from, "copied", source))?;
        }
    }
    if !partial.join("generation_config.json").exists() {
        write_json(&partial.join("generation_config.json"), &generation_config(&model.config.document))?;
    }
    let Provenance { inputs, step, steps, metrics } = provenance;
    let manifest = ModelFolderManifest { files: entries(&partial)?, inputs, step, steps, metrics };
    write_json(&partial.join("manifest.json"), &manifest)?;
    if target.exists() {
        std::fs::remove_dir_all(target).map_err(|source| io(target, "removed", source))?;
    }
    std::fs::rename(&partial, target).map_err(|source| io(target, "renamed", source))?;
    Ok(manifest)
}

/// Writes `config.json` and `model.safetensors` into an existing folder.
pub fn write_layout(folder: &Path, model: &Decoder, save_type: SaveType) -> Result<(), CheckpointError> {
    let mut document = model.config.document.clone();
    if let Some(members) = document.as_object_mut() {
        let name = match save_type {
            SaveType::Bf16 => "bfloat16",
            SaveType::F32 => "float32",
        };
        members.shift_remove("dtype");
        members.insert("torch_dtype".to_owned(), json!(name));
    }
    write_json(&folder.join("config.json"), &document)?;
    let path = folder.join("model.safetensors");
    tensors::write(&path, &model.weights.to_hub(&model.config), save_type)
        .map_err(|source| CheckpointError::Tensors { path: folder.to_owned(), source })
}

/// Writes the adapters of a model in PEFT's layout; an existing folder is replaced. `base` is the name under which the base
/// model is to be found: a path, or a name that whoever loads the adapter has to replace by one.
pub fn write_adapter(target: &Path, model: &Decoder, lora: Lora, base: &str) -> Result<(), CheckpointError> {
    let partial = PathBuf::from(format!("{}.partial-{}", target.display(), std::process::id()));
    for stale in [&partial, &target.to_owned()] {
        if stale.exists() {
            std::fs::remove_dir_all(stale).map_err(|source| io(stale, "removed", source))?;
        }
    }
    std::fs::create_dir_all(&partial).map_err(|source| io(&partial, "created", source))?;
    let [config, weights] = ADAPTER_FILES;
    write_json(&partial.join(config), &adapter::peft_config(lora, base))?;
    tensors::write(&partial.join(weights), &adapter::to_peft(&model.weights), SaveType::F32)
        .map_err(|source| CheckpointError::Tensors { path: partial.clone(), source })?;
    std::fs::rename(&partial, target).map_err(|source| io(target, "renamed", source))
}

/// Reads the manifest of a finished model folder.
pub fn read_manifest(folder: &Path) -> Option<ModelFolderManifest> {
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).ok()?).ok()
}

fn generation_config(config: &Value) -> Value {
    let mut members = serde_json::Map::new();
    for name in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(name).filter(|id| !id.is_null()) {
            members.insert(name.to_owned(), id.clone());
        }
    }
    members.insert("do_sample".to_owned(), json!(false));
    Value::Object(members)
}

fn entries(folder: &Path) -> Result<BTreeMap<String, FileEntry>, CheckpointError> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|source| io(folder, "listed", source))? {
        let entry = entry.map_err(|source| io(folder, "listed", source))?;
        let bytes = entry.metadata().map_err(|source| io(folder, "listed", source))?.len();
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, FileEntry { digest: digest_file(&entry.path())?, bytes });
    }
    Ok(files)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CheckpointError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| io(path, "written", error.into()))?;
    bytes.push(b'\n');
    write_whole(path, &bytes).map_err(|source| io(path, "written", source))
}
