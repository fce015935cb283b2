//! `config.json` of the Hub, read into what the decoder needs.

use std::path::PathBuf;

use serde_json::Value;
use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is not JSON.
    #[error("{path} cannot be read as JSON: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A field is missing or has the wrong type.
    #[error("config.json: {field} must be {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// The model uses something that this decoder does not compute.
    #[error("config.json: {field} is {value}, which this trainer does not compute; {remedy}")]
    Unsupported {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// Model families; they differ in biases only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Qwen2, Qwen2.5, Qwen2.5-Coder: query, key and value projections have biases.
    Qwen2,
    /// Llama 2 and 3, SmolLM2: no biases.
    Llama,
}

/// Shape and constants of a model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Family.
    pub family: Family,
    /// Hidden size `C`.
    pub hidden: usize,
    /// Feed-forward size `F`.
    pub feed_forward: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key-value heads `K`; divides `H`.
    pub kv_heads: usize,
    /// Head size `D`, even.
    pub head_dim: usize,
    /// Vocabulary rows `V`.
    pub vocab: usize,
    /// Epsilon of the RMS norms.
    pub norm_epsilon: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Output head and embedding share one matrix.
    pub tied: bool,
    /// Longest sequence that the model was made for.
    pub max_positions: usize,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The document itself, written out again with the weights.
    pub document: Value,
}

impl ModelConfig {
    /// Reads a parsed `config.json`.
    pub fn from_value(document: &Value) -> Result<Self, ConfigError> {
        let family = match document.get("model_type").and_then(Value::as_str) {
            Some("qwen2") => Family::Qwen2,
            Some("llama") => Family::Llama,
            other => {
                return Err(ConfigError::Unsupported {
                    field: "model_type",
                    value: other.unwrap_or("missing").to_owned(),
                    remedy: "use a qwen2 or llama model",
                });
            }
        };
        refuse_variants(document)?;
        let heads = size(document, "num_attention_heads")?;
        let hidden = size(document, "hidden_size")?;
        let kv_heads = optional_size(document, "num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::Field {
                field: "num_key_value_heads",
                expected: "a divisor of num_attention_heads",
            });
        }
        let head_dim = optional_size(document, "head_dim")?.unwrap_or(hidden / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(ConfigError::Field { field: "head_dim", expected: "an even number of at least 2" });
        }
        Ok(Self {
            family,
            hidden,
            feed_forward: size(document, "intermediate_size")?,
            layers: size(document, "num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            vocab: size(document, "vocab_size")?,
            norm_epsilon: document.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            rope_theta: rope_theta(document)?,
            tied: document.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            max_positions: optional_size(document, "max_position_embeddings")?.unwrap_or(32_768),
            initializer_range: document.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02),
            document: document.clone(),
        })
    }

    /// Rows of the fused query, key and value projection.
    pub fn qkv_rows(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// True when query, key and value projections have biases.
    pub fn qkv_bias(&self) -> bool {
        self.family == Family::Qwen2
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameters(&self) -> usize {
        let bias = if self.qkv_bias() { self.qkv_rows() } else { 0 };
        let attention = self.qkv_rows() * self.hidden + bias + self.hidden * self.heads * self.head_dim;
        let layer = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden;
        let embeddings = self.vocab * self.hidden * if self.tied { 1 } else { 2 };
        embeddings + self.layers * layer + self.hidden
    }
}

fn optional_size(document: &Value, field: &'static str) -> Result<Option<usize>, ConfigError> {
    match document.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            // 2^31 rows of anything do not fit the machines this runs on; beyond it the file is not a configuration.
            Some(value) if (1..1 << 31).contains(&value) => Ok(Some(value)),
            _ => Err(ConfigError::Field { field, expected: "a whole number between 1 and 2^31" }),
        },
    }
}

fn size(document: &Value, field: &'static str) -> Result<usize, ConfigError> {
    optional_size(document, field)?
        .ok_or(ConfigError::Field { field, expected: "present: a whole number between 1 and 2^31" })
}

/// Older files have `rope_theta` at the top, newer ones inside `rope_parameters`.
fn rope_theta(document: &Value) -> Result<f64, ConfigError> {
    let nested = document.get("rope_parameters").and_then(|parameters| parameters.get("rope_theta"));
    match nested.or_else(|| document.get("rope_theta")) {
        None | Some(Value::Null) => Ok(10_000.0),
        Some(value) => value
            .as_f64()
            .filter(|theta| *theta > 1.0)
            .ok_or(ConfigError::Field { field: "rope_theta", expected: "a number above 1" }),
    }
}

fn refuse_variants(document: &Value) -> Result<(), ConfigError> {
    let unsupported = |field, value: &Value, remedy| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Err(ConfigError::Unsupported { field, value, remedy })
    };
    if let Some(activation) = document.get("hidden_act")
        && activation.as_str() != Some("silu")
    {
        return unsupported("hidden_act", activation, "use a model with silu");
    }
    for holder in ["rope_scaling", "rope_parameters"] {
        let kind =
            document.get(holder).and_then(|scaling| scaling.get("rope_type").or_else(|| scaling.get("type")));
        if let Some(kind) = kind
            && kind.as_str() != Some("default")
        {
            return unsupported(
                "rope_type",
                kind,
                "remove the scaling if the context you train at does not need it",
            );
        }
    }
    for (field, remedy) in [
        ("use_sliding_window", "set it to false if the context you train at fits the window"),
        ("attention_bias", "use a model without it"),
        ("mlp_bias", "use a model without it"),
    ] {
        if let Some(value) = document.get(field)
            && value.as_bool() == Some(true)
        {
            return unsupported(field, value, remedy);
        }
    }
    Ok(())
}
