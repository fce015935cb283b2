//! The types of a trajectory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One attempt at one task, from the first prompt message to the last observation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trajectory {
    /// Unique within `source`; repeats get `#2`, `#3` in order of reading.
    pub id: String,
    /// Name of the set that the attempt belongs to (a campaign, or a folder of imported files).
    pub source: String,
    /// The task that was attempted.
    pub task: String,
    /// Every message before the first model turn.
    pub prompt: Vec<Message>,
    /// What the model had seen after the prompt and before its first turn, in formats whose prompt is the system message
    /// alone because a simulated user opens the conversation (rule C5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_observation: Option<Vec<ObservationPart>>,
    /// Model turns in order, each with what came back.
    pub turns: Vec<Turn>,
    /// What a verdict says of the attempt.
    pub outcome: Outcome,
    /// The unified diff that the attempt left, where one was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// The harness's own word for how the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<String>,
    /// Model name as recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where the record was read.
    pub origin: Origin,
    /// Recorded messages, system and prompt included, one per tool result, `exit` messages excluded.
    pub message_count: u64,
    /// Fields of the source format that nothing here needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

/// One chat message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Text parts joined by a newline.
    pub content: String,
}

/// The speaker of a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of the scaffold; `developer` is read as this.
    System,
    /// The user, or a tool result in a text protocol.
    User,
    /// The model.
    Assistant,
    /// A tool result in a native protocol.
    Tool,
}

/// One model turn and what came back before the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// The model's output exactly as sampled, before repair; `None` where the source kept only the parsed form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Free text around the call (rule A15: CRLF to LF, trimmed; reasoning is not free text).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub free_text: String,
    /// What the turn does.
    pub action: Action,
    /// What came back, in message order; `None` when nothing did, which differs from an empty text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Vec<ObservationPart>>,
    /// The scaffold replaced earlier messages by a summary just before this turn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub condensed_before: bool,
}

/// The parsed form of a model turn. A turn is one action however many calls it holds (rule A5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// One or more well-formed tool calls.
    Calls {
        /// In the order the model wrote them; never empty.
        calls: Vec<ToolCall>,
    },
    /// Text without a call.
    Message,
    /// Output that could not be parsed (rule A12).
    Invalid {
        /// Content plus, per call, a newline and the stored call text; empty when `raw_missing`.
        text: String,
        /// The source dropped the model's output and only the error it caused is known (rule C3).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        raw_missing: bool,
    },
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Name as the model wrote it; aliases map only when keys are made.
    pub name: String,
    /// The arguments object.
    pub arguments: Arguments,
}

/// The arguments of a well-formed call: a JSON object whose members keep the order in which they were written.
pub type Arguments = Map<String, Value>;

/// One message of an observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservationPart {
    /// The tool that answered, or `None` for a user message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The text that the model saw.
    pub text: String,
}

/// What a verdict says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All required tests passed.
    Success,
    /// A definite verdict, and not a success.
    Failure,
    /// Nothing may be concluded; such attempts take part in nothing (rule C1).
    Unknown(UnknownCause),
}

/// Why an outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownCause {
    /// The sandbox, the model endpoint or the grader failed.
    Infrastructure,
    /// No verdict is recorded.
    NoVerdict,
}

/// Where a trajectory was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Name of the source format, for example `openhands-swegym`.
    pub format: String,
    /// Path or object key relative to what was read.
    pub path: String,
    /// 1-based line (JSONL), else 1.
    pub line: u64,
}
