//! The JSON of requests and replies (specs 8.2). Unknown fields of replies are ignored; everything read is a server's word.

use std::time::Duration;

use sealign_manifest::record::Usage;
use sealign_trajectory::Role;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::{Completion, CompletionRequest, FinishReason};

/// What servers say when a prompt is too long, in lower case.
const CONTEXT_OVERFLOWS: [&str; 4] =
    ["maximum context length", "context_length_exceeded", "prompt is too long", "exceeds the maximum"];

/// The body of a request.
pub(super) fn request(model: &str, request: &CompletionRequest<'_>) -> Value {
    let messages: Vec<Value> = request
        .messages
        .iter()
        .map(|message| json!({ "role": role(message.role), "content": message.content }))
        .collect();
    let mut body = json!({
        "model": model,
        "messages": messages,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "stream": false,
    });
    if let Some(members) = body.as_object_mut() {
        if !request.stop.is_empty() {
            members.insert("stop".to_owned(), json!(request.stop));
        }
        if let Some(penalty) = request.sampling.repetition_penalty {
            members.insert("repetition_penalty".to_owned(), json!(penalty));
        }
    }
    body
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User | Role::Tool => "user",
        Role::Assistant => "assistant",
    }
}

#[derive(Deserialize)]
struct Reply {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<ReplyUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: ReplyMessage,
    #[serde(default)]
    finish_reason: Option<String>,
    /// vLLM: the stop sequence or the token that ended it.
    #[serde(default)]
    stop_reason: Option<Value>,
}

#[derive(Deserialize)]
struct ReplyMessage {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct ReplyUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Reads a successful reply.
pub(super) fn completion(bytes: &[u8], stop: &[String]) -> Result<Completion, String> {
    let reply: Reply = serde_json::from_slice(bytes)
        .map_err(|error| format!("the reply is not a chat completion: {error}"))?;
    let choice = reply.choices.into_iter().next().ok_or("the reply has no choice")?;
    let mut text = choice.message.content.unwrap_or_default();
    // Servers take the stop sequence off the text although the model said it; a transcript without it would teach a model
    // to break off in the middle of a tag.
    let stopped_by = choice.stop_reason.as_ref().and_then(Value::as_str);
    let taken_off = stopped_by.filter(|sequence| stop.iter().any(|sent| sent == sequence));
    if let Some(sequence) = taken_off.filter(|sequence| !text.ends_with(sequence)) {
        text.push_str(sequence);
    }
    let finish = match choice.finish_reason.as_deref() {
        Some("stop") | None => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some(_) => FinishReason::Other,
    };
    let ReplyUsage { prompt_tokens, completion_tokens } = reply.usage.unwrap_or_default();
    let usage = Usage { prompt_tokens, completion_tokens };
    Ok(Completion { text, finish, usage, waited: Duration::ZERO })
}

/// The words of an error reply: `{"error": {"message", ...}}`, the flat form of older servers, or the text itself.
pub(super) fn error_message(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let error = value.get("error").unwrap_or(&value);
    let part = |name: &str| error.get(name).and_then(Value::as_str);
    match (part("message").or(error.as_str()), part("code")) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        (Some(message), None) => message.to_owned(),
        (None, Some(code)) => code.to_owned(),
        (None, None) => {
            String::from_utf8_lossy(bytes.get(..bytes.len().min(2_000)).unwrap_or_default()).into_owned()
        }
    }
}

/// Whether an error says that the prompt is too long.
pub(super) fn is_context_overflow(message: &str) -> bool {
    let message = message.to_lowercase();
    CONTEXT_OVERFLOWS.iter().any(|pattern| message.contains(pattern))
}

/// Whether a list of models holds `model`.
pub(super) fn lists_model(bytes: &[u8], model: &str) -> bool {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let models = value.get("data").and_then(Value::as_array);
    models.is_some_and(|models| {
        models.iter().any(|entry| entry.get("id").and_then(Value::as_str) == Some(model))
    })
}
