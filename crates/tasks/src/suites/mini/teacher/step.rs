//! What a teacher does in one turn, as text.

use std::fmt::Write as _;

/// One step of a teacher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A shell command.
    Bash(String),
    /// `str_replace` in the file at an absolute path.
    Edit {
        /// Absolute path.
        path: String,
        /// Text to replace.
        old: String,
        /// Its replacement.
        new: String,
    },
    /// The end.
    Finish,
    /// A message as it stands: a repetition, or something malformed.
    Raw(String),
}

impl Step {
    /// The assistant message, in the text protocol of specs 1.5, without free text.
    pub fn text(&self) -> String {
        match self {
            Self::Bash(command) => call("execute_bash", &[("command", command)]),
            Self::Edit { path, old, new } => call(
                "str_replace_editor",
                &[("command", "str_replace"), ("path", path), ("old_str", old), ("new_str", new)],
            ),
            Self::Finish => call("finish", &[]),
            Self::Raw(text) => text.clone(),
        }
    }

    /// Reads a message that a teacher or another speaker of the protocol wrote; whatever is not one of the three calls
    /// comes back as [`Step::Raw`].
    pub fn parse(text: &str) -> Self {
        let parsed = text.split_once("<function=").and_then(|(_, rest)| {
            let (name, rest) = rest.split_once('>')?;
            let (body, _) = rest.split_once("</function>")?;
            let value = |key: &str| {
                let (_, rest) = body.split_once(&format!("<parameter={key}>"))?;
                rest.split_once("</parameter>").map(|(value, _)| value.trim().to_owned())
            };
            match name {
                "execute_bash" => value("command").map(Self::Bash),
                "str_replace_editor" if value("command").as_deref() == Some("str_replace") => {
                    Some(Self::Edit { path: value("path")?, old: value("old_str")?, new: value("new_str")? })
                }
                "finish" => Some(Self::Finish),
                _ => None,
            }
        });
        parsed.unwrap_or_else(|| Self::Raw(text.to_owned()))
    }
}

fn call(name: &str, parameters: &[(&str, &str)]) -> String {
    let mut text = format!("<function={name}>\n");
    for (key, value) in parameters {
        let edge = if value.contains('\n') { "\n" } else { "" };
        let _ = writeln!(text, "<parameter={key}>{edge}{value}{edge}</parameter>");
    }
    text.push_str("</function>");
    text
}
