//! Recognising a format by a record's own fields.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A source format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Recognise each file by its content.
    Auto,
    /// OpenHands rollouts on SWE-Gym tasks: chat messages with tool calls, one row a line (specs 6.5).
    Swegym,
    /// mini-swe-agent `*.traj.json` (specs 6.4).
    MiniSweAgent,
    /// Our own stored trajectories, one a line.
    Stored,
    /// OpenHands `output.jsonl` rows and saved event lists, before the SDK (specs 1.11, 6.1).
    OpenhandsEvents,
    /// OpenHands software-agent SDK event streams (specs 6.2).
    OpenhandsSdk,
    /// OpenHands completion logs: a request with its response (specs 1.11).
    OpenhandsCompletion,
    /// SWE-agent `.traj` (specs 6.3), and the nebius rows made from it (6.5).
    SweAgent,
    /// Chat rows as OpenAI's fine-tuning takes them, SWE-smith's among them (specs 6.5, 6.6).
    OpenaiChat,
    /// tau-bench conversations with a simulated user.
    TauBench,
    /// InterCode results: commands with a reward after each.
    Intercode,
}

impl Format {
    /// Every format that can be named, with its name.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("auto", Self::Auto),
        ("swegym", Self::Swegym),
        ("mini-swe-agent", Self::MiniSweAgent),
        ("stored", Self::Stored),
        ("openhands-events", Self::OpenhandsEvents),
        ("openhands-sdk", Self::OpenhandsSdk),
        ("openhands-completion", Self::OpenhandsCompletion),
        ("swe-agent", Self::SweAgent),
        ("openai-chat", Self::OpenaiChat),
        ("tau-bench", Self::TauBench),
        ("intercode", Self::Intercode),
    ];

    /// The format's name as a user writes it and as [`crate::Origin::format`] holds it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("auto", |(name, _)| name)
    }

    /// Reads a name; `mini_swe_agent` is accepted for `mini-swe-agent`, and so on.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.replace('_', "-").to_ascii_lowercase();
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

/// Recognises the format of a record, most particular first.
pub(super) fn detect(path: &str, value: &Value) -> Option<Format> {
    if let Some(first) = value.as_array().and_then(|items| items.first()) {
        return is_monolith_event(first).then_some(Format::OpenhandsEvents);
    }
    let record = value.as_object()?;
    let has = |name: &str| record.get(name).is_some_and(|field| !field.is_null());
    if record
        .get("trajectory_format")
        .and_then(Value::as_str)
        .is_some_and(|name| name.starts_with("mini-swe-agent"))
        || (super::files::without_gz(path).ends_with(".traj.json") && has("messages") && has("info"))
    {
        return Some(Format::MiniSweAgent);
    }
    if has("prompt") && has("turns") && has("origin") && has("outcome") {
        return Some(Format::Stored);
    }
    if has("messages") && has("instance_id") && (has("run_id") || has("test_result") || has("resolved")) {
        let is_swe_smith = has("traj_id") && !has("test_result");
        return Some(if is_swe_smith { Format::OpenaiChat } else { Format::Swegym });
    }
    if has("messages") && record.get("response").is_some_and(|response| response.get("choices").is_some()) {
        return Some(Format::OpenhandsCompletion);
    }
    if super::openhands_sdk::is_event(record) {
        return Some(Format::OpenhandsSdk);
    }
    let first_of = |name: &str| record.get(name).and_then(Value::as_array).and_then(|items| items.first());
    if first_of("history").is_some_and(is_monolith_event) {
        return Some(Format::OpenhandsEvents);
    }
    if has("trajectory")
        && (has("history")
            || first_of("trajectory")
                .is_some_and(|step| step.get("text").is_some() || step.get("system_prompt").is_some()))
    {
        return Some(Format::SweAgent);
    }
    if has("traj") && has("reward") {
        return Some(Format::TauBench);
    }
    if record.values().next().is_some_and(|first| first.get("turn_history").is_some()) {
        return Some(Format::Intercode);
    }
    let is_chat = |name: &str| first_of(name).is_some_and(|message| message.get("role").is_some());
    (is_chat("messages") || is_chat("trajectory") || record.get("messages").is_some_and(Value::is_string))
        .then_some(Format::OpenaiChat)
}

/// An event of the monolith, or a pair of them.
fn is_monolith_event(item: &Value) -> bool {
    let event = item.as_array().map_or(Some(item), |pair| pair.first());
    event.is_some_and(|event| event.get("action").is_some() || event.get("observation").is_some())
        && event.is_some_and(|event| event.get("role").is_none() && event.get("response").is_none())
}
