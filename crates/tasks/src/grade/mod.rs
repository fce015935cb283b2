//! Judging a patch: what to write into a fresh sandbox, what to run, and what the output means.
//!
//! The sandbox holds hostile code, so no verdict is taken from what it says. Programs arrive on standard input and never
//! as files; the exit status comes from outside; every line that counts carries a nonce. And beyond that:
//!
//! - **mini**: expected values never enter the sandbox. The program evaluates calls and prints values; the comparison is
//!   made here. Forging a pass means knowing what hidden calls must give.
//! - **HumanEvalFix**: the assertions run in a process of their own, and the solution in another, which only ever sees
//!   calls. Values cross as plain data, so an object that is equal to everything cannot.
//!
//! **Negative control**: the same tests run once more with expectations that must fail. If one does not, the verdict is
//! [`Verdict::Tampered`]; so it is when the two runs disagree about which tests there are.
//!
//! Not caught by any of this: an answer hard-coded for the very inputs of the tests. Only more hidden inputs catch that.
//!
//! Start with [`plan`] and [`GradingPlan::judge`].

mod humanevalfix;
mod lines;
mod mini;

use sealign_manifest::{Suite, Task, TaskFile, Verdict, VerdictRecord};

use crate::patch::{Patch, apply};
use crate::suites::humanevalfix::InvalidPatch;

pub use humanevalfix::COMMAND as HUMANEVALFIX_COMMAND;
pub use mini::COMMAND as MINI_COMMAND;

/// Version of the rules in this module: part of every grading item, so that verdicts under other rules are other items.
pub const GRADER_VERSION: u32 = 1;
/// Bytes of a run's standard output that are kept. A verdict needs a line a test.
pub const STDOUT_BYTES_MAX: usize = 256 * 1024;

/// What to do with a patch.
#[derive(Clone, Debug, PartialEq)]
pub enum Planned {
    /// Nothing has to run.
    Decided(Judgement),
    /// The verdict takes a sandbox.
    Run(GradingPlan),
}

/// What a grading sandbox is given, in this order: the files, then each run. Standard input holds the whole program.
#[derive(Clone, Debug, PartialEq)]
pub struct GradingPlan {
    /// Absolute task root, empty at the start.
    pub workdir: String,
    /// Files below it: the environment's with the patch applied, and what the grader restores.
    pub files: Vec<TaskFile>,
    /// The tests and their negative control, each with every process of the run before ended.
    pub runs: Vec<TestRun>,
    expectation: Expectation,
}

/// One program to run in the task root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// For people: `tests` or `control`.
    pub name: &'static str,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Standard input.
    pub stdin: String,
    /// Wall limit in seconds.
    pub timeout_seconds: u32,
}

/// What a run left, as seen from outside the sandbox's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOutput {
    /// Exit status; `None` when a signal ended it.
    pub exit_code: Option<i32>,
    /// The wall limit ended it.
    pub timed_out: bool,
    /// Standard output, cut to [`STDOUT_BYTES_MAX`]; bytes that are not UTF-8 replaced.
    pub stdout: String,
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Required tests that did not pass, at most [`VerdictRecord::FAILED_MAX`].
    pub failed: Vec<String>,
    /// One bounded line; holds no text of the sandbox.
    pub detail: String,
    /// Why the patch is "invalid" in the sense of specs 3.4, for suites that count it.
    pub invalid: Option<InvalidPatch>,
}

#[derive(Clone, Debug, PartialEq)]
enum Expectation {
    Mini(mini::Expectation),
    HumanEvalFix(humanevalfix::Expectation),
}

/// A task that cannot be graded: its own data is wrong, which no patch can cause.
#[derive(Debug, thiserror::Error)]
pub enum GradeError {
    /// A suite without a grader here.
    #[error("suite `{}` has no grader that runs from task files", .0.name())]
    Suite(Suite),
    /// The hidden tests are missing.
    #[error("task `{id}` lacks `{path}` among its test files: resolve the TaskSet again")]
    MissingTests {
        /// The task.
        id: String,
        /// What is missing.
        path: &'static str,
    },
    /// The hidden tests cannot be read.
    #[error("the tests of task `{id}` cannot be read: resolve the TaskSet again")]
    Tests {
        /// The task.
        id: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Plans the grading of `patch` (filtered: [`crate::patch::rollout_patch`] or [`crate::patch::filter`]; empty is allowed
/// and judges the environment as it is). `nonce` must be unguessable, and it appears in no record.
///
/// # Errors
/// [`GradeError`] when the task itself cannot be graded.
pub fn plan(task: &Task, patch: &str, nonce: &str) -> Result<Planned, GradeError> {
    let patched = match Patch::parse(patch) {
        Ok(parsed) => apply(&task.environment.files, &parsed).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let files = match patched {
        Ok(files) => files,
        Err(problem) => {
            let detail: String =
                format!("the patch does not apply: {problem}").chars().take(DETAIL_CHARS).collect();
            return Ok(Planned::Decided(Judgement::new(Verdict::Unresolved, detail)));
        }
    };
    match task.suite {
        Suite::Mini => mini::plan(task, files, nonce),
        Suite::HumanEvalFix => humanevalfix::plan(task, files, nonce),
        Suite::SweBench => Err(GradeError::Suite(task.suite)),
    }
}

/// Characters of a detail line at most.
const DETAIL_CHARS: usize = 200;

impl GradingPlan {
    /// The verdict on what the runs left, in the order of [`runs`](Self::runs). Fewer outputs than runs are an
    /// infrastructure failure.
    pub fn judge(&self, outputs: &[RunOutput]) -> Judgement {
        let (Some(tests), Some(control)) = (outputs.first(), outputs.get(1)) else {
            return Judgement::new(Verdict::Infra, "a grading run is missing");
        };
        match &self.expectation {
            Expectation::Mini(expectation) => expectation.judge(tests, control),
            Expectation::HumanEvalFix(expectation) => expectation.judge(tests, control),
        }
    }
}

impl Judgement {
    fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { verdict, failed: Vec::new(), detail: detail.into(), invalid: None }
    }

    fn failing(mut failed: Vec<String>, required: usize) -> Self {
        let detail = format!("{} of {required} tests failed", failed.len());
        failed.truncate(VerdictRecord::FAILED_MAX);
        Self { failed, ..Self::new(Verdict::Unresolved, detail) }
    }
}

/// The test files that the grader restores: everything of the plan that the agent could see.
fn restore(files: Vec<TaskFile>, task: &Task) -> Vec<TaskFile> {
    let is_hidden = |path: &str| path.starts_with(".sealign/");
    let restored: Vec<&TaskFile> = task.tests.files.iter().filter(|file| !is_hidden(&file.path)).collect();
    let mut all: Vec<TaskFile> = files
        .into_iter()
        .filter(|file| !is_hidden(&file.path) && !restored.iter().any(|kept| kept.path == file.path))
        .collect();
    all.extend(restored.into_iter().cloned());
    all.sort();
    all
}

fn hidden<'a>(task: &'a Task, path: &'static str) -> Result<&'a str, GradeError> {
    let found = task.tests.files.iter().find(|file| file.path == path);
    found
        .map(|file| file.content.as_str())
        .ok_or_else(|| GradeError::MissingTests { id: task.id.clone(), path })
}
