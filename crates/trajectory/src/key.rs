//! The canonical key of an action (specs 5.3 and 5.11, rules A1 to A16): two turns are the same action when their keys
//! are the same text.
//!
//! Keys compare what was *meant* (tool and arguments), so formatting, argument order and ignored arguments vanish, and
//! nothing inside a shell command is touched (A7). Start with [`call_key`].

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::canonical;
use crate::record::{Action, ToolCall, Turn};

pub use crate::canonical::digest;

/// Arguments whose text is code or file content: only one outer newline is trimmed (rule A3).
const VERBATIM_ARGUMENTS: [&str; 3] = ["old_str", "new_str", "file_text"];
/// Arguments that are no part of what a call means (rule A11).
const IGNORED_ARGUMENTS: [&str; 2] = ["security_risk", "timeout"];

static TEMPORARY_PATH: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"/tmp/tmp[A-Za-z0-9_]+").ok());

/// How keys are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOptions {
    /// Read `/tmp/tmpXXXX` as one name (rule A6). The same setting governs observations and prompts.
    pub unify_temporary_paths: bool,
}

impl Default for KeyOptions {
    fn default() -> Self {
        Self { unify_temporary_paths: true }
    }
}

/// The `call` key of a turn: tool and arguments, or the text of a message, or the raw text of an invalid output.
pub fn call_key(turn: &Turn, options: KeyOptions) -> String {
    finish(bare_key(turn), options)
}

/// The `full_text` key: as [`call_key`], and the free text after two newlines for calls.
pub fn full_text_key(turn: &Turn, options: KeyOptions) -> String {
    let mut key = bare_key(turn);
    if let Action::Calls { .. } = turn.action {
        key.push_str("\n\n");
        key.push_str(&free_text(&turn.free_text));
    }
    finish(key, options)
}

/// Free text as it is compared: CRLF to LF, outer white space trimmed (rule A15).
pub fn free_text(text: &str) -> String {
    unix_newlines(text).trim().to_owned()
}

/// Replaces `/tmp/tmp` and the letters, digits and underscores after it by `/tmp/tmp<X>` (rule A6).
pub fn unify_temporary_paths(text: &str) -> Cow<'_, str> {
    match &*TEMPORARY_PATH {
        Some(pattern) if text.contains("/tmp/tmp") => pattern.replace_all(text, "/tmp/tmp<X>"),
        _ => Cow::Borrowed(text),
    }
}

/// CRLF to LF; a lone CR stays.
pub fn unix_newlines(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

/// The tool name that aliases are compared under (rule A14).
pub fn canonical_tool(name: &str) -> &str {
    match name {
        "terminal" | "bash" => "execute_bash",
        "file_editor" => "str_replace_editor",
        other => other,
    }
}

fn finish(key: String, options: KeyOptions) -> String {
    if options.unify_temporary_paths { unify_temporary_paths(&key).into_owned() } else { key }
}

fn bare_key(turn: &Turn) -> String {
    match &turn.action {
        Action::Calls { calls } => {
            let texts: Vec<String> = calls.iter().map(canonical_call).collect();
            format!("call:{}", texts.join("\n"))
        }
        Action::Message => format!("message:{}", free_text(&turn.free_text)),
        Action::Invalid { text, .. } => format!("invalid:{}", free_text(text)),
    }
}

/// The canonical tool name, immediately followed by the canonical JSON of the arguments that count.
pub fn canonical_call(call: &ToolCall) -> String {
    let tool = canonical_tool(&call.name);
    let mut arguments = Map::new();
    // Rule A9: the arguments of `finish` are dropped, whatever the scaffold.
    if tool != "finish" {
        for (name, value) in &call.arguments {
            if let Some(value) = canonical_argument(tool, name, value) {
                arguments.insert(name.clone(), value);
            }
        }
    }
    format!("{tool}{}", canonical::object_to_text(&arguments))
}

/// The argument as it is compared, or `None` where it does not count.
fn canonical_argument(tool: &str, name: &str, value: &Value) -> Option<Value> {
    if value.is_null() || IGNORED_ARGUMENTS.contains(&name) {
        return None;
    }
    if name == "is_input" {
        return is_set(value).then_some(Value::Bool(true));
    }
    if let Value::String(text) = value {
        let text = unix_newlines(text);
        if VERBATIM_ARGUMENTS.contains(&name) {
            return Some(Value::String(trim_one_newline(&text).to_owned()));
        }
        if tool == "str_replace_editor" && name == "path" {
            return Some(Value::String(normalise_path(text.trim())));
        }
    }
    Some(normalise_strings(value))
}

/// Rule A11: `is_input` counts unless it is false, empty or the text `false`.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Bool(set) => *set,
        Value::String(text) => !text.trim().is_empty() && !text.trim().eq_ignore_ascii_case("false"),
        _ => true,
    }
}

fn trim_one_newline(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}

/// Rule A3 for everything but the verbatim arguments, at any depth. Depth is bounded by the JSON reader.
fn normalise_strings(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(free_text(text)),
        Value::Array(items) => Value::Array(items.iter().map(normalise_strings).collect()),
        Value::Object(members) => Value::Object(
            members.iter().map(|(name, member)| (name.clone(), normalise_strings(member))).collect(),
        ),
        other => other.clone(),
    }
}

/// Normalises a path lexically (rule A4); the file system is never asked.
pub fn normalise_path(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
