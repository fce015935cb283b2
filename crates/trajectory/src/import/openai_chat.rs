//! Chat rows as OpenAI's fine-tuning takes them (specs 6.6), and the sets that use the same shape: SWE-smith, the SFT set of
//! SWE-Gym and nebius' OpenHands rows (6.5).
//!
//! What such rows need not have is filled in: without a task id the first user message names the task, and without a
//! verdict the outcome is unknown.

use serde_json::Value;

use super::conversation::{self, TextCalls};
use super::fields::{Record, RecordError, content, object, take_list, take_optional_text, truth};
use super::{Draft, Format, Place};
use crate::canonical::digest;
use crate::json;
use crate::record::{Outcome, UnknownCause};

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut row = object(value)?;
    let messages = take_messages(&mut row, place.options.limits.messages)?;
    let task = match first_text(&mut row, &["instance_id", "task_id"])? {
        Some(id) => super::swegym::task_id(&id),
        None => task_of_prompt(&messages)?,
    };
    let run = first_text(&mut row, &["trajectory_id", "traj_id", "run_id", "id"])?;
    let conversation = conversation::read(&messages, TextCalls::Functions)?;
    let mut draft = Draft::new(
        place,
        Format::OpenaiChat,
        task,
        run.as_deref().unwrap_or("run"),
        conversation,
        messages.len(),
    );
    let trajectory = &mut draft.trajectory;
    trajectory.patch = first_text(&mut row, &["model_patch", "patch"])?;
    trajectory.exit_status = take_optional_text(&mut row, "exit_status")?;
    trajectory.model = take_optional_text(&mut row, "model")?;
    let verdict = truth(row.get("resolved"));
    match verdict {
        Some(true) => trajectory.outcome = Outcome::Success,
        Some(false) => trajectory.outcome = Outcome::Failure,
        None => trajectory.outcome = Outcome::Unknown(UnknownCause::NoVerdict),
    }
    trajectory.extra = row.into_iter().collect();
    // An index or a report beside the file may still know.
    draft.run = verdict.is_none().then(|| run.unwrap_or_default());
    Ok(draft)
}

/// The messages, as a list or as its JSON text.
fn take_messages(row: &mut Record, limit: usize) -> Result<Vec<Value>, RecordError> {
    let field = if row.contains_key("messages") { "messages" } else { "trajectory" };
    let parsed = match row.get(field) {
        Some(Value::String(text)) => json::parse(text).ok(),
        _ => None,
    };
    if let Some(parsed) = parsed {
        row.insert(field.to_owned(), parsed);
    }
    take_list(row, field, limit)
}

fn first_text(row: &mut Record, fields: &[&str]) -> Result<Option<String>, RecordError> {
    for field in fields {
        if let Some(text) = take_optional_text(row, field)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Specs 6.5: rows without a task are keyed by the SHA-256 of the first user message.
fn task_of_prompt(messages: &[Value]) -> Result<String, RecordError> {
    let first = messages.iter().find(|message| message.get("role").and_then(Value::as_str) == Some("user"));
    let text = content(first.and_then(|message| message.get("content")), "messages")?;
    Ok(format!("prompt-{}", digest(&text)))
}
