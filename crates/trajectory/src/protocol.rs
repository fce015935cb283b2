//! Function calls in plain text (specs 1.5), as models without native tool calls write and read them.
//!
//! [`render_call`] writes a call as OpenHands' converter does, [`parse`] reads one the way it does, repair of the cut
//! stop word included. Which tools exist and which arguments they take is the harness's business, not this module's.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::record::ToolCall;

/// What every call starts with.
pub const CALL_OPENING: &str = "<function=";
/// The stop sequence that is sent with a request in this protocol.
pub const STOP_SEQUENCE: &str = "</function";

static FUNCTION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?s)<function=([^>]+)>\n?(.*?)</function>").ok());
static PARAMETER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?s)<parameter=([^>]+)>(.*?)</parameter>").ok());

/// What a model's text holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// No call: the whole text is a message.
    Message,
    /// Free text before the call (trimmed), and the first complete call. What follows the call is dropped.
    Call {
        /// Everything before the call, trimmed.
        free_text: String,
        /// The call; every argument is a string except the editor's integers and arrays.
        call: ToolCall,
    },
    /// A call was begun, and no complete one is there even after the repair.
    Invalid,
}

/// Reads the first call of a model's text.
pub fn parse(text: &str) -> Parsed {
    let Some(opening) = text.find(CALL_OPENING) else { return Parsed::Message };
    let repaired = repair_stop_word(text);
    let Some(found) = FUNCTION.as_ref().and_then(|pattern| pattern.captures(&repaired)) else {
        return Parsed::Invalid;
    };
    let group = |index: usize| found.get(index).map_or("", |group| group.as_str());
    let arguments = group(2);
    let call = ToolCall { name: group(1).to_owned(), arguments: parameters(group(1), arguments) };
    Parsed::Call { free_text: text.get(..opening).unwrap_or_default().trim().to_owned(), call }
}

/// Completes a call whose end the stop sequence cut off; texts with two or more calls are left as they are.
fn repair_stop_word(text: &str) -> String {
    let text = text.trim_end();
    if text.matches(CALL_OPENING).count() != 1 || text.ends_with("</function>") {
        return text.to_owned();
    }
    if text.ends_with("</") { format!("{text}function>") } else { format!("{text}\n</function>") }
}

fn parameters(tool: &str, body: &str) -> Map<String, Value> {
    let Some(pattern) = PARAMETER.as_ref() else { return Map::new() };
    pattern
        .captures_iter(body)
        .filter_map(|found| Some((found.get(1)?.as_str().to_owned(), found.get(2)?.as_str().trim())))
        .map(|(name, text)| {
            let value = typed_argument(tool, &name, text);
            (name, value)
        })
        .collect()
}

/// The editor's two arguments that are no strings get their JSON type, so that both protocols give the same keys.
fn typed_argument(tool: &str, name: &str, text: &str) -> Value {
    let is_editor = crate::key::canonical_tool(tool) == "str_replace_editor";
    let typed = match name {
        "insert_line" if is_editor => text.parse::<i64>().ok().map(Value::from),
        "view_range" if is_editor => crate::json::parse(text).ok().filter(Value::is_array),
        _ => None,
    };
    typed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Writes a call. A value that contains a newline stands on lines of its own; lists and objects are written as JSON.
pub fn render_call(call: &ToolCall) -> String {
    let mut out = format!("{CALL_OPENING}{}>\n", call.name);
    for (name, value) in &call.arguments {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let newline = if text.contains('\n') { "\n" } else { "" };
        let _ = writeln!(out, "<parameter={name}>{newline}{text}{newline}</parameter>");
    }
    out.push_str("</function>");
    out
}

/// The user message that carries a tool's result.
pub fn render_result(tool: &str, text: &str) -> String {
    format!("EXECUTION RESULT of [{tool}]:\n{text}")
}
