//! The shape of a decoder-only model: from its `config.json`, or by the name of a model that many people use.

use serde_json::Value;

/// Why a document is no shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is missing or no whole number between 1 and 2^31")]
pub struct ShapeError {
    /// The field of `config.json`.
    pub field: &'static str,
}

/// Sizes of a Qwen2 or Llama model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Hidden size.
    pub hidden: u64,
    /// Feed-forward size.
    pub feed_forward: u64,
    /// Layers.
    pub layers: u64,
    /// Query heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Size of a head.
    pub head_dim: u64,
    /// Rows of the vocabulary.
    pub vocabulary: u64,
    /// Output head and embedding are one matrix.
    pub is_tied: bool,
    /// Query, key and value projections have biases.
    pub has_bias: bool,
}

/// Whether output head and embedding are one matrix, as the table below says it.
const TIED: bool = true;
const UNTIED: bool = false;

/// Names without their ending, and: layers, hidden, feed-forward, query heads, key-value heads, vocabulary, tied, biases.
/// From the `config.json` that each was published with.
const KNOWN: [(&[&str], [u64; 6], bool, bool); 13] = [
    (&["mini-base"], [4, 128, 352, 4, 4, 1_024], TIED, true),
    (&["SmolLM2-135M"], [30, 576, 1_536, 9, 3, 49_152], TIED, false),
    (&["SmolLM2-360M"], [32, 960, 2_560, 15, 5, 49_152], TIED, false),
    (&["SmolLM2-1.7B"], [24, 2_048, 8_192, 32, 32, 49_152], TIED, false),
    (&["Qwen2.5-0.5B", "Qwen2.5-Coder-0.5B"], [24, 896, 4_864, 14, 2, 151_936], TIED, true),
    (&["Qwen2.5-1.5B", "Qwen2.5-Coder-1.5B"], [28, 1_536, 8_960, 12, 2, 151_936], TIED, true),
    (&["Qwen2.5-3B", "Qwen2.5-Coder-3B"], [36, 2_048, 11_008, 16, 2, 151_936], TIED, true),
    (&["Qwen2.5-7B", "Qwen2.5-Coder-7B"], [28, 3_584, 18_944, 28, 4, 152_064], UNTIED, true),
    (&["Qwen2.5-14B", "Qwen2.5-Coder-14B"], [48, 5_120, 13_824, 40, 8, 152_064], UNTIED, true),
    (&["Qwen2.5-32B", "Qwen2.5-Coder-32B"], [64, 5_120, 27_648, 40, 8, 152_064], UNTIED, true),
    (&["Qwen2.5-72B"], [80, 8_192, 29_568, 64, 8, 152_064], UNTIED, true),
    (&["Meta-Llama-3-8B", "Llama-3-8B", "Llama-3.1-8B"], [32, 4_096, 14_336, 32, 8, 128_256], UNTIED, false),
    (
        &["Meta-Llama-3-70B", "Llama-3-70B", "Llama-3.1-70B"],
        [80, 8_192, 28_672, 64, 8, 128_256],
        UNTIED,
        false,
    ),
];

/// Endings that do not change a model's shape, in small letters.
const ENDINGS: [&str; 2] = ["-instruct", "-base"];

impl Shape {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// [`ShapeError`] names a field that is missing or no size.
    pub fn from_config(document: &Value) -> Result<Self, ShapeError> {
        let heads = size(document, "num_attention_heads")?;
        let hidden = size(document, "hidden_size")?;
        let or = |field, otherwise| match document.get(field) {
            None | Some(Value::Null) => Ok(otherwise),
            Some(_) => size(document, field),
        };
        Ok(Self {
            hidden,
            feed_forward: size(document, "intermediate_size")?,
            layers: size(document, "num_hidden_layers")?,
            heads,
            kv_heads: or("num_key_value_heads", heads)?,
            head_dim: or("head_dim", hidden / heads)?,
            vocabulary: size(document, "vocab_size")?,
            is_tied: document.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            has_bias: document.get("model_type").and_then(Value::as_str) == Some("qwen2"),
        })
    }

