//! Chat messages to model turns: what the formats that store conversations share.
//!
//! A model turn is one assistant message, however many calls it holds (A5); what follows up to the next one is its
//! observation, tool results first, matched by position because ids repeat across turns (B2). A message that reports
//! an error of an output which is not there becomes the observation of a synthesised invalid turn (C3).

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::fields::{Record, RecordError, content, mismatch};
use crate::json;
use crate::key::free_text;
use crate::observe::unwrap;
use crate::protocol::{self, Parsed};
use crate::record::{Action, Message, ObservationPart, Role, ToolCall, Turn};

/// What OpenHands ends a message with that reports a malformed output (specs 1.4).
const OPENHANDS_ERROR_ENDING: &str = "[Error occurred in processing last action]";
/// The line in front of the task when an in-context example was put before it (specs 1.5).
const TASK_OPENING: &str = "--------------------- NEW TASK DESCRIPTION ---------------------\n";
const TASK_CLOSING: &str = "\n--------------------- END OF NEW TASK DESCRIPTION ---------------------";
const EXAMPLE_OPENING: &str = "Here's a running example of how to perform a task with the provided tools.";

static FENCE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?s)```(?:bash|mswea_bash_command)\s*\n(.*?)\n```").ok());

/// How calls are written where a conversation has no native ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextCalls {
    /// `<function=...>` (specs 1.5).
    Functions,
    /// Exactly one fenced `bash` block (mini-swe-agent 1); `extra.actions` come first (C15).
    Fences,
    /// A command that the source parsed already and stored as `action` beside the text (SWE-agent).
    Commands,
}

/// Set on an assistant message by importers whose source condensed the history just before it.
pub(super) const CONDENSED_BEFORE: &str = "sealign:condensed_before";

/// A conversation as turns.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) prompt: Vec<Message>,
    pub(super) turns: Vec<Turn>,
}

struct Reader {
    text_calls: TextCalls,
    is_native: bool,
    conversation: Conversation,
    /// Results of tools, then user messages, since the last model turn.
    results: Vec<ObservationPart>,
    remarks: Vec<ObservationPart>,
}

/// Reads a list of chat messages. Messages of other roles must have been taken out before.
pub(super) fn read(messages: &[Value], text_calls: TextCalls) -> Result<Conversation, RecordError> {
    let is_native = messages.iter().any(|message| {
        message.get("role").and_then(Value::as_str) == Some("tool")
            || !calls_of(message.as_object()).is_empty()
    });
    let mut reader = Reader {
        text_calls,
        is_native,
        conversation: Conversation::default(),
        results: Vec::new(),
        remarks: Vec::new(),
    };
    for (index, message) in messages.iter().enumerate() {
        let Value::Object(message) = message else {
            return Err(mismatch(format!("messages[{index}]"), "an object"));
        };
        reader.message(index, message)?;
    }
    reader.close_turn();
    Ok(reader.conversation)
}

impl Reader {
    fn message(&mut self, index: usize, message: &Record) -> Result<(), RecordError> {
        let name = message.get("role").and_then(Value::as_str).unwrap_or_default();
        let role =
            role(name).ok_or_else(|| RecordError::Role { index, role: name.chars().take(40).collect() })?;
        let text = content(message.get("content"), &format!("messages[{index}].content"))?;
        match role {
            Role::Assistant => {
                self.close_turn();
                let mut turn = self.model_turn(message, text);
                turn.condensed_before = message.contains_key(CONDENSED_BEFORE);
                self.conversation.turns.push(turn);
            }
            Role::Tool => self.result(message.get("name").and_then(Value::as_str), &text),
            Role::System | Role::User => self.remark(role, message, text),
        }
        Ok(())
    }

    fn result(&mut self, name: Option<&str>, text: &str) {
        if self.conversation.turns.is_empty() {
            self.conversation.turns.push(missing_output());
        }
        let (wrapper, text) = unwrap(text);
        let name = name.filter(|name| !name.is_empty()).or(wrapper);
        let tool = name.map_or_else(|| self.called_tool(self.results.len()), str::to_owned);
        self.results.push(ObservationPart { tool: Some(tool), text: text.to_owned() });
    }

