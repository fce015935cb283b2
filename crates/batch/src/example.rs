//! Training examples: an SFT trajectory, or a preference pair with its shared prompt.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conversation::{EncodeError, Encoded, Encoder, Message};

/// One supervised trajectory before tokenisation.
#[derive(Clone, Debug, PartialEq)]
pub struct SftExample {
    /// Task that the trajectory belongs to; the validation split keeps tasks whole.
    pub task: String,
    /// Name of the trajectory, for messages.
    pub id: String,
    /// The conversation.
    pub messages: Vec<Message>,
}

/// One preference before tokenisation.
#[derive(Clone, Debug, PartialEq)]
pub struct PairExample {
    /// Task that the pair belongs to.
    pub task: String,
    /// Name of the decision, for messages.
    pub id: String,
    /// Messages that both sides share. They carry no loss.
    pub prompt: Vec<Message>,
    /// The preferred continuation: one assistant turn, or more with observations between (whole trajectories).
    pub chosen: Vec<Message>,
    /// The continuation that it is preferred to.
    pub rejected: Vec<Message>,
}

/// Both sides of a pair, each with its prompt; weights are the share of each token in the side's log-probability.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedPair {
    /// Prompt and preferred continuation.
    pub chosen: Encoded,
    /// Prompt and rejected continuation.
    pub rejected: Encoded,
}

/// What the context limit did to an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Truncation {
    /// It fits.
    Whole,
    /// It was cut after the last complete assistant turn that fits.
    Cut,
    /// It is left out: not one assistant turn with loss fits (a pair: one of its sides does not fit).
    TooLong,
    /// It is left out: no token carries loss.
    NoLoss,
}

fn messages_of(row: &Value, field: &'static str) -> Result<Vec<Message>, EncodeError> {
    let list = row.get(field).and_then(Value::as_array).ok_or(EncodeError::Message {
        index: 0,
        reason: "the list is missing; SFT rows need messages, preference rows need prompt, chosen and rejected",
    })?;
    list.iter().enumerate().map(|(index, message)| Message::from_value(index, message)).collect()
}

fn text_of(row: &Value, fields: &[&str]) -> String {
    fields.iter().find_map(|field| row.get(field)?.as_str()).unwrap_or_default().to_owned()
}

impl SftExample {
    /// Reads one row of an SFT export: `{messages, instance_id, trajectory_id}`; further members are ignored.
    pub fn from_row(row: &Value) -> Result<Self, EncodeError> {
        Ok(Self {
            task: text_of(row, &["instance_id", "task"]),
            id: text_of(row, &["trajectory_id", "id", "instance_id"]),
            messages: messages_of(row, "messages")?,
        })
    }

    /// Encodes and applies the context limit (specs 5.5).
    pub fn encode(
        &self,
        encoder: &Encoder<'_>,
        context: usize,
    ) -> Result<(Encoded, Truncation), EncodeError> {
        let mut sequence = encoder.conversation(&self.messages)?;
        if !carries_loss(&sequence) {
            return Ok((sequence, Truncation::NoLoss));
        }
        if sequence.ids.len() <= context {
            return Ok((sequence, Truncation::Whole));
        }
        let end = sequence.turn_ends.iter().copied().take_while(|end| *end <= context).last().unwrap_or(0);
        sequence.ids.truncate(end);
        sequence.weights.truncate(end);
        sequence.turn_ends.retain(|turn_end| *turn_end <= end);
        let truncation = if carries_loss(&sequence) { Truncation::Cut } else { Truncation::TooLong };
        Ok((sequence, truncation))
    }
}

impl PairExample {
    /// Reads one row of a preference export: `{prompt, chosen, rejected, instance_id, node_id}`; more is ignored.
    pub fn from_row(row: &Value) -> Result<Self, EncodeError> {
        Ok(Self {
            task: text_of(row, &["instance_id", "task"]),
            id: text_of(row, &["node_id", "id", "instance_id"]),
            prompt: messages_of(row, "prompt")?,
            chosen: messages_of(row, "chosen")?,
            rejected: messages_of(row, "rejected")?,
        })
    }

    /// Encodes both sides; a pair with a side beyond the context limit is left out, never cut, because a cut prefix would
    /// change what the two sides are compared on.
    pub fn encode(
        &self,
        encoder: &Encoder<'_>,
        context: usize,
    ) -> Result<(EncodedPair, Truncation), EncodeError> {
        let pair = EncodedPair {
            chosen: self.side(encoder, &self.chosen)?,
            rejected: self.side(encoder, &self.rejected)?,
        };
        let truncation = if !carries_loss(&pair.chosen) || !carries_loss(&pair.rejected) {
            Truncation::NoLoss
        } else if pair.chosen.ids.len().max(pair.rejected.ids.len()) > context {
            Truncation::TooLong
        } else {
            Truncation::Whole
        };
        Ok((pair, truncation))
    }

    fn side(&self, encoder: &Encoder<'_>, completion: &[Message]) -> Result<Encoded, EncodeError> {
        let prompt = self.prompt.iter().cloned().map(|message| message.with_weight(0.0));
        let messages: Vec<Message> = prompt.chain(completion.iter().cloned()).collect();
        encoder.conversation(&messages)
    }
}

fn carries_loss(encoded: &Encoded) -> bool {
    encoded.weights.iter().any(|weight| *weight > 0.0)
}
