//! From a model's text to a call that can be carried out: parsing, repair, validation (specs 1.5).
//!
//! What the text means as a record is `sealign_trajectory::protocol`'s business; here it is held against the tools.

use std::sync::LazyLock;

use regex::Regex;
use sealign_trajectory::ToolCall;
use sealign_trajectory::protocol::{self, Parsed};
use serde_json::{Map, Value};

use super::tools::{Argument, ArgumentType, Tool};

/// The slip `<parameter=name=value</parameter>`, which recent versions read as it is meant.
static SLIP: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("<parameter=([a-zA-Z0-9_]+)=([^<]*)</parameter>").ok());
/// Longest name that an error message quotes, in characters; the model wrote it, and it may be anything.
const QUOTED_CHARS_MAX: usize = 100;

/// What a model's text is.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// No call.
    Message,
    /// A call that cannot be carried out, and what is wrong with it.
    Invalid(String),
    /// A call.
    Call {
        /// The call.
        call: ReadCall,
        /// Text before it, trimmed.
        free_text: String,
    },
}

/// A call as it was written and as it is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadCall {
    /// Name and arguments for the record.
    pub written: ToolCall,
    /// What to do.
    pub meant: Call,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Run a command.
    Bash(BashRequest),
    /// Use the editor.
    Edit(Box<EditRequest>),
    /// Nothing: a thought.
    Think,
    /// End the attempt.
    Finish,
}

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BashRequest {
    /// The text; empty to poll a running program.
    pub command: String,
    /// Whether the text is meant for a program that runs.
    pub is_input: bool,
}

/// What the editor is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EditRequest {
    /// One of the five commands.
    pub command: String,
    /// The path as written.
    pub path: String,
    /// Content of a new file.
    pub file_text: Option<String>,
    /// Text to replace.
    pub old_str: Option<String>,
    /// Text to put in.
    pub new_str: Option<String>,
    /// Line to insert after.
    pub insert_line: Option<i64>,
    /// Lines to show.
    pub view_range: Option<Vec<Value>>,
}

/// Reads a model's text against the tools.
pub fn read(text: &str, tools: &[Tool]) -> Reading {
    let text = match &*SLIP {
        Some(slip) => slip.replace_all(text, "<parameter=$1>$2</parameter>"),
        None => text.into(),
    };
    let (free_text, written) = match protocol::parse(&text) {
        Parsed::Message => return Reading::Message,
        Parsed::Invalid => {
            return Reading::Invalid(
                "The function call is not complete: it must start with <function=NAME> and end with </function>."
                    .to_owned(),
            );
        }
        Parsed::Call { free_text, call } => (free_text, call),
    };
    let Some(tool) = tools.iter().find(|tool| tool.name == written.name) else {
        let names: Vec<&str> = tools.iter().map(|tool| tool.name).collect();
        let (name, names) = (quoted(&written.name), python_list(&names));
        return Reading::Invalid(format!("Function '{name}' not found in available tools: {names}"));
    };
    if let Some(problem) = problem(tool, &written.arguments) {
        return Reading::Invalid(problem);
    }
    let meant = meaning(tool.name, &written.arguments);
    Reading::Call { call: ReadCall { written, meant }, free_text }
}

/// The first thing that is wrong with the arguments, in the order in which the model wrote them.
fn problem(tool: &Tool, arguments: &Map<String, Value>) -> Option<String> {
    for (name, value) in arguments {
        let Some(argument) = tool.arguments.iter().find(|argument| argument.name == name) else {
            let allowed: Vec<&str> = tool.arguments.iter().map(|argument| argument.name).collect();
            let (name, allowed) = (quoted(name), python_set(&allowed));
            return Some(format!(
                "Parameter '{name}' is not allowed for function '{}'. Allowed parameters: {allowed}",
                tool.name
            ));
        };
        if let Some(problem) = value_problem(argument, value) {
            return Some(problem);
        }
    }
    let is_missing = |argument: &&Argument| argument.is_required && !arguments.contains_key(argument.name);
    let missing: Vec<&str> = tool.arguments.iter().filter(is_missing).map(|argument| argument.name).collect();
    let names = python_set(&missing);
    (!missing.is_empty())
        .then(|| format!("Missing required parameters for function '{}': {names}", tool.name))
}

fn value_problem(argument: &Argument, value: &Value) -> Option<String> {
    let expected = match argument.kind {
        ArgumentType::Integer if !value.is_i64() => "an integer".to_owned(),
        ArgumentType::Array if !value.is_array() => "an array".to_owned(),
        ArgumentType::String if !is_allowed(argument, value) => {
            format!("one of {}", python_list(argument.allowed))
        }
        ArgumentType::Integer | ArgumentType::Array | ArgumentType::String => return None,
    };
    Some(format!("Parameter '{}' is expected to be {expected}.", argument.name))
}

fn is_allowed(argument: &Argument, value: &Value) -> bool {
    argument.allowed.is_empty() || value.as_str().is_some_and(|text| argument.allowed.contains(&text))
}

fn meaning(tool: &str, arguments: &Map<String, Value>) -> Call {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::to_owned);
    match tool {
        "finish" => Call::Finish,
        "think" => Call::Think,
        "execute_bash" => Call::Bash(BashRequest {
            command: text("command").unwrap_or_default(),
            is_input: text("is_input").is_some_and(|value| value == "true"),
        }),
        _ => Call::Edit(Box::new(EditRequest {
            command: text("command").unwrap_or_default(),
            path: text("path").unwrap_or_default(),
            file_text: text("file_text"),
            old_str: text("old_str"),
            new_str: text("new_str"),
            insert_line: arguments.get("insert_line").and_then(Value::as_i64),
            view_range: arguments.get("view_range").and_then(Value::as_array).cloned(),
        })),
    }
}

fn quoted(name: &str) -> String {
    name.chars().take(QUOTED_CHARS_MAX).collect()
}

/// Names as Python prints a list of them.
fn python_list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Names as Python prints a set of them.
fn python_set(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("{{{}}}", quoted.join(", "))
}