    fn remark(&mut self, role: Role, message: &Record, text: String) {
        if reports_missing_output(message, &text) && self.is_answered() {
            self.close_turn();
            self.conversation.turns.push(missing_output());
        }
        if self.conversation.turns.is_empty() {
            let content = if role == Role::User { without_example(&text).to_owned() } else { text };
            self.conversation.prompt.push(Message { role, content });
            return;
        }
        match unwrap(&text) {
            (Some(tool), result) => {
                self.results.push(ObservationPart { tool: Some(tool.to_owned()), text: result.to_owned() });
            }
            (None, remark) => self.remarks.push(ObservationPart { tool: None, text: remark.to_owned() }),
        }
    }

    /// Every call of the current turn has its result, so a further error is not about that turn.
    fn is_answered(&self) -> bool {
        let expected = match self.conversation.turns.last().map(|turn| &turn.action) {
            Some(Action::Calls { calls }) if self.is_native => calls.len(),
            Some(_) => 1,
            None => 0,
        };
        self.results.len() + self.remarks.len() >= expected
    }

    /// The tool whose call stands at a position of the current turn.
    fn called_tool(&self, position: usize) -> String {
        match self.conversation.turns.last().map(|turn| &turn.action) {
            Some(Action::Calls { calls }) => {
                calls.get(position).or(calls.last()).map_or_else(String::new, |call| call.name.clone())
            }
            _ => String::new(),
        }
    }

    fn close_turn(&mut self) {
        let mut parts = std::mem::take(&mut self.results);
        parts.append(&mut self.remarks);
        if let Some(turn) = self.conversation.turns.last_mut() {
            turn.observation = (!parts.is_empty()).then_some(parts);
        }
    }

    fn model_turn(&self, message: &Record, text: String) -> Turn {
        let stored = calls_of(Some(message));
        if !stored.is_empty() {
            return native_turn(&text, &stored);
        }
        if self.is_native && self.text_calls == TextCalls::Functions {
            return turn(Some(text.clone()), &text, Action::Message);
        }
        match self.text_calls {
            TextCalls::Functions => function_turn(text),
            TextCalls::Fences => fenced_turn(message, text),
            TextCalls::Commands => command_turn(message, text),
        }
    }
}

fn role(name: &str) -> Option<Role> {
    match name {
        "system" | "developer" => Some(Role::System),
        "user" | "human" => Some(Role::User),
        "assistant" | "ai" => Some(Role::Assistant),
        "tool" | "function" => Some(Role::Tool),
        _ => None,
    }
}

/// An error about an output that the source did not keep: OpenHands' wording, or mini-swe-agent's own mark.
fn reports_missing_output(message: &Record, text: &str) -> bool {
    let interrupt =
        message.get("extra").and_then(|extra| extra.get("interrupt_type")).and_then(Value::as_str);
    interrupt == Some("FormatError") || text.trim_end().ends_with(OPENHANDS_ERROR_ENDING)
}

/// The invalid turn that stands for an output which is not there (C3).
pub(super) fn missing_output() -> Turn {
    turn(None, "", Action::Invalid { text: String::new(), raw_missing: true })
}

pub(super) fn turn(raw: Option<String>, text: &str, action: Action) -> Turn {
    Turn { raw, free_text: free_text(text), action, observation: None, condensed_before: false }
}

/// The calls of a message as stored: name and arguments, either of which may be missing or broken.
fn calls_of(message: Option<&Record>) -> Vec<&Value> {
    let Some(message) = message else { return Vec::new() };
    match (message.get("tool_calls"), message.get("function_call")) {
        (Some(Value::Array(calls)), _) if !calls.is_empty() => calls.iter().collect(),
        (_, Some(call @ Value::Object(_))) => vec![call],
        _ => Vec::new(),
    }
}

