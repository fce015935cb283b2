//! SWE-agent `.traj` files (specs 6.3), and the rows of the nebius set that were made from them (6.5).
//!
//! Demonstrations are not the agent's and are left out. Until 1.0 the model wrote its command in the text and the source
//! stored it as `action`; from 1.0 there are tool calls.

use serde_json::{Map, Value};

use super::conversation::{self, TextCalls};
use super::fields::{
    RecordError, content, mismatch, object, take_list, take_optional_text, take_text, truth,
};
use super::files::{split_path, without_gz};
use super::{Draft, Format, Place};
use crate::record::{Outcome, UnknownCause};

/// Exit statuses that are the environment's doing, not the model's.
const INFRASTRUCTURE_EXITS: [&str; 3] = ["exit_api", "exit_environment_error", "exit_error"];

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut record = object(value)?;
    if !record.contains_key("history") {
        return read_row(record, place);
    }
    let mut messages = take_list(&mut record, "history", place.options.limits.messages)?;
    messages.retain(|message| message.get("is_demo").and_then(Value::as_bool) != Some(true));
    let conversation = conversation::read(&messages, TextCalls::Commands)?;
    let task = task_of(place.path);
    let run = task.clone();
    let mut draft = Draft::new(place, Format::SweAgent, task, "run", conversation, messages.len());
    // The steps repeat the history, and the queries in them repeat it quadratically.
    record.shift_remove("trajectory");
    let info = record.get("info");
    let text = |name: &str| info.and_then(|info| info.get(name)).and_then(Value::as_str).map(str::to_owned);
    draft.trajectory.patch = text("submission");
    draft.trajectory.exit_status = text("exit_status");
    let is_infrastructure =
        draft.trajectory.exit_status.as_deref().is_some_and(|status| INFRASTRUCTURE_EXITS.contains(&status));
    if is_infrastructure {
        draft.trajectory.outcome = Outcome::Unknown(UnknownCause::Infrastructure);
    } else {
        draft.run = Some(run);
    }
    draft.trajectory.extra = record.into_iter().collect();
    Ok(draft)
}

/// The task is the file's name up to `.traj`.
fn task_of(path: &str) -> String {
    let name = without_gz(split_path(path).1);
    name.strip_suffix(".traj").unwrap_or(name).to_owned()
}

/// A nebius row: messages with `text`, the system's in `system_prompt`, the command in the last fenced block.
fn read_row(mut row: Map<String, Value>, place: Place<'_>) -> Result<Draft, RecordError> {
    let task = super::swegym::task_id(&take_text(&mut row, "instance_id")?);
    let steps = take_list(&mut row, "trajectory", place.options.limits.messages)?;
    let messages: Vec<Value> =
        steps.iter().enumerate().map(|(index, step)| row_message(index, step)).collect::<Result<_, _>>()?;
    let conversation = conversation::read(&messages, TextCalls::Commands)?;
    let mut draft = Draft::new(place, Format::SweAgent, task, "run", conversation, messages.len());
    let trajectory = &mut draft.trajectory;
    trajectory.model = take_optional_text(&mut row, "model_name")?;
    trajectory.patch = take_optional_text(&mut row, "generated_patch")?;
    trajectory.exit_status = take_optional_text(&mut row, "exit_status")?;
    trajectory.outcome = match truth(row.get("target")) {
        Some(true) => Outcome::Success,
        Some(false) => Outcome::Failure,
        None => Outcome::Unknown(UnknownCause::NoVerdict),
    };
    trajectory.extra = row.into_iter().collect();
    Ok(draft)
}

fn row_message(index: usize, step: &Value) -> Result<Value, RecordError> {
    let Value::Object(step) = step else { return Err(mismatch(format!("trajectory[{index}]"), "an object")) };
    let field = |name: &str| content(step.get(name), &format!("trajectory[{index}].{name}"));
    let mut text = field("text")?;
    if text.is_empty() {
        text = field("system_prompt")?;
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), step.get("role").cloned().unwrap_or_default());
    if let Some((thought, command)) = last_fence(&text) {
        message.insert("thought".to_owned(), Value::from(thought));
        message.insert("action".to_owned(), Value::from(command));
    }
    message.insert("content".to_owned(), Value::String(text));
    Ok(Value::Object(message))
}

/// The text before the last fenced block, and the block.
fn last_fence(text: &str) -> Option<(&str, &str)> {
    let (before, _) = text.rsplit_once("```")?;
    let (thought, block) = before.rsplit_once("```")?;
    // The fence may name a language on its first line.
    let (first, rest) = block.split_once('\n')?;
    let command = if first.trim().chars().all(char::is_alphanumeric) { rest } else { block };
    Some((thought.trim(), command.trim()))
}
