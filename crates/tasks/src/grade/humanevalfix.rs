//! Grading of HumanEvalFix: the reference test runs against the solution in another process (specs 3.2, 3.3).

use sealign_manifest::{Task, TaskFile, Verdict};
use serde::Deserialize;
use serde_json::json;

use super::lines::marked;
use super::{GradeError, GradingPlan, Judgement, Planned, RunOutput, TestRun, hidden, restore};
use crate::suites::humanevalfix::{InvalidPatch, TEST_FILE};

/// Program and arguments of a test run; the program comes on standard input.
pub const COMMAND: [&str; 5] = ["python3", "-I", "-S", "-B", "-"];

/// The two programs, each after what they share.
const DRIVER: &str = concat!(include_str!("humanevalfix_plain.py"), include_str!("humanevalfix_driver.py"));
const SERVER: &str = concat!(include_str!("humanevalfix_plain.py"), include_str!("humanevalfix_server.py"));

/// What the runs must print.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expectation {
    nonce: String,
    entry: String,
    /// The file is gone or as it was.
    invalid: Option<InvalidPatch>,
}

/// The driver's only line.
#[derive(Debug, Deserialize)]
struct Report {
    file: String,
    passed: bool,
    asserts: u64,
    held: u64,
    #[serde(default)]
    raised: String,
}

pub(super) fn plan(task: &Task, files: Vec<TaskFile>, nonce: &str) -> Result<Planned, GradeError> {
    let unreadable = |source| GradeError::Tests { id: task.id.clone(), source };
    let missing = |path| GradeError::MissingTests { id: task.id.clone(), path };
    let test = hidden(task, TEST_FILE)?;
    let entry = task.tests.fail_to_pass.first().ok_or_else(|| missing("failToPass"))?;
    let original = task.environment.files.first().ok_or_else(|| missing("the solution's file"))?;
    let solution = files.iter().find(|file| file.path == original.path);
    let invalid = match solution {
        None => Some(InvalidPatch::Missing),
        Some(file) if file.content.trim_end() == original.content.trim_end() => Some(InvalidPatch::Unchanged),
        Some(_) => None,
    };
    let server = serde_json::to_string(SERVER).map_err(unreadable)?;
    let run = |name, control: bool| -> Result<TestRun, GradeError> {
        let settings =
            json!({"control": control, "path": original.path, "entry": entry, "test": test, "nonce": nonce});
        let settings = serde_json::to_string(&settings.to_string()).map_err(unreadable)?;
        Ok(TestRun {
            name,
            argv: task.tests.command.clone(),
            stdin: DRIVER.replacen("SERVER = 0", &format!("SERVER = {server}"), 1).replacen(
                "SETTINGS = 0",
                &format!("SETTINGS = json.loads({settings})"),
                1,
            ),
            timeout_seconds: task.tests.timeout_seconds,
        })
    };
    let runs = vec![run("tests", false)?, run("control", true)?];
    let expectation = Expectation { nonce: nonce.to_owned(), entry: entry.clone(), invalid };
    Ok(Planned::Run(GradingPlan {
        workdir: task.environment.workdir.clone(),
        files: restore(files, task),
        runs,
        expectation: super::Expectation::HumanEvalFix(expectation),
    }))
}

impl Expectation {
    pub(super) fn judge(&self, tests: &RunOutput, control: &RunOutput) -> Judgement {
        let mut judgement = self.verdict(tests, control);
        judgement.invalid = self.invalid.or(judgement.invalid);
        if let Some(invalid) = judgement.invalid {
            judgement.detail = format!("{}; {}", invalid.detail(), judgement.detail);
        }
        judgement
    }

    fn verdict(&self, tests: &RunOutput, control: &RunOutput) -> Judgement {
        if tests.timed_out {
            return self.failed(Verdict::Timeout, "the tests ran into their wall limit");
        }
        let report = match self.read(tests) {
            Ok(report) => report,
            Err(verdict) => {
                return self.failed(verdict, "the test run printed something else than its result");
            }
        };
        let invalid = match report.file.as_str() {
            "missing" => Some(InvalidPatch::Missing),
            "syntax" => Some(InvalidPatch::Syntax),
            "noFunction" => Some(InvalidPatch::NoFunction),
            _ => None,
        };
        if invalid.is_some() || !report.passed {
            let cause = if report.raised == "AssertionError" {
                "an assertion failed"
            } else {
                "the solution raised or ended"
            };
            return Judgement { invalid, ..self.failed(Verdict::Unresolved, cause) };
        }
        if report.asserts == 0 || report.held != report.asserts {
            return self.failed(Verdict::Tampered, "the test ended without its assertions");
        }
        self.judge_control(&report, control)
    }

    fn judge_control(&self, tests: &Report, control: &RunOutput) -> Judgement {
        if control.timed_out {
            return self.failed(Verdict::Timeout, "the negative control ran into its wall limit");
        }
        match self.read(control) {
            Ok(report) if report.passed && report.held == 0 && report.asserts == tests.asserts => {
                Judgement::new(Verdict::Resolved, format!("{} assertions held", tests.asserts))
            }
            _ => self.failed(Verdict::Tampered, "an assertion of the negative control did not fail"),
        }
    }

    fn failed(&self, verdict: Verdict, detail: &str) -> Judgement {
        Judgement { failed: vec![self.entry.clone()], ..Judgement::new(verdict, detail) }
    }

    /// The driver's line, or the verdict on its absence: one line and exit status 0, or something interfered.
    fn read(&self, output: &RunOutput) -> Result<Report, Verdict> {
        match marked(output, &self.nonce).as_slice() {
            [line] if output.exit_code == Some(0) => {
                serde_json::from_str(line).map_err(|_| Verdict::Tampered)
            }
            [] => Err(Verdict::Unresolved),
            _ => Err(Verdict::Tampered),
        }
    }
}
