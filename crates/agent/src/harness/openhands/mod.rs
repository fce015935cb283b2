//! OpenHands' CodeActAgent in the text call protocol (specs 1): a shell, an editor, `finish` and, in one profile, `think`.
//!
//! Imitated byte for byte where other programs compare: the call syntax and its repair, the layout of the prompt's
//! function list, the texts around observations, the beginnings of errors. The prose is our own and comes from
//! [`Templates`], which an operator can replace. Departures: a command that runs out of its time is ended instead of left
//! running, so there is never an earlier command to poll; and there is no rule of thirty silent seconds, which no two
//! machines would agree on.
//!
//! Start with [`Profile`], then [`OpenHands`]; [`call`] reads calls, `bash` and [`editor`] carry them out.

mod bash;
pub mod call;
pub mod editor;
mod profile;
mod prompt;
mod split;
mod tools;

use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::Task;
use sealign_trajectory::protocol::STOP_SEQUENCE;
use sealign_trajectory::{Action, Message, ObservationPart, ToolCall};

pub use self::profile::{Profile, Templates};
pub use self::tools::{Tool, tools};

use self::call::Call;
use self::editor::Editor;
use super::{End, Harness, Reaction, Seen, Session, TemplateError};
use crate::environment::{Environment, EnvironmentError};
use crate::model::{Completion, FinishReason};

/// Version of the fixed behaviour; raised by whatever changes what a model sees.
const VERSION: u32 = 1;
/// Nudges after which the agent is told how to give up.
const NUDGES_BEFORE_GIVING_UP: u32 = 2;
/// What is put after the text of an error observation.
const ERROR_TRAILER: &str = "\n[Error occurred in processing last action]";
/// Longest completion that is looked at, in bytes: far above any completion limit, so that a broken server costs no
/// memory here. The rest is dropped, visibly in the record.
const COMPLETION_BYTES_MAX: usize = 1024 * 1024;

/// The harness.
#[derive(Clone, Debug)]
pub struct OpenHands {
    profile: Profile,
    templates: Templates,
    stop: Vec<String>,
}

impl OpenHands {
    /// The harness with a profile's own texts.
    pub fn new(profile: Profile) -> Self {
        Self::with_templates(profile, Templates::of(profile))
    }

    /// The harness with other texts.
    pub fn with_templates(profile: Profile, templates: Templates) -> Self {
        Self { profile, templates, stop: vec![STOP_SEQUENCE.to_owned()] }
    }
}

impl Harness for OpenHands {
    fn name(&self) -> String {
        format!("{}/{VERSION}", self.profile.name())
    }

    fn needs_sandbox(&self) -> bool {
        true
    }

    fn prompt(&self, task: &Task) -> Result<Vec<Message>, TemplateError> {
        prompt::messages(self.profile, &self.templates, task)
    }

    fn stop(&self) -> &[String] {
        &self.stop
    }

    fn session(&self, task: &Task) -> Box<dyn Session> {
        Box::new(OpenHandsSession {
            profile: self.profile,
            templates: self.templates.clone(),
            editor: Editor::new(self.profile, &task.environment.workdir),
            nudges: 0,
        })
    }
}

struct OpenHandsSession {
    profile: Profile,
    templates: Templates,
    editor: Editor,
    nudges: u32,
}

#[async_trait]
impl Session for OpenHandsSession {
    async fn react(
        &mut self,
        completion: &Completion,
        environment: &mut dyn Environment,
        command_time: Duration,
    ) -> Result<Reaction, EnvironmentError> {
        let raw = completed(completion);
        let (call, free_text) = match call::read(&raw, tools(self.profile)) {
            call::Reading::Message => return Ok(self.nudge(raw)),
            call::Reading::Invalid(problem) => return Ok(self.refuse(raw, &problem)),
            call::Reading::Call { call, free_text } => (call, free_text),
        };
        let ToolCall { name, .. } = &call.written;
        let mut end = None;
        let (text, seen) = match &call.meant {
            Call::Finish => {
                end = Some(End::Finished(None));
                (None, Seen::Nothing)
            }
            Call::Think => {
                let text = "Your thought has been logged.".to_owned();
                (Some(text.clone()), Seen::Text(text))
            }
            Call::Bash(request) => {
                let result = bash::run(self.profile, request, environment, command_time).await?;
                end = result.limit.map(End::Limit);
                (Some(result.text), result.seen)
            }
            Call::Edit(request) => {
                let text = self.editor.act(request, environment).await?;
                (Some(text.clone()), Seen::Text(text))
            }
        };
        let tool = self.profile.names_results().then(|| name.clone());
        let observation = text.map(|text| vec![ObservationPart { tool, text }]);
        Ok(Reaction {
            raw,
            free_text,
            action: Action::Calls { calls: vec![call.written] },
            observation,
            seen,
            end,
        })
    }
}

impl OpenHandsSession {
    /// Text without a call: the scripted user answers.
    fn nudge(&mut self, raw: String) -> Reaction {
        self.nudges += 1;
        let mut text = self.templates.nudge.clone();
        if self.nudges >= NUDGES_BEFORE_GIVING_UP {
            text.push_str(&self.templates.nudge_give_up);
        }
        Reaction {
            free_text: raw.replace("\r\n", "\n").trim().to_owned(),
            raw,
            action: Action::Message,
            observation: Some(vec![ObservationPart { tool: None, text }]),
            seen: Seen::User,
            end: None,
        }
    }

    /// A call that cannot be carried out.
    fn refuse(&self, raw: String, problem: &str) -> Reaction {
        let text = match self.profile {
            Profile::Compact => self.templates.invalid_call.clone(),
            Profile::OpenHands024 | Profile::OpenHands028 => format!("{problem}{ERROR_TRAILER}"),
        };
        Reaction {
            free_text: String::new(),
            action: Action::Invalid { text: raw.clone(), raw_missing: false },
            raw,
            observation: Some(vec![ObservationPart { tool: None, text: text.clone() }]),
            seen: Seen::Error(text),
            end: None,
        }
    }
}

/// The text of the record. A completion that its stop sequence ended gets the last character of the closing tag back:
/// that is the protocol's cut, not the model's mistake, and training must show the model a whole tag.
fn completed(completion: &Completion) -> String {
    let mut text = completion.text.clone();
    if text.len() > COMPLETION_BYTES_MAX {
        let end = (0..=COMPLETION_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    if completion.finish == FinishReason::Stop && text.ends_with(STOP_SEQUENCE) {
        text.push('>');
    }
    text
}
