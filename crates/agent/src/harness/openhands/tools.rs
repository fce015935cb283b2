//! The tools: names, arguments and what the prompt says of them.

use std::sync::LazyLock;

use super::profile::Profile;

/// The type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentType {
    /// Text.
    String,
    /// A decimal number.
    Integer,
    /// A JSON list.
    Array,
}

impl ArgumentType {
    /// The name in the prompt.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Array => "array",
        }
    }
}

/// An argument of a tool.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: ArgumentType,
    /// Whether a call needs it.
    pub is_required: bool,
    /// What the prompt says of it.
    pub description: &'static str,
    /// The values allowed; empty for any.
    pub allowed: &'static [&'static str],
}

/// A tool.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// What the prompt says of it.
    pub description: &'static str,
    /// Its arguments, in the prompt's order.
    pub arguments: Vec<Argument>,
}

static TOOLS_024: LazyLock<Vec<Tool>> = LazyLock::new(|| vec![bash(), finish_without_arguments(), editor()]);
static TOOLS_028: LazyLock<Vec<Tool>> = LazyLock::new(|| vec![bash(), think(), finish(), editor()]);

/// The tools of a profile, in the order of its prompt.
pub fn tools(profile: Profile) -> &'static [Tool] {
    match profile {
        Profile::OpenHands024 | Profile::Compact => &TOOLS_024,
        Profile::OpenHands028 => &TOOLS_028,
    }
}

fn required(name: &'static str, description: &'static str) -> Argument {
    Argument { name, kind: ArgumentType::String, is_required: true, description, allowed: &[] }
}

fn optional(name: &'static str, kind: ArgumentType, description: &'static str) -> Argument {
    Argument { name, kind, is_required: false, description, allowed: &[] }
}

fn bash() -> Tool {
    let mut is_input = optional(
        "is_input",
        ArgumentType::String,
        "`true` sends the command as input to a program that is still running instead of starting a new one. Default: `false`.",
    );
    is_input.allowed = &["true", "false"];
    let command =
        required("command", "The shell command to run. One command per call; join several with `&&` or `;`.");
    Tool {
        name: "execute_bash",
        description: include_str!("prompts/execute_bash.txt").trim_ascii_end(),
        arguments: vec![command, is_input],
    }
}

fn finish_without_arguments() -> Tool {
    Tool {
        name: "finish",
        description: include_str!("prompts/finish.txt").trim_ascii_end(),
        arguments: Vec::new(),
    }
}

fn finish() -> Tool {
    let mut completed = required("task_completed", "Whether the task is done.");
    completed.allowed = &["true", "false", "partial"];
    let message = required("message", "A closing message for the user.");
    Tool { arguments: vec![message, completed], ..finish_without_arguments() }
}

fn think() -> Tool {
    Tool {
        name: "think",
        description: include_str!("prompts/think.txt").trim_ascii_end(),
        arguments: vec![required("thought", "The thought.")],
    }
}

fn editor() -> Tool {
    let mut command = required("command", "What to do.");
    command.allowed = &["view", "create", "str_replace", "insert", "undo_edit"];
    Tool {
        name: "str_replace_editor",
        description: include_str!("prompts/str_replace_editor.txt").trim_ascii_end(),
        arguments: vec![
            command,
            required(
                "path",
                "Absolute path of a file or directory, for example `/workspace/file.py` or `/workspace`.",
            ),
            optional(
                "file_text",
                ArgumentType::String,
                "For `create`, required: the content of the new file.",
            ),
            optional(
                "old_str",
                ArgumentType::String,
                "For `str_replace`, required: the text to replace; it must occur exactly once.",
            ),
            optional(
                "new_str",
                ArgumentType::String,
                "For `str_replace`: the text to put there; nothing when left out. For `insert`, required: the text to insert.",
            ),
            optional(
                "insert_line",
                ArgumentType::Integer,
                "For `insert`, required: the line after which `new_str` goes; 0 is the beginning of the file.",
            ),
            optional(
                "view_range",
                ArgumentType::Array,
                "For `view` of a file: first and last line as `[11, 20]`, counted from 1; a last line of -1 is the end of the file.",
            ),
        ],
    }
}