/// A turn with native calls. One broken call makes the whole turn invalid (A12).
pub(super) fn native_turn(text: &str, stored: &[&Value]) -> Turn {
    let calls: Option<Vec<ToolCall>> = stored.iter().map(|call| native_call(call)).collect();
    if let Some(calls) = calls {
        return turn(None, text, Action::Calls { calls });
    }
    let mut raw = text.to_owned();
    for call in stored {
        let function = call.get("function").unwrap_or(call);
        raw.push('\n');
        raw.push_str(function.get("name").and_then(Value::as_str).unwrap_or_default());
        match function.get("arguments") {
            Some(Value::String(arguments)) => raw.push_str(arguments),
            None | Some(Value::Null) => {}
            Some(other) => raw.push_str(&other.to_string()),
        }
    }
    turn(None, text, Action::Invalid { text: raw, raw_missing: false })
}

fn native_call(call: &Value) -> Option<ToolCall> {
    let function = call.get("function").unwrap_or(call);
    let name = function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty())?;
    Some(ToolCall { name: name.to_owned(), arguments: arguments(function.get("arguments"))? })
}

/// Arguments as an object or as JSON text; empty text counts as no arguments (A12).
pub(super) fn arguments(value: Option<&Value>) -> Option<Map<String, Value>> {
    match value {
        None | Some(Value::Null) => Some(Map::new()),
        Some(Value::Object(members)) => Some(members.clone()),
        Some(Value::String(text)) if text.trim().is_empty() => Some(Map::new()),
        Some(Value::String(text)) => match json::parse(text) {
            Ok(Value::Object(members)) => Some(members),
            _ => None,
        },
        Some(_) => None,
    }
}

fn function_turn(text: String) -> Turn {
    match protocol::parse(&text) {
        Parsed::Message => turn(Some(text.clone()), &text, Action::Message),
        Parsed::Call { free_text, call } => turn(Some(text), &free_text, Action::Calls { calls: vec![call] }),
        Parsed::Invalid => turn(Some(text.clone()), "", Action::Invalid { text, raw_missing: false }),
    }
}

/// mini-swe-agent without native calls: the actions that it recorded, else the one fenced block of the text.
fn fenced_turn(message: &Record, text: String) -> Turn {
    let recorded = message.get("extra").and_then(|extra| extra.get("actions")).and_then(Value::as_array);
    let commands: Vec<String> = match recorded.filter(|actions| !actions.is_empty()) {
        Some(actions) => actions.iter().filter_map(recorded_command).collect(),
        None => FENCE
            .iter()
            .flat_map(|fence| fence.captures_iter(&text))
            .filter_map(|found| Some(found.get(1)?.as_str().to_owned()))
            .collect(),
    };
    let expected = recorded.map_or(1, Vec::len).max(1);
    if commands.len() != expected {
        let said = free_text(&text);
        return turn(Some(text.clone()), &said, Action::Invalid { text, raw_missing: false });
    }
    let call = |command| ToolCall {
        name: "bash".to_owned(),
        arguments: Map::from_iter([("command".to_owned(), Value::String(command))]),
    };
    turn(Some(text.clone()), &text, Action::Calls { calls: commands.into_iter().map(call).collect() })
}

/// SWE-agent: the tool is the first word of the command, and the whole command is its argument (specs 6.3).
fn command_turn(message: &Record, text: String) -> Turn {
    let command = message.get("action").and_then(Value::as_str).unwrap_or_default();
    let said = message.get("thought").and_then(Value::as_str).map_or_else(|| text.clone(), str::to_owned);
    let Some(tool) = command.split_whitespace().next() else {
        return turn(Some(text.clone()), &said, Action::Invalid { text, raw_missing: false });
    };
    let arguments = Map::from_iter([("command".to_owned(), Value::from(command))]);
    turn(Some(text), &said, Action::Calls { calls: vec![ToolCall { name: tool.to_owned(), arguments }] })
}

fn recorded_command(action: &Value) -> Option<String> {
    action.as_str().or_else(|| action.get("command").and_then(Value::as_str)).map(str::to_owned)
}

/// The task alone, where an in-context example was put around it (specs 1.5).
pub(super) fn without_example(text: &str) -> &str {
    if !text.trim_start().starts_with(EXAMPLE_OPENING) {
        return text;
    }
    let Some((_, task)) = text.split_once(TASK_OPENING) else { return text };
    task.rsplit_once(TASK_CLOSING).map_or(task, |(task, _)| task)
}
