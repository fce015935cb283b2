//! mini-swe-agent `*.traj.json`, formats 1 and 1.1 (specs 6.4; rules C2, C8, C15).
//!
//! The outcome is not in the file: it comes from the harness's report or the set's index (C16), and only for runs that
//! ended by the model's doing.

use serde_json::Value;

use super::conversation::{self, TextCalls};
use super::fields::{Record, RecordError, object, take_list, take_optional_text, take_text};
use super::files::{split_path, without_gz};
use super::{Draft, Format, Place};
use crate::record::{Origin, Outcome, Trajectory, UnknownCause};

/// Exit statuses that are the model's doing; every other one is infrastructure (C2).
const MODEL_EXITS: [&str; 4] = ["Submitted", "LimitsExceeded", "TimeExceeded", "RepeatedFormatError"];

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut record = object(value)?;
    let task = task(&mut record, place.path)?;
    let mut messages = take_list(&mut record, "messages", place.options.limits.messages)?;
    let exit = take_exit(&mut messages);
    let conversation = conversation::read(&messages, TextCalls::Fences)?;
    let mut info = match record.shift_remove("info") {
        Some(Value::Object(info)) => info,
        _ => Record::new(),
    };
    let exit_status = take_optional_text(&mut info, "exit_status")?.or_else(|| {
        exit.as_ref().and_then(|exit| exit.pointer("/extra/exit_status")?.as_str().map(str::to_owned))
    });
    let patch = take_optional_text(&mut info, "submission")?;
    let is_models_doing = exit_status.as_deref().is_some_and(|status| MODEL_EXITS.contains(&status));
    let run = run_name(place.path);
    let model = info
        .get("config")
        .and_then(|config| config.pointer("/model/model_name"))
        .and_then(Value::as_str)
        .map(str::to_owned);
    record.insert("info".to_owned(), Value::Object(info));
    let trajectory = Trajectory {
        id: format!("{task}/{run}"),
        source: place.options.source.clone(),
        task,
        prompt: conversation.prompt,
        first_observation: None,
        turns: conversation.turns,
        outcome: Outcome::Unknown(UnknownCause::Infrastructure),
        patch,
        exit_status,
        model,
        origin: Origin {
            format: Format::MiniSweAgent.name().to_owned(),
            path: place.path.to_owned(),
            line: place.line,
        },
        message_count: u64::try_from(messages.len()).unwrap_or(u64::MAX),
        extra: record.into_iter().collect(),
    };
    Ok(Draft { trajectory, run: is_models_doing.then_some(run) })
}

/// Rule C8: the folder around the file is named like the task.
pub(super) fn is_in_instance_folder(path: &str, value: &Value) -> bool {
    let (folder, name) = split_path(path);
    let (_, folder) = split_path(folder);
    let is_trajectory = without_gz(name).ends_with(".traj.json");
    is_trajectory
        && value.get("instance_id").and_then(Value::as_str).is_none_or(|id| id == folder)
        && !folder.is_empty()
}

/// Rule C8: the run is the file's name up to `.traj.json`.
fn run_name(path: &str) -> String {
    let name = without_gz(split_path(path).1);
    name.strip_suffix(".traj.json").unwrap_or(name).to_owned()
}

/// The task, from the record or, in format 1, from the folder.
fn task(record: &mut Record, path: &str) -> Result<String, RecordError> {
    let folder = split_path(split_path(path).0).1;
    match take_text(record, "instance_id") {
        Err(RecordError::Missing(_)) if !folder.is_empty() => Ok(folder.to_owned()),
        other => other,
    }
}

/// Takes out `exit` messages, which are metadata (C15), and returns the last.
fn take_exit(messages: &mut Vec<Value>) -> Option<Value> {
    let is_exit = |message: &Value| message.get("role").and_then(Value::as_str) == Some("exit");
    let last = messages.iter().rfind(|message| is_exit(message)).cloned();
    messages.retain(|message| !is_exit(message));
    last
}