    /// The shape of a model that is known by name: the last part of its name on the Hub, in any case.
    pub fn known(name: &str) -> Option<Self> {
        let last = name.trim_end_matches('/').rsplit('/').next()?.to_ascii_lowercase();
        let stem = ENDINGS.iter().find_map(|ending| last.strip_suffix(ending)).unwrap_or(&last);
        let of = |wanted: &str| {
            KNOWN.iter().find(|(names, ..)| names.iter().any(|name| name.eq_ignore_ascii_case(wanted)))
        };
        let (_, sizes, is_tied, has_bias) = of(&last).or_else(|| of(stem))?;
        let [layers, hidden, feed_forward, heads, kv_heads, vocabulary] = *sizes;
        let (is_tied, has_bias) = (*is_tied, *has_bias);
        let head_dim = hidden / heads;
        Some(Self { hidden, feed_forward, layers, heads, kv_heads, head_dim, vocabulary, is_tied, has_bias })
    }

    /// Rows of the fused query, key and value projection.
    pub fn fused_rows(&self) -> u64 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Parameters of a layer.
    pub fn layer_parameters(&self) -> u64 {
        let bias = if self.has_bias { self.fused_rows() } else { 0 };
        let attention = self.fused_rows() * self.hidden + bias + self.hidden * self.heads * self.head_dim;
        attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
    }

    /// Parameters outside of the layers: embedding, head, final norm.
    pub fn outer_parameters(&self) -> u64 {
        self.vocabulary * self.hidden * if self.is_tied { 1 } else { 2 } + self.hidden
    }

    /// All parameters; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.outer_parameters() + self.layers * self.layer_parameters()
    }

    /// Parameters of an adapter of this rank on the seven projections of every layer.
    pub fn adapter_parameters(&self, rank: u64) -> u64 {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys);
        self.layers * rank * (attention + 3 * (self.hidden + self.feed_forward))
    }
}

fn size(document: &Value, field: &'static str) -> Result<u64, ShapeError> {
    document
        .get(field)
        .and_then(Value::as_u64)
        .filter(|size| (1..1 << 31).contains(size))
        .ok_or(ShapeError { field })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_models_have_the_parameters_that_they_were_published_with() {
        for (name, parameters) in [
            ("mini-base", 936_576),
            ("SmolLM2-135M-Instruct", 134_515_008),
            ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
            ("smollm2-1.7b-instruct", 1_711_376_384),
            ("Qwen2.5-0.5B", 494_032_768),
            ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1_543_714_304),
            ("Qwen2.5-3B", 3_085_938_688),
            ("Qwen2.5-Coder-7B", 7_615_616_512),
            ("/models/Qwen2.5-14B-Instruct/", 14_770_033_664),
            ("Qwen2.5-32B", 32_763_876_352),
            ("Qwen2.5-72B", 72_706_203_648),
            ("Meta-Llama-3-8B-Instruct", 8_030_261_248),
            ("Llama-3.1-70B", 70_553_706_496),
        ] {
            assert_eq!(Shape::known(name).unwrap().parameters(), parameters, "{name}");
        }
        assert_eq!(Shape::known("my-own-7B"), None);
        assert_eq!(Shape::known(""), None);
    }

    #[test]
    fn a_configuration_is_read_with_the_defaults_of_its_family() {
        let mut document = json!({
            "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152_064, "head_dim": null,
        });
        assert_eq!(Shape::from_config(&document), Ok(Shape::known("Qwen2.5-14B").unwrap()));
        document["vocab_size"] = json!("many");
        let error = Shape::from_config(&document).unwrap_err();
        assert_eq!(error.to_string(), "vocab_size is missing or no whole number between 1 and 2^31");
        document["vocab_size"] = json!(0);
        assert!(Shape::from_config(&document).is_err());
    }
}
