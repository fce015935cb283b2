//! Small rollouts for tests: every word is an action, and comes back as its own observation.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use sealign_trajectory::{
    Action, Message, ObservationPart, Origin, Outcome, Role, ToolCall, Trajectory, Turn, UnknownCause,
};
use serde_json::json;

/// A rollout whose turns are `words`; every turn but the last gets `ran WORD` back. The word `~` is an invalid output
/// without its text, `!x` an invalid output, `"x` a message. `word=seen` gets `seen` back.
pub fn rollout(task: &str, id: &str, words: &str, success: bool) -> Trajectory {
    let words: Vec<&str> = words.split_whitespace().collect();
    let last = words.len().saturating_sub(1);
    let turns = words.iter().enumerate().map(|(index, word)| turn(word, index == last)).collect();
    Trajectory {
        id: id.to_owned(),
        source: "test".to_owned(),
        task: task.to_owned(),
        prompt: vec![Message { role: Role::User, content: format!("solve {task}") }],
        first_observation: None,
        turns,
        outcome: if success { Outcome::Success } else { Outcome::Failure },
        patch: None,
        exit_status: None,
        model: None,
        origin: Origin { format: "test".to_owned(), path: "test.jsonl".to_owned(), line: 1 },
        message_count: 2 * u64::try_from(words.len()).unwrap() + 1,
        extra: BTreeMap::new(),
    }
}

fn turn(word: &str, is_last: bool) -> Turn {
    let (word, seen) = match word.split_once('=') {
        Some((word, seen)) => (word, Some(seen.to_owned())),
        None => (word, (!is_last).then(|| format!("ran {word}"))),
    };
    let action = match word.strip_prefix('!') {
        Some(text) => Action::Invalid { text: text.to_owned(), raw_missing: false },
        None if word == "~" => Action::Invalid { text: String::new(), raw_missing: true },
        None if word.starts_with('"') => Action::Message,
        None => Action::Calls { calls: vec![call(word)] },
    };
    Turn {
        raw: None,
        free_text: word.strip_prefix('"').unwrap_or_default().to_owned(),
        action,
        observation: seen.map(|text| vec![ObservationPart { tool: Some("bash".to_owned()), text }]),
        condensed_before: false,
    }
}

/// A shell call.
pub fn call(command: &str) -> ToolCall {
    ToolCall {
        name: "bash".to_owned(),
        arguments: json!({ "command": command }).as_object().unwrap().clone(),
    }
}

/// The key of a shell call.
pub fn key(command: &str) -> String {
    format!("call:execute_bash{{\"command\":\"{command}\"}}")
}

/// The same rollout without a verdict.
pub fn unknown(mut trajectory: Trajectory, cause: UnknownCause) -> Trajectory {
    trajectory.outcome = Outcome::Unknown(cause);
    trajectory
}
