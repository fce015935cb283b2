//! The agent loop: a task, a harness, a model and an environment in, the record of one attempt out.
//!
//! [`run`](run::run) is the loop. A [`Harness`] decides what the model is told, how its words become actions and what it
//! sees back; a [`Model`] completes conversations (an OpenAI-compatible server, or a scripted policy that is documented as
//! such); an [`Environment`] runs commands and holds files. Everything that ends up in an [`Attempt`] is a function of
//! those three: no times, process ids or host names, so a deterministic model in a deterministic environment gives the
//! same bytes again.
//!
//! What it does not do: it claims no sandbox, grades nothing and writes no store; the worker does. Model output and
//! command output are hostile data here: they are parsed with bounds, quoted back and never interpreted.
//!
//! Reading order: [`run`], [`limits`], [`model`], [`environment`], [`harness`], [`stuck`], then the implementations
//! [`openai`], [`scripted`] and [`directory`].

pub mod run;

pub mod limits;
pub mod replay;
pub mod stuck;

pub mod environment;
pub mod harness;
pub mod model;

pub mod directory;
pub mod openai;
pub mod scripted;

pub use environment::{Environment, EnvironmentError, FileRead, LimitKind, ShellOutput};
pub use harness::{Harness, Session};
pub use limits::{Clock, Limits, SystemClock};
pub use model::{Completion, CompletionRequest, FinishReason, Model, ModelError, Sampling};
pub use run::{Attempt, Failure, Setup, run};
pub use stuck::StuckRule;
