//! tau-bench rows: a tool-using agent and a simulated user, with a reward (rules C5, C18).
//!
//! The user's words differ from run to run, so the prompt is the system message alone and what the user says first is
//! observation 0.

use serde_json::Value;

use super::conversation::{self, TextCalls};
use super::fields::{RecordError, object, take_list, take_optional_text, take_text};
use super::{Draft, Format, Place};
use crate::record::{ObservationPart, Outcome, Role, UnknownCause};

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut row = object(value)?;
    let task = take_text(&mut row, "task_id")?;
    let trial = take_optional_text(&mut row, "trial")?;
    let messages = take_list(&mut row, "traj", place.options.limits.messages)?;
    let conversation = conversation::read(&messages, TextCalls::Functions)?;
    let run = format!("trial-{}", trial.as_deref().unwrap_or("0"));
    let mut draft = Draft::new(place, Format::TauBench, task, &run, conversation, messages.len());
    let trajectory = &mut draft.trajectory;
    let (system, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut trajectory.prompt).into_iter().partition(|message| message.role == Role::System);
    trajectory.prompt = system;
    let opening: Vec<_> =
        others.into_iter().map(|message| ObservationPart { tool: None, text: message.content }).collect();
    trajectory.first_observation = (!opening.is_empty()).then_some(opening);
    trajectory.outcome = reward(row.get("reward"));
    trajectory.extra = row.into_iter().collect();
    Ok(draft)
}

/// Rule C18: success is a reward of exactly 1.
pub(super) fn reward(value: Option<&Value>) -> Outcome {
    match value.and_then(Value::as_f64) {
        Some(1.0) => Outcome::Success,
        Some(_) => Outcome::Failure,
        None => Outcome::Unknown(UnknownCause::NoVerdict),
    }
}
