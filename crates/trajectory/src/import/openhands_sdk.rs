//! OpenHands software-agent SDK ("V1") event streams (specs 6.2; rules A16, B4, C17): one conversation is a folder of
//! event files, or one file with an event a line.

use serde_json::{Value, json};

use super::conversation::{self, CONDENSED_BEFORE, TextCalls};
use super::fields::{Record, RecordError, content, mismatch};
use super::files::{split_path, without_gz};
use super::{Draft, Format, Place};

/// Kinds that are enough to recognise a stream.
const KINDS: [&str; 9] = [
    "SystemPromptEvent",
    "MessageEvent",
    "ActionEvent",
    "ObservationEvent",
    "AgentErrorEvent",
    "UserRejectObservation",
    "Condensation",
    "ConversationStateUpdateEvent",
    "TokenEvent",
];

pub(super) fn is_event(record: &Record) -> bool {
    record.get("kind").and_then(Value::as_str).is_some_and(|kind| KINDS.contains(&kind))
        && record.contains_key("id")
}

/// The conversation that an event file belongs to: the folder around `events/`, or the file itself.
pub(super) fn conversation_of(path: &str) -> &str {
    match split_path(path) {
        (folder, name) if name.starts_with("event-") => folder.strip_suffix("/events").unwrap_or(folder),
        _ => path,
    }
}

/// Reads the events of one conversation, in order.
pub(super) fn read(events: &[Value], conversation: &str, place: Place<'_>) -> Result<Draft, RecordError> {
    if events.len() > place.options.limits.messages {
        return Err(RecordError::TooManyMessages(place.options.limits.messages));
    }
    let mut messages: Vec<Value> = Vec::new();
    let (mut response, mut condensed) = (None, false);
    for event in events {
        let Value::Object(event) = event else { return Err(mismatch("event", "an object")) };
        if event.get("kind").and_then(Value::as_str) == Some("Condensation") {
            condensed = true;
        }
        let Some((message, answered)) = message(event)? else { continue };
        if message.get("role") == Some(&json!("assistant")) {
            if answered.is_some() && answered == response && add_calls(&mut messages, &message) {
                continue;
            }
            response = answered;
        }
        let mut message = message;
        if message.contains_key("tool_calls") && std::mem::take(&mut condensed) {
            message.insert(CONDENSED_BEFORE.to_owned(), Value::Bool(true));
        }
        messages.push(Value::Object(message));
    }
    let (folder, name) = split_path(without_gz(conversation));
    let run = name.split('.').next().unwrap_or(name);
    // The events do not name their task; the folder around the conversation does, where there is one.
    let task = Some(split_path(folder).1).filter(|folder| !folder.is_empty()).unwrap_or(run).to_owned();
    let read = conversation::read(&messages, TextCalls::Functions)?;
    let mut draft = Draft::new(place, Format::OpenhandsSdk, task, run, read, messages.len());
    draft.run = Some(run.to_owned());
    Ok(draft)
}

/// The chat message that an event is, with the model response that it is part of; `None` for bookkeeping.
fn message(event: &Record) -> Result<Option<(Record, Option<String>)>, RecordError> {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let response = event.get("llm_response_id").and_then(Value::as_str).map(str::to_owned);
    let message = match text("kind") {
        "SystemPromptEvent" => {
            json!({"role": "system", "content": content(event.get("system_prompt"), "system_prompt")?})
        }
        "MessageEvent" => spoken(event)?,
        "ActionEvent" => acted(event)?,
        "ObservationEvent" => {
            let seen = event.get("observation").and_then(Value::as_object);
            let seen = seen.ok_or_else(|| mismatch("observation", "an object"))?;
            json!({"role": "tool", "name": text("tool_name"), "content": seen_text(seen)?})
        }
        "AgentErrorEvent" => json!({"role": "tool", "name": text("tool_name"), "content": text("error")}),
        "UserRejectObservation" => {
            json!({"role": "tool", "name": text("tool_name"), "content": text("rejection_reason")})
        }
        _ => return Ok(None),
    };
    let Value::Object(message) = message else { return Ok(None) };
    Ok(Some((message, response)))
}

fn spoken(event: &Record) -> Result<Value, RecordError> {
    let said = event.get("llm_message").ok_or_else(|| RecordError::Missing("llm_message".to_owned()))?;
    let mut text = content(said.get("content"), "llm_message.content")?;
    let further = content(event.get("extended_content"), "extended_content")?;
    if !further.is_empty() {
        text = format!("{text}\n{further}");
    }
    Ok(json!({"role": said.get("role"), "content": text}))
}

/// Rule A16: the arguments that the model wrote; the typed action only where they are missing.
fn acted(event: &Record) -> Result<Value, RecordError> {
    let call = if let Some(call) = event.get("tool_call").filter(|call| !call.is_null()) {
        call.clone()
    } else {
        let mut typed = event.get("action").cloned().unwrap_or_else(|| json!({}));
        if let Some(typed) = typed.as_object_mut() {
            typed.shift_remove("kind");
        }
        json!({"name": event.get("tool_name"), "arguments": typed})
    };
    Ok(
        json!({"role": "assistant", "content": content(event.get("thought"), "thought")?, "tool_calls": [call]}),
    )
}

/// Parallel calls are events of one response; they join the message that the first of them began.
fn add_calls(messages: &mut [Value], message: &Record) -> bool {
    let last = messages.iter_mut().rfind(|earlier| earlier.get("role") == Some(&json!("assistant")));
    let calls = last.and_then(|last| last.get_mut("tool_calls")).and_then(Value::as_array_mut);
    match (calls, message.get("tool_calls").and_then(Value::as_array)) {
        (Some(calls), Some(more)) => {
            calls.extend(more.iter().cloned());
            true
        }
        _ => false,
    }
}

/// Rule B4: the fields that the model saw, in order, those that are there.
fn seen_text(seen: &Record) -> Result<String, RecordError> {
    let mut texts = Vec::new();
    for name in ["output", "content", "message", "error"] {
        if let Some(value) = seen.get(name).filter(|value| !value.is_null()) {
            // `error` is a flag in some kinds and a text in others.
            texts.push(if value.is_boolean() { value.to_string() } else { content(Some(value), name)? });
        }
    }
    let exit_code = seen.get("metadata").and_then(|metadata| metadata.get("exit_code"));
    for value in [exit_code, seen.get("timeout")].into_iter().flatten().filter(|value| !value.is_null()) {
        texts.push(value.to_string());
    }
    Ok(texts.join("\n"))
}
