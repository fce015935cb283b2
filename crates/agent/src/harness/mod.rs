//! Harnesses: what a model is told about a task, how its words become actions, and what it sees back.
//!
//! A [`Harness`] is a fixed setting, shared by all attempts; its [`Session`] holds the state of one attempt.

pub mod direct;
pub mod openhands;
mod template;

use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::Task;
use sealign_trajectory::{Action, Message, ObservationPart};

use crate::environment::{Environment, EnvironmentError, LimitKind};
use crate::model::Completion;

pub use template::TemplateError;

/// A way of letting a model work on tasks.
pub trait Harness: Send + Sync {
    /// Name and version for records, for example `openhands-0.24/1`. Whatever changes what a model sees changes it, save
    /// overridden templates, which the policy's digest covers.
    fn name(&self) -> String;

    /// Whether attempts need a sandbox.
    fn needs_sandbox(&self) -> bool;

    /// The messages before the first model turn.
    fn prompt(&self, task: &Task) -> Result<Vec<Message>, TemplateError>;

    /// Texts that end a completion.
    fn stop(&self) -> &[String];

    /// Begins an attempt.
    fn session(&self, task: &Task) -> Box<dyn Session>;
}

/// One attempt as its harness sees it.
#[async_trait]
pub trait Session: Send {
    /// Turns what the model said into an action, does it, and says what the model sees back. A command may take
    /// `command_time`. Only [`EnvironmentError::Limit`] and [`EnvironmentError::Lost`] come out as errors.
    async fn react(
        &mut self,
        completion: &Completion,
        environment: &mut dyn Environment,
        command_time: Duration,
    ) -> Result<Reaction, EnvironmentError>;
}

/// A model turn after its harness dealt with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    /// The turn's text for the record and for the conversation that goes on: as sampled, before any repair, with what a
    /// stop sequence alone took away.
    pub raw: String,
    /// Free text around the call.
    pub free_text: String,
    /// What the turn does.
    pub action: Action,
    /// What comes back.
    pub observation: Option<Vec<ObservationPart>>,
    /// How a runtime detector of loops compares what came back.
    pub seen: Seen,
    /// Whether the attempt ends here.
    pub end: Option<End>,
}

/// How an attempt ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The agent is done. With an answer, from harnesses that work without an environment.
    Finished(Option<String>),
    /// The agent's commands passed a limit of the environment.
    Limit(LimitKind),
}

/// What came back, in the form that OpenHands' loop detector compares (specs 1.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// A command's result; its output does not count.
    Command {
        /// The command.
        command: String,
        /// Its exit code, -1 where there is none.
        exit_code: i32,
    },
    /// An error observation.
    Error(String),
    /// Any other observation.
    Text(String),
    /// A user's message, which the detector does not look at.
    User,
}
