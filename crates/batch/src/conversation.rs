//! Messages to token ids with one loss weight per token.
//!
//! The weight at index `i` belongs to the prediction of token `i` from the tokens before it; index 0 is never predicted.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::chat::{ChatError, ChatFormat, Piece, Rendered};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why a conversation could not be encoded.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The messages could not be rendered.
    #[error("the messages cannot be rendered")]
    Chat(#[from] ChatError),
    /// The tokenizer refused a text.
    #[error("a message cannot be tokenised")]
    Tokenizer(#[from] TokenizerError),
    /// The chat format needs a control token that the tokenizer does not have.
    #[error(
        "the tokenizer has no token {token:?}; add it to added_tokens in tokenizer.json or choose another chat format"
    )]
    MissingControl {
        /// The token's text.
        token: String,
    },
    /// A row's message has the wrong shape.
    #[error("messages[{index}]: {reason}")]
    Message {
        /// Index in the list.
        index: usize,
        /// What is wrong, with the remedy.
        reason: &'static str,
    },
}

/// One message of a conversation, as Hugging Face and OpenAI rows write it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the chat template knows.
    pub role: String,
    /// The text.
    pub content: String,
    /// Loss weight of the message's tokens; `None` is 1 for assistant messages and 0 for all others.
    pub weight: Option<f32>,
    /// Further members, such as `tool_calls`, that a chat template may read.
    pub fields: Map<String, Value>,
}

/// Which tokens of a trained message carry its weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MaskMode {
    /// The content and the end-of-turn token: exactly what the model itself emits.
    #[default]
    Assistant,
    /// As TRL's training templates mark it: also the line break after the role and the one after the end of the turn.
    Trl,
    /// Every token of the conversation, headers included; for pretraining.
    All,
}

/// Token ids of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Loss weight of predicting each token; as long as `ids`.
    pub weights: Vec<f32>,
    /// End (exclusive) of every complete assistant turn, end-of-turn token included, ascending.
    pub turn_ends: Vec<usize>,
}

impl Message {
    /// A message with the default weight.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), weight: None, fields: Map::new() }
    }

    /// The same message with an explicit loss weight.
    #[must_use]
    pub fn with_weight(mut self, weight: f32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// The weight after the default for the role.
    pub fn effective_weight(&self) -> f32 {
        self.weight.unwrap_or(if self.role == "assistant" { 1.0 } else { 0.0 })
    }

    /// Reads one element of `messages`. `train` (bool) and `weight` (number, 0 or more) set the loss weight; a `content` that
    /// is null or absent is empty, and a list of text parts is joined.
    pub fn from_value(index: usize, value: &Value) -> Result<Self, EncodeError> {
        let fail = |reason| EncodeError::Message { index, reason };
        let Value::Object(members) = value else {
            return Err(fail("is not an object; write {role, content}"));
        };
        let mut fields = members.clone();
        let role = match fields.shift_remove("role") {
            Some(Value::String(role)) if !role.is_empty() => role,
            _ => return Err(fail("role is missing; write system, user, assistant or tool")),
        };
        let content = match fields.shift_remove("content") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(content)) => content,
            Some(Value::Array(parts)) => parts
                .iter()
                .map(|part| part.get("text").and_then(Value::as_str))
                .collect::<Option<String>>()
                .ok_or_else(|| {
                    fail("content has a part that is not text; only text parts can be trained on")
                })?,
            Some(_) => return Err(fail("content is neither text nor a list of text parts")),
        };
        let train = match fields.shift_remove("train") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(train)) => Some(f32::from(u8::from(train))),
            Some(_) => return Err(fail("train is not true or false")),
        };
        let weight = match fields.shift_remove("weight") {
            None | Some(Value::Null) => None,
            Some(weight) => match weight.as_f64() {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a loss weight needs no more than single precision"
                )]
                Some(weight) if weight >= 0.0 && weight.is_finite() => Some(weight as f32),
                _ => return Err(fail("weight is not a number of at least 0")),
            },
        };
        Ok(Self { role, content, weight: weight.or(train), fields })
    }

    /// The message as a chat template sees it.
    pub fn to_value(&self) -> Value {
        let mut members = Map::new();
        members.insert("role".to_owned(), Value::String(self.role.clone()));
        members.insert("content".to_owned(), Value::String(self.content.clone()));
        members.extend(self.fields.clone());
        Value::Object(members)
    }
}

/// Encodes conversations with one tokenizer and one chat format.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'model> {
    /// The tokenizer.
    pub tokenizer: &'model Tokenizer,
    /// How messages become text.
    pub format: &'model ChatFormat,
    /// Which tokens of a trained message carry weight.
    pub mask: MaskMode,
}

impl Encoder<'_> {
    /// Encodes a whole conversation.
    pub fn conversation(&self, messages: &[Message]) -> Result<Encoded, EncodeError> {
        let wanted: Vec<usize> = messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.role == "assistant" || message.effective_weight() > 0.0)
            .map(|(index, _)| index)
            .collect();
        let rendered = self.format.render(messages, &wanted, false, self.tokenizer)?;
        let (ids, piece_starts) = self.ids(&rendered)?;
        let mut encoded = Encoded { weights: vec![0.0; ids.len()], ids, turn_ends: Vec::new() };
        for (index, body) in &rendered.bodies {
            let Some(message) = messages.get(*index) else { continue };
            let at = |piece: usize| piece_starts.get(piece).copied().unwrap_or(encoded.ids.len());
            let (mut start, mut end) = (at(body.start), at(body.end));
            if message.role == "assistant" {
                encoded.turn_ends.push(end);
            } else if matches!(self.format, ChatFormat::ChatMl { .. }) {
                start += self.tokenizer.encode_plain(&format!("{}\n", message.role))?.len();
            }
            if self.mask == MaskMode::Trl {
                start = start.saturating_sub(1);
                end = (end + 1).min(encoded.ids.len());
            }
            for weight in encoded.weights.get_mut(start..end).unwrap_or_default() {
                *weight = message.effective_weight();
            }
        }
        if self.mask == MaskMode::All {
            encoded.weights.fill(1.0);
        }
        if let Some(first) = encoded.weights.first_mut() {
            *first = 0.0;
        }
        Ok(encoded)
    }

    /// Encodes messages followed by the opening of an assistant turn.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, EncodeError> {
        let rendered = self.format.render(messages, &[], true, self.tokenizer)?;
        Ok(self.ids(&rendered)?.0)
    }

    /// Ids of all pieces, and the index of each piece's first id.
    fn ids(&self, rendered: &Rendered) -> Result<(Vec<u32>, Vec<usize>), EncodeError> {
        let mut ids = Vec::new();
        let mut starts = Vec::with_capacity(rendered.pieces.len());
        for piece in &rendered.pieces {
            starts.push(ids.len());
            match piece {
                Piece::Control(token) => ids.push(
                    self.tokenizer
                        .token_id(token)
                        .ok_or_else(|| EncodeError::MissingControl { token: token.clone() })?,
                ),
                Piece::Text(text) => ids.extend(self.tokenizer.encode_plain(text)?),
            }
        }
        Ok((ids, starts))
    }
}
