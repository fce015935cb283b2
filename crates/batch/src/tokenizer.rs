//! The tokenizer as this workspace needs it: untrusted text never becomes a control token.
//!
//! A thin wrapper over the `tokenizers` crate. It adds nothing to the vocabulary, and it does not know any model family:
//! what a special token is comes from `tokenizer.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use thiserror::Error;

/// Why a tokenizer could not be made, or could not encode a text.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The bytes are not a `tokenizer.json` of the `tokenizers` library.
    #[error(
        "tokenizer.json cannot be read: {reason}; give the file that lies beside the model's config.json"
    )]
    Parse {
        /// What the library said.
        reason: String,
    },
    /// `vocab.json`, `merges.txt` or `tokenizer_config.json` is not what its name promises.
    #[error("{file} cannot be read: {reason}")]
    Part {
        /// Which of the files.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Encoding or decoding failed inside the library.
    #[error("the tokenizer cannot process a text of {bytes} bytes: {reason}")]
    Process {
        /// Length of the text, or of the id list, that failed.
        bytes: usize,
        /// What the library said.
        reason: String,
    },
    /// A special token wants white space around it swallowed, which would move turn boundaries.
    #[error(
        "special token {token:?} strips white space (lstrip or rstrip); set both to false in tokenizer.json"
    )]
    Stripping {
        /// The token's text.
        token: String,
    },
    /// A text turned into a control token although it was encoded as plain text.
    #[error(
        "plain text encodes to the control token {token:?}; remove the merge that builds it from tokenizer.json"
    )]
    Forged {
        /// The token's text.
        token: String,
    },
}

/// A loaded tokenizer. Cheap to share by reference, expensive to clone.
#[derive(Debug)]
pub struct Tokenizer {
    plain: tokenizers::Tokenizer,
    specials: BTreeMap<String, u32>,
    rows: u32,
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut plain = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TokenizerError::Parse { reason: error.to_string() })?;
        // Truncation and padding in the file are for inference scripts; here lengths are decided by the data rules.
        let _ = plain.with_truncation(None);
        plain.with_padding(None);
        plain.set_encode_special_tokens(true);
        let mut specials = BTreeMap::new();
        for (id, token) in plain.get_added_tokens_decoder() {
            if !token.special {
                continue;
            }
            if token.lstrip || token.rstrip {
                return Err(TokenizerError::Stripping { token: token.content });
            }
            specials.insert(token.content, id);
        }
        let rows = plain.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        Ok(Self { plain, specials, rows })
    }

    /// Builds the byte-level BPE tokenizer of the Qwen2 family from its older three-file form.
    pub fn from_vocab_and_merges(vocab: &[u8], merges: &str, config: &[u8]) -> Result<Self, TokenizerError> {
        let vocab: Value = serde_json::from_slice(vocab)
            .map_err(|error| TokenizerError::Part { file: "vocab.json", reason: error.to_string() })?;
        let config: Value = serde_json::from_slice(config).map_err(|error| TokenizerError::Part {
            file: "tokenizer_config.json",
            reason: error.to_string(),
        })?;
        let merges: Vec<&str> =
            merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
        let document = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added_tokens(&config)?,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            ]},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges},
        });
        Self::from_json(document.to_string().as_bytes())
    }

    /// Number of rows an embedding needs for every id of this tokenizer.
    pub fn vocab_rows(&self) -> u32 {
        self.rows
    }

    /// Id of a token by its exact text, special or not.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.specials.get(token).copied().or_else(|| self.plain.token_to_id(token))
    }

    /// Text and id of every special token, sorted by text.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.specials.iter().map(|(text, id)| (text.as_str(), *id))
    }

    /// True when the id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.values().any(|special| *special == id)
    }

    /// Encodes a text in which nothing is a special token, whatever it spells (specs 7.1).
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.encode_ordinary(text)?;
        if !ids.iter().any(|id| self.is_special(*id)) {
            return Ok(ids);
        }
        // Some vocabularies can merge their way to a control token. Splitting its spelling after the first character keeps
        // the text and makes that merge impossible.
        let mut rebuilt = Vec::with_capacity(ids.len());
        for piece in self.split_inside_specials(text) {
            rebuilt.extend(self.encode_ordinary(piece)?);
        }
        match rebuilt.iter().find(|id| self.is_special(**id)) {
            None => Ok(rebuilt),
            Some(id) => {
                Err(TokenizerError::Forged { token: self.special_text(*id).unwrap_or_default().to_owned() })
            }
        }
    }

    /// Decodes ids to text. Incomplete UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        self.plain
            .decode(ids, skip_special_tokens)
            .map_err(|error| TokenizerError::Process { bytes: ids.len(), reason: error.to_string() })
    }

    /// Text of a special token.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        self.specials.iter().find(|(_, special)| **special == id).map(|(text, _)| text.as_str())
    }

    fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .plain
            .encode_fast(text, false)
            .map_err(|error| TokenizerError::Process { bytes: text.len(), reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    fn split_inside_specials<'text>(&self, text: &'text str) -> Vec<&'text str> {
        let mut cuts: Vec<usize> = self
            .specials
            .keys()
            .flat_map(|special| {
                let first = special.chars().next().map_or(0, char::len_utf8);
                text.match_indices(special.as_str()).map(move |(at, _)| at + first)
            })
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces = Vec::with_capacity(cuts.len() + 1);
        let mut rest = text;
        let mut done = 0;
        for cut in cuts {
            let (head, tail) = rest.split_at(cut - done);
            pieces.push(head);
            rest = tail;
            done = cut;
        }
        pieces.push(rest);
        pieces
    }
}

/// The split pattern of Qwen2's pre-tokenizer.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn added_tokens(config: &Value) -> Result<Vec<Value>, TokenizerError> {
    let part =
        |reason: &str| TokenizerError::Part { file: "tokenizer_config.json", reason: reason.to_owned() };
    let decoder = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
        .ok_or_else(|| part("added_tokens_decoder is missing"))?;
    let mut tokens = Vec::with_capacity(decoder.len());
    for (id, token) in decoder {
        let id: u32 = id.parse().map_err(|_| part("an id in added_tokens_decoder is not a number"))?;
        let mut token = token.as_object().cloned().ok_or_else(|| part("an added token is not an object"))?;
        token.insert("id".to_owned(), json!(id));
        tokens.push((id, Value::Object(token)));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}
