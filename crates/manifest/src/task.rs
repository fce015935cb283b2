//! A task: one issue, the environment it lives in and the tests that judge it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Digest;

/// One task of a suite, complete enough to roll out and to grade without its source.
///
/// A task row never enters a sandbox as a whole: the agent sees `problem_statement` and the environment's files, the
/// grader restores `tests` last, and `truth` stays with trusted code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Identifier within its suite, for example `Python/12`. Hostile text: never a name, a label or a path.
    pub id: String,
    /// The suite that the task belongs to; decides scripts, log parser and verdict rules.
    pub suite: Suite,
    /// Repository `owner/name`, where there is one; exclusion rules compare it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The issue text as the agent reads it.
    pub problem_statement: String,
    /// Where the agent works.
    pub environment: Environment,
    /// How a patch is judged.
    pub tests: TestPlan,
    /// The reference solution as a unified diff, where the suite has one; health grades it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_patch: Option<String>,
    /// What scripted teachers know of the task (the suite's own shape); `None` for real tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<Value>,
}

impl Task {
    /// The digest that items and records name. Covers tests and limits, so a changed test is another task. Where the image is
    /// pulled from is left out: the environment's digest says what is in it.
    ///
    /// # Errors
    /// When the task cannot be written as JSON.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        let mut content = self.clone();
        content.environment.image.clear();
        Digest::of_json(&content)
    }
}

/// A task suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Suite {
    /// Generated bug-fix tasks in small Python repositories.
    #[serde(rename = "mini")]
    Mini,
    /// HumanEvalFix (Python): one file with one buggy function each.
    #[serde(rename = "humanevalfix")]
    HumanEvalFix,
    /// SWE-bench rows: a container image each.
    #[serde(rename = "swebench")]
    SweBench,
}

impl Suite {
    /// The name used in manifests, file formats and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mini => "mini",
            Self::HumanEvalFix => "humanevalfix",
            Self::SweBench => "swebench",
        }
    }
}

/// Where an agent works on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Image reference for pods. Embedded, only suites whose files are all in `files` run.
    pub image: String,
    /// Absolute directory of the task root inside the sandbox.
    pub workdir: String,
    /// Files that the runner writes below `workdir` before the first turn, sorted by path. Empty when the image has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<TaskFile>,
    /// Digest of what the agent finds: the image digest, or for file suites that of `files` and of the interpreter's
    /// version, so that embedded and cluster runs agree.
    pub digest: Digest,
}

/// A file of an environment or of a test plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Path relative to the task root: no `..`, not absolute.
    pub path: String,
    /// UTF-8 content.
    pub content: String,
}

/// How a patch is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestPlan {
    /// Tests that fail before the fix and must pass after it.
    pub fail_to_pass: Vec<String>,
    /// Tests that pass before and must still pass.
    pub pass_to_pass: Vec<String>,
    /// Test files and test infrastructure that the grader restores last, sorted by path; hidden ones among them.
    pub files: Vec<TaskFile>,
    /// Program and arguments that run the tests, with the task root as working directory.
    pub command: Vec<String>,
    /// Wall limit of one test run in seconds.
    pub timeout_seconds: u32,
}
