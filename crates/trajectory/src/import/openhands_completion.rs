//! OpenHands completion logs (specs 1.11): the last request of a run with its response is the whole conversation, as long as
//! nothing was condensed.

use serde_json::Value;

use super::conversation::{self, TextCalls};
use super::fields::{RecordError, object, take_list, take_optional_text};
use super::files::{split_path, without_gz};
use super::{Draft, Format, Place};

/// How the last log of a run is named when the logs were thinned out.
const LAST_LOG: &str = ".last_completion.json";

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut record = object(value)?;
    let mut messages = take_list(&mut record, "messages", place.options.limits.messages)?;
    let mut response = record.shift_remove("response").unwrap_or_default();
    messages.extend(response.pointer_mut("/choices/0/message").map(Value::take));
    let conversation = conversation::read(&messages, TextCalls::Functions)?;
    let (folder, name) = split_path(without_gz(place.path));
    // Unthinned logs lie in a folder per task.
    let task = name.strip_suffix(LAST_LOG).unwrap_or(split_path(folder).1).to_owned();
    let run = if task.is_empty() { "run" } else { &task }.to_owned();
    let mut draft =
        Draft::new(place, Format::OpenhandsCompletion, run.clone(), "run", conversation, messages.len());
    draft.run = Some(run);
    draft.trajectory.model =
        response.as_object_mut().and_then(|response| take_optional_text(response, "model").ok()?);
    draft.trajectory.extra = record.into_iter().collect();
    Ok(draft)
}
