//! HumanEvalFix (the Python part of HumanEvalPack): one file with one buggy function each (specs 3).
//!
//! Rows come as JSON Lines in the data set's own field names. The file that the agent repairs holds the buggy function
//! and a copy of its test; the reference test is kept apart and judges ([`crate::grade`]).
//!
//! Start with [`read_rows`]; [`prediction_patch`] turns a bare solution into a patch.

use std::collections::BTreeSet;

use sealign_manifest::{Environment, Suite, Task, TaskFile, TestPlan};
use serde::Deserialize;

use crate::grade::HUMANEVALFIX_COMMAND;
use crate::patch::{FileChange, unified_diff};
use crate::suites::environment_digest;

/// Where an agent finds the file.
pub const WORKDIR: &str = "/workspace";
/// Where a task carries the reference test; the grader reads it and never writes it into a sandbox.
pub const TEST_FILE: &str = ".sealign/test.py";
/// Wall limit of one test run (specs 3.2).
pub const TIMEOUT_SECONDS: u32 = 10;
/// Bytes of a line at most; the data set's longest has seven thousand.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Rows at most; the data set has 164.
const ROWS_MAX: usize = 10_000;

/// Lines that stand in front of a bare solution (specs 3.2): modules that solutions use without importing them.
const IMPORTS: [&str; 12] = [
    "import collections",
    "import copy",
    "import datetime",
    "import functools",
    "import hashlib",
    "import heapq",
    "import itertools",
    "import math",
    "import re",
    "import string",
    "import sys",
    "from typing import *",
];

/// Why the patch of an attempt counts as invalid (specs 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InvalidPatch {
    /// The file is gone.
    Missing,
    /// The file is as it was, trailing white space aside.
    Unchanged,
    /// The file does not parse as Python.
    Syntax,
    /// The file has no top-level function of the name that the test calls.
    NoFunction,
}

impl InvalidPatch {
    /// How a verdict's detail starts, so that reports can count it.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Missing => "invalid patch: the file is gone",
            Self::Unchanged => "invalid patch: the file is as it was",
            Self::Syntax => "invalid patch: the file is not Python",
            Self::NoFunction => "invalid patch: the function is gone",
        }
    }

    /// The reason that a verdict's detail states.
    pub fn of_detail(detail: &str) -> Option<Self> {
        let all = [Self::Missing, Self::Unchanged, Self::Syntax, Self::NoFunction];
        all.into_iter().find(|reason| detail.starts_with(reason.detail()))
    }
}

/// The fields of a row that are used.
#[derive(Debug, Deserialize)]
struct Row {
    task_id: String,
    declaration: String,
    canonical_solution: String,
    buggy_solution: String,
    test: String,
    entry_point: String,
}

/// Rows that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The file is not text.
    #[error("rows: the file is not UTF-8; give the JSON Lines file of HumanEvalPack")]
    Encoding,
    /// A line is not a row.
    #[error(
        "rows, line {line}: not a HumanEvalFix row; each line is an object with `task_id`, `declaration`, `canonical_solution`, `buggy_solution`, `test` and `entry_point`"
    )]
    Row {
        /// 1-based.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A line is too long.
    #[error(
        "rows, line {line}: longer than {LINE_BYTES_MAX} bytes; give the JSON Lines file of HumanEvalPack"
    )]
    LineTooLong {
        /// 1-based.
        line: usize,
    },
    /// Too many rows.
    #[error("rows: more than {ROWS_MAX}; split the file")]
    TooMany,
    /// A task id that occurs twice.
    #[error("rows, line {line}: `task_id` occurs twice; remove one of the rows")]
    Duplicate {
        /// 1-based.
        line: usize,
    },
    /// A task id that is no file name.
    #[error("rows, line {line}: `task_id` is not `Python/NUMBER`; only the Python part is supported")]
    TaskId {
        /// 1-based.
        line: usize,
    },
    /// A task could not be written as JSON.
    #[error("cannot write a task as JSON")]
    Json(#[from] serde_json::Error),
}

/// Reads the rows of a JSON Lines file as tasks, in its order. `image` is the image reference for pods, `interpreter`
/// what is said of its Python in the environment's digest.
///
/// # Errors
/// [`RowError`] for the first line that is not a row.
pub fn read_rows(bytes: &[u8], image: &str, interpreter: &str) -> Result<Vec<Task>, RowError> {
    let text = std::str::from_utf8(bytes).map_err(|_| RowError::Encoding)?;
    let mut tasks = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        if line.len() > LINE_BYTES_MAX {
            return Err(RowError::LineTooLong { line: number });
        }
        if tasks.len() == ROWS_MAX {
            return Err(RowError::TooMany);
        }
        let row: Row = serde_json::from_str(line).map_err(|source| RowError::Row { line: number, source })?;
        if !seen.insert(row.task_id.clone()) {
            return Err(RowError::Duplicate { line: number });
        }
        let path = file_name(&row.task_id).ok_or(RowError::TaskId { line: number })?;
        tasks.push(task(row, path, image, interpreter)?);
    }
    Ok(tasks)
}

