//! What counts as the same observation (specs 5.3 and 5.11, rules B2 to B4).
//!
//! Two runs of the same command differ in clock times, durations, addresses and process ids; [`Normaliser`] replaces
//! those before texts are compared. The patterns are ASCII throughout and run in a fixed order, because later ones
//! see what earlier ones left.

use std::sync::LazyLock;

use regex::Regex;

use crate::canonical;
use crate::key::unify_temporary_paths;
use crate::record::{Message, ObservationPart};

/// The observation of a turn after normalisation; `None` when nothing came back, which equals no text.
pub type NormalisedObservation = Option<Vec<String>>;

/// The patterns of rule B3 with their replacements, in order, after the newline and trailing-blank steps.
const PATTERNS: [(&str, &str); 6] = [
    (r"(?-u:\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?(Z|\b| ?[+-]\d{2}:?\d{2}\b))", "<time>"),
    (
        r"(?-u:\b((Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2} +(\d{2}:\d{2}(:\d{2})?( \d{4})?|\d{4})\b)",
        "<time>",
    ),
    (r"(?-u:\b\d{2}:\d{2}:\d{2}([.,]\d+)?\b)", "<time>"),
    (r"(?-u:\bin \d+(\.\d+)?s\b)", "in <duration>"),
    (r"(?-u:\b0x[0-9A-Fa-f]+\b)", "<address>"),
    (r"(?-u:\b(pid|PID|process|Process)([ =:#]+)\d+\b)", "${1}${2}<pid>"),
];

/// Compiled once: building the expressions costs more than most texts do. A test holds that each one compiles.
static STANDARD_RULES: LazyLock<Vec<(Regex, String)>> = LazyLock::new(|| {
    let compiled =
        PATTERNS.iter().map(|(pattern, replacement)| (Regex::new(pattern), (*replacement).to_owned()));
    compiled.filter_map(|(regex, replacement)| Some((regex.ok()?, replacement))).collect()
});

/// A pattern could not be compiled.
#[derive(Debug, thiserror::Error)]
#[error("observation pattern `{pattern}` is not a regular expression; correct or remove it")]
pub struct PatternError {
    /// The pattern as given.
    pub pattern: String,
    /// What the expression engine says.
    #[source]
    pub source: Box<regex::Error>,
}

/// Replaces what differs between two runs of the same command.
#[derive(Clone, Debug)]
pub struct Normaliser {
    rules: Vec<(Regex, String)>,
    unify_temporary_paths: bool,
}

impl Normaliser {
    /// The patterns of rule B3; step 9 (temporary paths) only when asked for (rule A6: one option for keys too).
    pub fn standard(unify_temporary_paths: bool) -> Self {
        Self { rules: STANDARD_RULES.clone(), unify_temporary_paths }
    }

    /// Other patterns in place of steps 3 to 8, each with its replacement (`${1}` names a group).
    ///
    /// # Errors
    /// [`PatternError`] for the first pattern that is not a regular expression.
    pub fn with_patterns(
        patterns: &[(&str, &str)],
        unify_temporary_paths: bool,
    ) -> Result<Self, PatternError> {
        let compile = |(pattern, replacement): &(&str, &str)| match Regex::new(pattern) {
            Ok(regex) => Ok((regex, (*replacement).to_owned())),
            Err(source) => Err(PatternError { pattern: (*pattern).to_owned(), source: Box::new(source) }),
        };
        Ok(Self { rules: patterns.iter().map(compile).collect::<Result<_, _>>()?, unify_temporary_paths })
    }

    /// Normalises one text.
    pub fn text(&self, text: &str) -> String {
        let mut current = trim_line_ends(text);
        for (regex, replacement) in &self.rules {
            if let std::borrow::Cow::Owned(replaced) = regex.replace_all(&current, replacement.as_str()) {
                current = replaced;
            }
        }
        if self.unify_temporary_paths { unify_temporary_paths(&current).into_owned() } else { current }
    }

    /// Normalises an observation, text by text (rule B2).
    pub fn observation(&self, observation: Option<&[ObservationPart]>) -> NormalisedObservation {
        observation.map(|parts| parts.iter().map(|part| self.text(&part.text)).collect())
    }

    /// The digest that tells the trees of one task apart (rule C5): SHA-256 of the canonical JSON list of the prompt's
    /// normalised texts.
    pub fn prompt_digest(&self, prompt: &[Message]) -> String {
        let texts =
            prompt.iter().map(|message| serde_json::Value::String(self.text(&message.content))).collect();
        canonical::digest(&canonical::to_text(&serde_json::Value::Array(texts)))
    }
}

/// Steps 1 and 2 of rule B3: CRLF to LF, then blanks and tabs before a line's end removed.
fn trim_line_ends(text: &str) -> String {
    let unix = crate::key::unix_newlines(text);
    let mut out = String::with_capacity(unix.len());
    for (index, line) in unix.split('\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(line.trim_end_matches([' ', '\t']));
    }
    out
}

/// Removes the scaffold's wrapper around an observation (rule B4) and names the tool that the wrapper names.
pub fn unwrap(text: &str) -> (Option<&str>, &str) {
    if let Some(rest) = text.strip_prefix("OBSERVATION:\n") {
        return (None, rest);
    }
    text.strip_prefix("EXECUTION RESULT of [")
        .and_then(|rest| rest.split_once("]:\n"))
        .map_or((None, text), |(tool, rest)| (Some(tool), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_pattern_compiles() {
        assert_eq!(STANDARD_RULES.len(), PATTERNS.len());
        assert!(Normaliser::with_patterns(&[("(", "")], true).unwrap_err().to_string().contains('('));
    }
}
