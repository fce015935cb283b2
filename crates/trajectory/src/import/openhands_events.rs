//! OpenHands before the SDK: rows of `output.jsonl`, and saved lists of events (specs 1.11, 6.1).
//!
//! Events are turned into chat messages, because that is what the model saw: actions that share one model response are one
//! assistant message, and an observation goes to the action that it names as its cause. An error without an action is what
//! remains of an output that was dropped (C3).

use serde_json::{Map, Value, json};

use super::conversation::{self, CONDENSED_BEFORE, TextCalls};
use super::fields::{Record, RecordError, content, mismatch, take_optional_text};
use super::files::{split_path, without_gz};
use super::swegym::{outcome, take_patch, task_id};
use super::{Draft, Format, Place};
use crate::record::{Outcome, UnknownCause};

/// Events that are bookkeeping, not conversation.
const SKIPPED: [&str; 9] = [
    "null",
    "change_agent_state",
    "agent_state_changed",
    "recall",
    "condensation_request",
    "condense",
    "loop_recovery",
    "loop_detection",
    "download",
];
/// What the scaffold adds to an error that it shows to the model (specs 1.4).
const ERROR_ENDING: &str = "\n[Error occurred in processing last action]";

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let mut row = match value {
        Value::Object(row) => row,
        events @ Value::Array(_) => Map::from_iter([("history".to_owned(), events)]),
        _ => return Err(RecordError::NotAnObject),
    };
    let events = flat_events(row.shift_remove("history"), place.options.limits.messages)?;
    let task = task(&mut row, place)?;
    let mut messages = Messages::default();
    for event in &events {
        messages.event(event)?;
    }
    let messages = messages.into_list();
    let conversation = conversation::read(&messages, TextCalls::Functions)?;
    let run =
        without_gz(split_path(place.path).1).rsplit_once('.').map_or("run", |(stem, _)| stem).to_owned();
    let mut draft = Draft::new(place, Format::OpenhandsEvents, task, &run, conversation, messages.len());
    let own = outcome(&row);
    draft.run = (own == Outcome::Unknown(UnknownCause::NoVerdict)).then_some(run);
    let trajectory = &mut draft.trajectory;
    trajectory.outcome = own;
    trajectory.patch = take_patch(&mut row).or(take_optional_text(&mut row, "git_patch")?);
    trajectory.exit_status = take_optional_text(&mut row, "error").unwrap_or_default();
    trajectory.model = row
        .get("metadata")
        .and_then(|metadata| metadata.pointer("/llm_config/model"))
        .and_then(Value::as_str)
        .map(str::to_owned);
    trajectory.extra = row.into_iter().collect();
    Ok(draft)
}

/// The events in order; older rows hold them in pairs of action and observation.
fn flat_events(history: Option<Value>, limit: usize) -> Result<Vec<Record>, RecordError> {
    let Some(Value::Array(items)) = history else { return Err(mismatch("history", "a list of events")) };
    let flat = items.into_iter().flat_map(|item| match item {
        Value::Array(pair) => pair,
        event => vec![event],
    });
    let events = flat.map(|event| match event {
        Value::Object(event) => Ok(event),
        _ => Err(mismatch("history", "a list of events")),
    });
    let events: Vec<Record> = events.collect::<Result<_, _>>()?;
    if events.len() > limit { Err(RecordError::TooManyMessages(limit)) } else { Ok(events) }
}

fn task(row: &mut Record, place: Place<'_>) -> Result<String, RecordError> {
    if let Some(id) = take_optional_text(row, "instance_id")? {
        return Ok(task_id(&id));
    }
    let text = |pointer: &str| {
        Value::Object(row.clone())
            .pointer(pointer)
            .map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned))
    };
    if let Some(id) = text("/instance/instance_id").or_else(|| text("/question_id")) {
        return Ok(task_id(&id));
    }
    if let (Some(owner), Some(repo), Some(number)) =
        (text("/issue/owner"), text("/issue/repo"), text("/issue/number"))
    {
        return Ok(format!("{owner}__{repo}-{number}"));
    }
    let name = split_path(place.path).1;
    Ok(format!("{}:{}", name.split('.').next().unwrap_or(name), place.line))
}

