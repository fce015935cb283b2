//! A model folder in Hugging Face layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sealign_batch::tokenizer::TokenizerError;
use sealign_batch::{ChatFormat, Tokenizer};
use serde_json::Value;
use thiserror::Error;

use super::config::{ConfigError, ModelConfig};
use super::tensors::{self, TensorFileError};
use super::weights::{Weights, WeightsError};

/// Why a model folder cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// A file is missing or unreadable.
    #[error("{path} cannot be read; a model folder needs config.json, model.safetensors and tokenizer.json")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The configuration is unusable.
    #[error("the model in {path} cannot be used")]
    Config {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: ConfigError,
    },
    /// A weight file is unusable.
    #[error("the weights in {path} cannot be read")]
    File {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: TensorFileError,
    },
    /// The weights do not fit the configuration.
    #[error("the weights in {path} do not fit its config.json")]
    Weights {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: WeightsError,
    },
    /// The shard index is unusable.
    #[error("{path} is not a shard index: {reason}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer is unusable.
    #[error("the tokenizer in {path} cannot be used")]
    Tokenizer {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: TokenizerError,
    },
    /// The chat template is unusable.
    #[error("the chat format of {path} cannot be used")]
    Chat {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: sealign_batch::chat::ChatError,
    },
    /// The tokenizer can emit ids that the embedding has no row for.
    #[error(
        "the tokenizer in {path} has ids up to {ids}, the model's vocabulary has {rows} rows; they do not belong together"
    )]
    Vocabulary {
        /// The folder.
        path: PathBuf,
        /// Ids of the tokenizer.
        ids: u32,
        /// Rows of the embedding.
        rows: usize,
    },
}

fn read_file(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    std::fs::read(path).map_err(|source| DirectoryError::Read { path: path.to_owned(), source })
}

/// Reads `config.json`.
pub fn read_config(folder: &Path) -> Result<ModelConfig, DirectoryError> {
    let path = folder.join("config.json");
    let document: Value =
        serde_json::from_slice(&read_file(&path)?).map_err(|error| DirectoryError::Config {
            path: folder.to_owned(),
            source: ConfigError::Parse { path: path.clone(), reason: error.to_string() },
        })?;
    ModelConfig::from_value(&document)
        .map_err(|source| DirectoryError::Config { path: folder.to_owned(), source })
}

/// Reads the weights, from one file or from shards, as float32.
pub fn read_weights(folder: &Path, config: &ModelConfig) -> Result<Weights, DirectoryError> {
    let mut named = BTreeMap::new();
    for file in weight_files(folder)? {
        tensors::read_into(&folder.join(file), &mut named)
            .map_err(|source| DirectoryError::File { path: folder.to_owned(), source })?;
    }
    Weights::from_hub(config, named)
        .map_err(|source| DirectoryError::Weights { path: folder.to_owned(), source })
}

/// Names of the weight files in a folder.
pub fn weight_files(folder: &Path) -> Result<BTreeSet<String>, DirectoryError> {
    let path = folder.join("model.safetensors.index.json");
    if !path.exists() {
        return Ok(BTreeSet::from(["model.safetensors".to_owned()]));
    }
    let fail = |reason: &str| DirectoryError::Index { path: path.clone(), reason: reason.to_owned() };
    let index: Value =
        serde_json::from_slice(&read_file(&path)?).map_err(|error| fail(&error.to_string()))?;
    let map =
        index.get("weight_map").and_then(Value::as_object).ok_or_else(|| fail("weight_map is missing"))?;
    map.values()
        .map(|file| match file.as_str() {
            // A name with a separator could reach outside of the folder.
            Some(file) if !file.contains(['/', '\\']) && file != ".." => Ok(file.to_owned()),
            _ => Err(fail("a shard is not a plain file name")),
        })
        .collect()
}

/// Reads `tokenizer.json`, or else `vocab.json`, `merges.txt` and `tokenizer_config.json`.
pub fn read_tokenizer(folder: &Path) -> Result<Tokenizer, DirectoryError> {
    let wrap = |source| DirectoryError::Tokenizer { path: folder.to_owned(), source };
    let whole = folder.join("tokenizer.json");
    if whole.exists() || !folder.join("vocab.json").exists() {
        return Tokenizer::from_json(&read_file(&whole)?).map_err(wrap);
    }
    let merges = String::from_utf8_lossy(&read_file(&folder.join("merges.txt"))?).into_owned();
    let config = read_file(&folder.join("tokenizer_config.json"))?;
    Tokenizer::from_vocab_and_merges(&read_file(&folder.join("vocab.json"))?, &merges, &config).map_err(wrap)
}

/// The chat template of a folder (`chat_template.jinja`, or `tokenizer_config.json`); ChatML where there is none and the
/// tokenizer has ChatML's control tokens.
pub fn read_chat_format(folder: &Path, tokenizer: &Tokenizer) -> Result<ChatFormat, DirectoryError> {
    let wrap = |source| DirectoryError::Chat { path: folder.to_owned(), source };
    let path = folder.join("tokenizer_config.json");
    let mut config: Value = if path.exists() {
        serde_json::from_slice(&read_file(&path)?).unwrap_or(Value::Null)
    } else {
        Value::Null
    };
    let template = folder.join("chat_template.jinja");
    if template.exists() {
        let source = String::from_utf8_lossy(&read_file(&template)?).into_owned();
        if !config.is_object() {
            config = Value::Object(serde_json::Map::new());
        }
        if let Some(members) = config.as_object_mut() {
            members.insert("chat_template".to_owned(), Value::String(source));
        }
    }
    let has_template = config.get("chat_template").is_some_and(|template| !template.is_null());
    let speaks_chat_ml = tokenizer.token_id(sealign_batch::chat::IM_START).is_some()
        && tokenizer.token_id(sealign_batch::chat::IM_END).is_some();
    if !has_template && speaks_chat_ml {
        return Ok(ChatFormat::chat_ml());
    }
    ChatFormat::from_tokenizer_config(config.to_string().as_bytes()).map_err(wrap)
}

/// Refuses a tokenizer whose ids do not fit the embedding.
pub fn check_vocabulary(
    folder: &Path,
    tokenizer: &Tokenizer,
    config: &ModelConfig,
) -> Result<(), DirectoryError> {
    let ids = tokenizer.vocab_rows();
    if usize::try_from(ids).is_ok_and(|ids| ids <= config.vocab) {
        return Ok(());
    }
    Err(DirectoryError::Vocabulary { path: folder.to_owned(), ids, rows: config.vocab })
}
