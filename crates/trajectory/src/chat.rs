//! A trajectory as the messages that a model in the text call protocol is trained on (specs 1.5 and 5.5).
//!
//! The model's raw text is used wherever the source kept it; otherwise the call is rendered. Consecutive messages of
//! one role stay separate, as OpenHands has sent them since 0.24: a tool result and the nudge after it are two user
//! messages. A turn with several calls becomes one assistant message per call, each followed by its result; calls
//! without a result share the message of the call before them. Nothing is tokenised here.
//!
//! Start with [`to_chat`] for a whole attempt, and [`prefix`] and [`decision`] for the two parts of a preference pair.

use crate::protocol::{render_call, render_result};
use crate::record::{Action, ObservationPart, Role, ToolCall, Trajectory, Turn};

/// How a trajectory is rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatOptions {
    /// Keep invalid outputs out of the loss; they stay in the context.
    pub mask_invalid: bool,
    /// Appended to the first system message, for sources whose tools were declared outside the messages. The words are
    /// the harness's.
    pub system_suffix: Option<String>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { mask_invalid: true, system_suffix: None }
    }
}

/// One message of the training-time list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTurn {
    /// Who speaks: system, user or assistant. Tool results are user messages in this protocol.
    pub role: Role,
    /// The text.
    pub content: String,
    /// The model turn that this message belongs to, counted from 0; `None` for everything that the model did not write.
    pub model_turn: Option<usize>,
    /// The message counts in the loss.
    pub trainable: bool,
}

/// The whole attempt: prompt, model turns, observations.
pub fn to_chat(trajectory: &Trajectory, options: &ChatOptions) -> Vec<ChatTurn> {
    prefix(trajectory, trajectory.turns.len(), options)
}

/// The messages that the model had seen before it took its `depth`-th action (0 = the prompt alone).
pub fn prefix(trajectory: &Trajectory, depth: usize, options: &ChatOptions) -> Vec<ChatTurn> {
    let mut out = prompt(trajectory, options);
    for (index, turn) in trajectory.turns.iter().enumerate().take(depth) {
        push_turn(&mut out, index, turn, Part::WithObservation, options);
    }
    out
}

/// The messages of one model turn, without the observation that ends it. More than one only for several calls.
pub fn decision(trajectory: &Trajectory, depth: usize, options: &ChatOptions) -> Vec<ChatTurn> {
    let mut out = Vec::new();
    if let Some(turn) = trajectory.turns.get(depth) {
        push_turn(&mut out, depth, turn, Part::ActionOnly, options);
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    ActionOnly,
    WithObservation,
}

fn prompt(trajectory: &Trajectory, options: &ChatOptions) -> Vec<ChatTurn> {
    let mut suffix = options.system_suffix.as_deref();
    let mut out = Vec::with_capacity(trajectory.prompt.len());
    for message in &trajectory.prompt {
        let mut content = message.content.clone();
        if let (Role::System, Some(text)) = (message.role, suffix) {
            content.push_str(text);
            suffix = None;
        }
        let role = if message.role == Role::Tool { Role::User } else { message.role };
        // An assistant message in the prompt is a demonstration: the scaffold wrote it, not the model.
        out.push(ChatTurn { role, content, model_turn: None, trainable: false });
    }
    out.extend(trajectory.first_observation.iter().flatten().map(heard));
    out
}

fn push_turn(out: &mut Vec<ChatTurn>, index: usize, turn: &Turn, part: Part, options: &ChatOptions) {
    let parts = turn.observation.as_deref().unwrap_or_default();
    let trainable = !(options.mask_invalid && matches!(turn.action, Action::Invalid { .. }));
    let said =
        |content: String| ChatTurn { role: Role::Assistant, content, model_turn: Some(index), trainable };
    match (&turn.raw, &turn.action) {
        (None, Action::Calls { calls }) => {
            let used = push_calls(out, &said, turn, calls, parts);
            if part == Part::WithObservation {
                push_observation(out, parts, used);
            }
            return;
        }
        (Some(raw), _) => out.push(said(raw.clone())),
        (None, Action::Message) => out.push(said(turn.free_text.clone())),
        // The words are lost: there is nothing to show, and only the error follows.
        (None, Action::Invalid { raw_missing: true, .. }) => {}
        (None, Action::Invalid { text, .. }) => out.push(said(text.clone())),
    }
    if part == Part::WithObservation {
        push_observation(out, parts, 0);
    }
}

/// Pushes the calls of a turn with the results that lie between them; returns how many results were pushed.
fn push_calls(
    out: &mut Vec<ChatTurn>,
    said: &dyn Fn(String) -> ChatTurn,
    turn: &Turn,
    calls: &[ToolCall],
    parts: &[ObservationPart],
) -> usize {
    let results: Vec<&ObservationPart> = parts.iter().filter(|part| part.tool.is_some()).collect();
    let mut content = turn.free_text.clone();
    let mut used = 0;
    for (position, call) in calls.iter().enumerate() {
        let separator = if content.is_empty() {
            ""
        } else if position == 0 {
            "\n\n"
        } else {
            "\n"
        };
        content = format!("{content}{separator}{}", render_call(call));
        let is_last = position + 1 == calls.len();
        if let (false, Some(result)) = (is_last, results.get(position)) {
            out.push(said(std::mem::take(&mut content)));
            out.push(heard(result));
            used += 1;
        }
    }
    out.push(said(content));
    used
}

/// Pushes an observation in message order, less the `used` tool results that were pushed between calls.
fn push_observation(out: &mut Vec<ChatTurn>, parts: &[ObservationPart], used: usize) {
    let mut to_skip = used;
    for part in parts {
        if part.tool.is_some() && to_skip > 0 {
            to_skip -= 1;
            continue;
        }
        out.push(heard(part));
    }
}

fn heard(part: &ObservationPart) -> ChatTurn {
    let content = match &part.tool {
        Some(tool) => render_result(tool, &part.text),
        None => part.text.clone(),
    };
    ChatTurn { role: Role::User, content, model_turn: None, trainable: false }
}
