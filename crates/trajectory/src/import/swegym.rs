//! OpenHands rollouts on SWE-Gym tasks: one row a line with chat messages and the evaluation's report (specs 6.5).

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::conversation::{self, TextCalls};
use super::fields::{Record, RecordError, object, take_list, take_optional_text, take_text, truth};
use super::{Draft, Format, Place};
use crate::record::{Origin, Outcome, Trajectory, UnknownCause};

/// A task id to which the origin of some rows appended a row number (C6).
static NUMBERED_TASK: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^(.+-[0-9]+)_[0-9]+$").ok());

/// Verdicts that are failures whatever `resolved` says (C2).
const FAILURES: [&str; 3] = ["empty_generation", "failed_apply_patch", "test_timeout"];

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut row = object(value)?;
    let task = task_id(&take_text(&mut row, "instance_id")?);
    let messages = take_list(&mut row, "messages", place.options.limits.messages)?;
    let conversation = conversation::read(&messages, TextCalls::Functions)?;
    let run = take_optional_text(&mut row, "run_id")?;
    let outcome = outcome(&row);
    let id = format!("{task}/{}", run.as_deref().unwrap_or("run"));
    let model = run.as_deref().and_then(|run| run.split_once("_maxiter_")).map(|(model, _)| model.to_owned());
    let trajectory = Trajectory {
        id,
        source: place.options.source.clone(),
        task,
        prompt: conversation.prompt,
        first_observation: None,
        turns: conversation.turns,
        outcome,
        patch: take_patch(&mut row),
        exit_status: None,
        model,
        origin: Origin {
            format: Format::Swegym.name().to_owned(),
            path: place.path.to_owned(),
            line: place.line,
        },
        message_count: u64::try_from(messages.len()).unwrap_or(u64::MAX),
        extra: row.into_iter().collect(),
    };
    Ok(Draft { trajectory, run: None })
}

/// Rule C6: a row number after the issue's number is no part of the id.
pub(super) fn task_id(id: &str) -> String {
    let found = NUMBERED_TASK.as_ref().and_then(|pattern| pattern.captures(id));
    found.and_then(|groups| groups.get(1)).map_or(id, |group| group.as_str()).to_owned()
}

/// The outcome that a row's own report or claim gives.
pub(super) fn outcome(row: &Record) -> Outcome {
    let report = row.get("test_result").and_then(|result| result.get("report")).or_else(|| row.get("report"));
    let claim = |name: &str| truth(report.and_then(|report| report.get(name)));
    if claim("error_eval") == Some(true) {
        return Outcome::Unknown(UnknownCause::Infrastructure);
    }
    if FAILURES.iter().any(|name| claim(name) == Some(true)) {
        return Outcome::Failure;
    }
    match claim("resolved").or_else(|| truth(row.get("resolved"))) {
        Some(true) => Outcome::Success,
        Some(false) => Outcome::Failure,
        None => Outcome::Unknown(UnknownCause::NoVerdict),
    }
}

pub(super) fn take_patch(row: &mut Record) -> Option<String> {
    let result = row.get_mut("test_result")?.as_object_mut()?;
    match result.shift_remove("git_patch") {
        Some(Value::String(patch)) => Some(patch),
        _ => None,
    }
}