/// One model turn: its message, the events that belong to it, and the answers.
struct Turn {
    message: Value,
    response: Option<String>,
    ids: Vec<Value>,
    answers: Vec<Value>,
}

#[derive(Default)]
struct Messages {
    prompt: Vec<Value>,
    turns: Vec<Turn>,
    condensed: bool,
}

impl Messages {
    fn event(&mut self, event: &Record) -> Result<(), RecordError> {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        match (text("action"), text("observation")) {
            (Some(name), _) if !SKIPPED.contains(&name) => self.action(name, event),
            (None, Some(name)) if !SKIPPED.contains(&name) => self.observation(name, event),
            _ => Ok(()),
        }
    }

    fn action(&mut self, name: &str, event: &Record) -> Result<(), RecordError> {
        let arguments = arguments(event);
        let spoken = || content(arguments.get("content"), "args.content");
        let is_users = match event.get("source").and_then(Value::as_str) {
            Some(source) => source == "user",
            None => self.turns.is_empty(),
        };
        match name {
            "system" => self.prompt.push(json!({"role": "system", "content": spoken()?})),
            "condensation" => self.condensed = true,
            "message" if is_users => self.hear(json!({"role": "user", "content": spoken()?})),
            "message" => self.speak(event, json!({"role": "assistant", "content": spoken()?})),
            "run" if is_hidden(&arguments) => {}
            _ if self.continues(event) => self.remember(event),
            _ => {
                let message = model_message(event).unwrap_or_else(|| called(name, &arguments));
                self.speak(event, message);
            }
        }
        Ok(())
    }

    /// The action is one more call of the response that began the current turn.
    fn continues(&self, event: &Record) -> bool {
        let response = response_id(event);
        response.is_some() && self.turns.last().is_some_and(|turn| turn.response == response)
    }

    fn remember(&mut self, event: &Record) {
        if let Some(turn) = self.turns.last_mut() {
            turn.ids.extend(event.get("id").cloned());
        }
    }

    fn speak(&mut self, event: &Record, mut message: Value) {
        if let (true, Some(message)) = (std::mem::take(&mut self.condensed), message.as_object_mut()) {
            message.insert(CONDENSED_BEFORE.to_owned(), Value::Bool(true));
        }
        let ids = event.get("id").cloned().into_iter().collect();
        self.turns.push(Turn { message, response: response_id(event), ids, answers: Vec::new() });
    }

    fn hear(&mut self, message: Value) {
        match self.turns.last_mut() {
            Some(turn) => turn.answers.push(message),
            None => self.prompt.push(message),
        }
    }

    fn observation(&mut self, name: &str, event: &Record) -> Result<(), RecordError> {
        let extras = event.get("extras").and_then(Value::as_object);
        if extras.is_some_and(is_hidden) {
            return Ok(());
        }
        let mut text = content(event.get("content"), "content")?;
        let cause = event.get("cause").filter(|cause| !cause.is_null());
        let metadata = event.get("tool_call_metadata").filter(|metadata| !metadata.is_null());
        if name == "error" {
            text.push_str(ERROR_ENDING);
            if cause.is_none() && metadata.is_none() {
                self.hear(json!({"role": "user", "content": text}));
                return Ok(());
            }
        } else if name == "run" {
            text = shell_text(&text, event, extras);
        }
        let tool = metadata.and_then(|metadata| metadata.get("function_name")).and_then(Value::as_str);
        let answer = json!({"role": "tool", "name": tool, "content": text});
        let of_cause = cause.and_then(|cause| self.turns.iter().rposition(|turn| turn.ids.contains(cause)));
        match of_cause.and_then(|at| self.turns.get_mut(at)) {
            Some(turn) => turn.answers.push(answer),
            None => self.hear(answer),
        }
        Ok(())
    }