/// `Python/12` lies in `Python__12.py`.
fn file_name(task_id: &str) -> Option<String> {
    let number = task_id.strip_prefix("Python/")?;
    let is_number =
        !number.is_empty() && number.len() <= 9 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| format!("Python__{number}.py"))
}

fn task(row: Row, path: String, image: &str, interpreter: &str) -> Result<Task, serde_json::Error> {
    let content = |solution: &str| format!("{}{solution}\n{}", row.declaration, row.test);
    let (buggy, fixed) = (content(&row.buggy_solution), content(&row.canonical_solution));
    let gold =
        unified_diff(&[FileChange { path: path.clone(), before: Some(buggy.clone()), after: Some(fixed) }]);
    let problem_statement = format!(
        "Please fix the function {} in {path} such that all test cases pass. This is the content of the file:\n\n{buggy}",
        row.entry_point
    );
    let files = vec![TaskFile { path, content: buggy }];
    Ok(Task {
        id: row.task_id,
        suite: Suite::HumanEvalFix,
        repo: None,
        problem_statement,
        environment: Environment {
            image: image.to_owned(),
            workdir: WORKDIR.to_owned(),
            digest: environment_digest(&files, interpreter)?,
            files,
        },
        tests: TestPlan {
            fail_to_pass: vec![row.entry_point],
            pass_to_pass: Vec::new(),
            files: vec![TaskFile { path: TEST_FILE.to_owned(), content: row.test }],
            command: HUMANEVALFIX_COMMAND.map(str::to_owned).to_vec(),
            timeout_seconds: TIMEOUT_SECONDS,
        },
        gold_patch: Some(gold),
        truth: Some(serde_json::json!({ "declaration": row.declaration })),
    })
}

/// The patch that makes the task's file hold import lines, the declaration and a bare `solution` (what `--predictions`
/// files give); the reference test follows when it is graded. A solution that defines the function itself stands in for
/// the declaration, since chat models answer with whole functions. `None` for tasks of other suites.
pub fn prediction_patch(task: &Task, solution: &str) -> Option<String> {
    let declaration = task.truth.as_ref()?.get("declaration")?.as_str()?;
    let file = task.environment.files.first()?;
    let (before, definition) = split_definition(declaration);
    let is_whole = name_of(definition).is_some_and(|name| {
        let own = format!("def {name}(");
        solution.lines().any(|line| line.starts_with(&own))
    });
    let head = if is_whole { before } else { declaration };
    let after = format!("{}\n{head}{solution}\n", IMPORTS.join("\n"));
    Some(unified_diff(&[FileChange {
        path: file.path.clone(),
        before: Some(file.content.clone()),
        after: Some(after),
    }]))
}

/// A declaration in two: imports and helpers, and the definition that the body follows.
fn split_definition(declaration: &str) -> (&str, &str) {
    let at = declaration.rfind("\ndef ").map_or(0, |newline| newline + 1);
    declaration.split_at_checked(at).unwrap_or(("", declaration))
}

fn name_of(definition: &str) -> Option<&str> {
    definition.trim_start().strip_prefix("def ")?.split('(').next().map(str::trim)
}

/// One line of a predictions file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Prediction {
    /// The task.
    pub task_id: String,
    /// The function's body, to follow the declaration, or the whole function.
    pub solution: String,
}

/// Reads a predictions file: JSON Lines of `task_id` and `solution`; other fields are ignored.
///
/// # Errors
/// The 1-based line that is not a prediction, or that names a task twice, as [`PredictionError`].
pub fn read_predictions(bytes: &[u8]) -> Result<Vec<Prediction>, PredictionError> {
    let text = std::str::from_utf8(bytes).map_err(|_| PredictionError::Encoding)?;
    let mut found: Vec<Prediction> = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        let prediction: Prediction =
            serde_json::from_str(line).map_err(|source| PredictionError::Line { line: number, source })?;
        if !seen.insert(prediction.task_id.clone()) {
            return Err(PredictionError::Duplicate { line: number });
        }
        found.push(prediction);
    }
    Ok(found)
}

/// A predictions file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PredictionError {
    /// The file is not text.
    #[error("predictions: the file is not UTF-8; give JSON Lines of `task_id` and `solution`")]
    Encoding,
    /// A line is not a prediction.
    #[error("predictions, line {line}: not an object with the texts `task_id` and `solution`")]
    Line {
        /// 1-based.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A task predicted twice.
    #[error("predictions, line {line}: the task was predicted before; keep one line a task")]
    Duplicate {
        /// 1-based.
        line: usize,
    },
}
