//! The rows that training reads (specs 7.3): one JSON object a line, in the shape that TRL reads too.
//!
//! Rows hold plain messages; tokens, masks and truncation belong to the batch crate. Columns that TRL does not know are
//! ignored by it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::chat::{ChatOptions, ChatTurn, to_chat};
use crate::record::{Role, Trajectory};

/// A row of more bytes than this is refused: no context window holds it.
pub const MAX_ROW_BYTES: usize = 64 * 1024 * 1024;

/// One message of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowMessage {
    /// System, user or assistant.
    pub role: Role,
    /// The text.
    pub content: String,
    /// False on assistant messages that stay out of the loss; left out otherwise.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub train: bool,
}

/// One successful attempt, for supervised fine-tuning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SftRow {
    /// The whole conversation.
    pub messages: Vec<RowMessage>,
    /// The task.
    pub instance_id: String,
    /// The attempt, as `source/id` of its trajectory.
    pub trajectory_id: String,
}

/// One preference pair: two continuations of one prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreferenceRow {
    /// The prompt and every turn and observation before the decision, from the chosen attempt.
    pub prompt: Vec<RowMessage>,
    /// The better continuation. One assistant message, or several with tool results between them.
    pub chosen: Vec<RowMessage>,
    /// The worse continuation.
    pub rejected: Vec<RowMessage>,
    /// Successes and paths of the better node as `s/n`.
    pub score_chosen: String,
    /// Successes and paths of the worse node as `s/n`.
    pub score_rejected: String,
    /// Paths through the better node.
    pub support_chosen: u64,
    /// Paths through the worse node.
    pub support_rejected: u64,
    /// The task.
    pub instance_id: String,
    /// Actions before the decision; 0 at the root.
    pub depth: u64,
    /// The decision point: tree and node, stable for equal forests.
    pub node_id: String,
    /// The two attempts had seen different observations before the decision.
    pub prefix_divergent: bool,
    /// The scaffold summarised earlier messages in the prefix, so it is not what the model saw.
    #[serde(default)]
    pub prefix_condensed: bool,
    /// The attempt that the prefix and the chosen continuation are from.
    #[serde(default)]
    pub trajectory_chosen: String,
    /// The attempt that the rejected continuation is from.
    #[serde(default)]
    pub trajectory_rejected: String,
}

/// A row could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The line is not a row.
    #[error("line {line} is not a training row; export the rows again")]
    Parse {
        /// 1-based.
        line: usize,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// The line is longer than [`MAX_ROW_BYTES`].
    #[error("line {line} is longer than {MAX_ROW_BYTES} bytes; leave the row out")]
    TooLong {
        /// 1-based.
        line: usize,
    },
}

/// Renders an attempt as a training row.
pub fn sft_row(trajectory: &Trajectory, options: &ChatOptions) -> SftRow {
    SftRow {
        messages: row_messages(to_chat(trajectory, options)),
        instance_id: trajectory.task.clone(),
        trajectory_id: full_id(trajectory),
    }
}

/// The name of an attempt across sources.
pub fn full_id(trajectory: &Trajectory) -> String {
    format!("{}/{}", trajectory.source, trajectory.id)
}

/// Messages as rows hold them: only a masked assistant message carries `train`.
pub fn row_messages(turns: Vec<ChatTurn>) -> Vec<RowMessage> {
    turns
        .into_iter()
        .map(|turn| RowMessage {
            // Demonstrations in the prompt are assistant messages too, and masked.
            train: turn.role != Role::Assistant || turn.trainable,
            role: turn.role,
            content: turn.content,
        })
        .collect()
}

/// Reads rows from JSON lines; empty lines are skipped.
///
/// # Errors
/// [`RowError`] for the first line that is not a row.
pub fn parse_rows<Row: DeserializeOwned>(text: &str) -> Result<Vec<Row>, RowError> {
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.len() > MAX_ROW_BYTES {
            return Err(RowError::TooLong { line: index + 1 });
        }
        if !line.trim().is_empty() {
            rows.push(
                serde_json::from_str(line).map_err(|source| RowError::Parse { line: index + 1, source })?,
            );
        }
    }
    Ok(rows)
}

/// Writes rows as JSON lines. Equal rows give equal bytes.
///
/// # Errors
/// Only when a value has no JSON form, which no row type here has.
pub fn write_rows<Row: Serialize>(rows: &[Row]) -> Result<String, serde_json::Error> {
    let mut out = String::new();
    for row in rows {
        out.push_str(&serde_json::to_string(row)?);
        out.push('\n');
    }
    Ok(out)
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_yes(value: &bool) -> bool {
    *value
}
