//! The record of one attempt at a task, and the formats it is read from and written to.
//!
//! A [`Trajectory`] is what every importer yields and what the forest, the batches and the reports take. It keeps the
//! model's own words (raw text before any repair) beside the parsed call, so that training sees what was sampled and
//! merging sees what was meant. Nothing here reads files, clocks or the network: importers take bytes.
//!
//! Start with [`record`], then [`import`] for what comes in and [`export`] for what goes out. [`key`] and [`observe`]
//! say when two actions and two observations are the same.

pub mod record;

pub mod import;
pub mod json;

pub mod canonical;
pub mod key;
pub mod observe;
pub mod stuck;

pub mod chat;
pub mod export;
pub mod protocol;

pub use record::{
    Action, Arguments, Message, ObservationPart, Origin, Outcome, Role, ToolCall, Trajectory, Turn,
    UnknownCause,
};
