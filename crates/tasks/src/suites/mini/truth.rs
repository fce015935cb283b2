//! What scripted teachers, the built-in base model's pretraining and per-family reports know of a task.

use sealign_manifest::Task;
use serde::{Deserialize, Serialize};

use super::family::Family;
use super::names::Split;

/// The answer to a task. It stands in [`Task::truth`] and never enters a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MiniTruth {
    /// Which kind of bug.
    pub family: Family,
    /// Which half of all tasks.
    pub split: Split,
    /// The function with the bug.
    pub function: String,
    /// Its file, relative to the task root.
    pub file: String,
    /// The function that the issue names: the buggy one, or in a two-file task the one that calls it.
    pub issue_function: String,
    /// The file of [`issue_function`](Self::issue_function).
    pub issue_file: String,
    /// Whether the issue names that file.
    pub names_file: bool,
    /// Whether the issue states the spec; otherwise only a failing test does.
    pub explicit: bool,
    /// What the function should return, as a noun phrase.
    pub spec: String,
    /// Lines that compete for the buggy place, without indentation.
    pub candidates: Vec<String>,
    /// The candidate that is right.
    pub right: usize,
    /// The candidate that stands in the file.
    pub buggy: usize,
    /// A right line of the function that a careless agent may spoil, and what it makes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoy: Option<Decoy>,
    /// The function's source with each candidate in place.
    pub sources: Vec<String>,
    /// The visible calls of the function, in the order of the visible tests.
    pub visible: Vec<VisibleCall>,
}

/// A right line and its spoilt form, both without indentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decoy {
    /// The line as it should be.
    pub line: String,
    /// What it is spoilt to; every call then gives `None`.
    pub spoilt: String,
}

/// One visible call of the buggy function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VisibleCall {
    /// The expression.
    pub call: String,
    /// What each candidate makes of it, as Python prints it.
    pub results: Vec<String>,
}

/// A task of another suite, or one whose truth is not this crate's.
#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    /// The row has no truth.
    #[error("task `{0}` has no truth: only tasks of the suite `mini` can be worked on by scripted teachers")]
    Missing(String),
    /// The row's truth has another shape.
    #[error("the truth of task `{id}` is not that of a `mini` task")]
    Shape {
        /// The task.
        id: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl MiniTruth {
    /// The truth of `task`.
    ///
    /// # Errors
    /// [`TruthError`] when the task has none, or one of another suite.
    pub fn of(task: &Task) -> Result<Self, TruthError> {
        let Some(truth) = &task.truth else { return Err(TruthError::Missing(task.id.clone())) };
        // `Value` is itself a deserializer, by reference.
        Self::deserialize(truth).map_err(|source| TruthError::Shape { id: task.id.clone(), source })
    }

    /// The line that has to be in place.
    pub fn right_line(&self) -> &str {
        self.candidates.get(self.right).map_or("", String::as_str)
    }

    /// The line that stands in the file.
    pub fn buggy_line(&self) -> &str {
        self.candidates.get(self.buggy).map_or("", String::as_str)
    }
}