    fn into_list(self) -> Vec<Value> {
        let turns = self.turns.into_iter().flat_map(|turn| std::iter::once(turn.message).chain(turn.answers));
        self.prompt.into_iter().chain(turns).collect()
    }
}

/// Arguments of an action; before 0.9 they stood in the event itself.
fn arguments(event: &Record) -> Record {
    event.get("args").and_then(Value::as_object).unwrap_or(event).clone()
}

fn is_hidden(fields: &Record) -> bool {
    fields.get("hidden").and_then(Value::as_bool) == Some(true)
}

fn response_id(event: &Record) -> Option<String> {
    let response = event.get("tool_call_metadata")?.pointer("/model_response/id")?;
    response.as_str().map(str::to_owned)
}

/// The model's own message, where the event kept it with its calls.
fn model_message(event: &Record) -> Option<Value> {
    let message = event.get("tool_call_metadata")?.pointer("/model_response/choices/0/message")?;
    let calls = message.get("tool_calls")?.as_array().filter(|calls| !calls.is_empty())?;
    Some(json!({"role": "assistant", "content": message.get("content"), "tool_calls": calls}))
}

/// The message that an action without its model response must have been.
fn called(action: &str, arguments: &Record) -> Value {
    let pick = |names: &[&str]| -> Value {
        let kept = names.iter().filter_map(|name| Some(((*name).to_owned(), arguments.get(*name)?.clone())));
        Value::Object(kept.filter(|(_, value)| !value.is_null() && value != "").collect())
    };
    let (tool, kept) = match action {
        "run" => ("execute_bash", pick(&["command", "is_input"])),
        "run_ipython" => {
            match arguments.get("code").and_then(Value::as_str).and_then(super::python_literal::editor_call) {
                Some(editor) => ("str_replace_editor", Value::Object(editor)),
                None => ("execute_ipython_cell", pick(&["code"])),
            }
        }
        "read" => {
            let mut kept = pick(&["path", "view_range"]);
            if let Some(kept) = kept.as_object_mut() {
                kept.insert("command".to_owned(), Value::from("view"));
            }
            ("str_replace_editor", kept)
        }
        "edit" => (
            "str_replace_editor",
            pick(&["command", "path", "file_text", "old_str", "new_str", "insert_line"]),
        ),
        "write" => ("write", pick(&["path", "content", "start", "end"])),
        "finish" => ("finish", json!({})),
        "think" => ("think", pick(&["thought"])),
        "task_tracking" => ("task_tracker", pick(&["command", "task_list"])),
        other => {
            let bookkeeping =
                ["thought", "action", "confirmation_state", "is_confirmed", "keep_prompt", "action_risk"];
            let kept = arguments.iter().filter(|(name, _)| !bookkeeping.contains(&name.as_str()));
            (other, Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
        }
    };
    let thought = if action == "think" { None } else { arguments.get("thought").and_then(Value::as_str) };
    json!({"role": "assistant", "content": thought, "tool_calls": [{"function": {"name": tool, "arguments": kept}}]})
}

/// A command's output as the model saw it (specs 1.7).
fn shell_text(text: &str, event: &Record, extras: Option<&Record>) -> String {
    let legacy = extras.and_then(|extras| extras.get("exit_code")).or_else(|| event.get("exit_code"));
    let Some(metadata) = extras.and_then(|extras| extras.get("metadata")).and_then(Value::as_object) else {
        return legacy.map_or_else(
            || text.to_owned(),
            |code| format!("{text}\n[Command finished with exit code {code}]"),
        );
    };
    let field = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut out = format!("{}{text}{}", field("prefix"), field("suffix"));
    for (title, value) in [
        ("Current working directory", field("working_dir")),
        ("Python interpreter", field("py_interpreter_path")),
    ] {
        if !value.is_empty() {
            out.push_str("\n[");
            out.push_str(title);
            out.push_str(": ");
            out.push_str(value);
            out.push(']');
        }
    }
    match metadata.get("exit_code").and_then(Value::as_i64) {
        Some(code) if code != -1 => format!("{out}\n[Command finished with exit code {code}]"),
        _ => out,
    }
}
