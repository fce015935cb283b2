//! Grading of `mini`: the sandbox computes values, and the comparison is made here.

use std::collections::BTreeMap;

use sealign_manifest::{Task, TaskFile, Verdict};

use super::lines::marked;
use super::{GradeError, GradingPlan, Judgement, Planned, RunOutput, TestRun, hidden, restore};
use crate::suites::mini::{CASES_FILE, Case};

/// Program and arguments of a test run; the program comes on standard input. Isolated: no user site, no `PYTHON*`
/// variables, the task root not on the path before the standard library.
pub const COMMAND: [&str; 5] = ["python3", "-I", "-S", "-B", "-"];

const DRIVER: &str = include_str!("mini_driver.py");

/// What the runs must print.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expectation {
    nonce: String,
    /// Expected value of each test.
    values: BTreeMap<String, String>,
    required: Vec<String>,
}

pub(super) fn plan(task: &Task, files: Vec<TaskFile>, nonce: &str) -> Result<Planned, GradeError> {
    let unreadable = |source| GradeError::Tests { id: task.id.clone(), source };
    let cases: Vec<Case> = serde_json::from_str(hidden(task, CASES_FILE)?).map_err(unreadable)?;
    // The control indexes past the end of a list of the value: it raises whatever the value is.
    let real: Vec<[&str; 3]> =
        cases.iter().map(|case| [case.id.as_str(), &case.module, &case.call]).collect();
    let past: Vec<String> = cases.iter().map(|case| format!("[{}][1]", case.call)).collect();
    let control: Vec<[&str; 3]> =
        cases.iter().zip(&past).map(|(case, call)| [case.id.as_str(), &case.module, call]).collect();
    let run = |name, calls: &[[&str; 3]]| -> Result<TestRun, GradeError> {
        let calls = serde_json::to_string(calls).map_err(unreadable)?;
        Ok(TestRun {
            name,
            argv: task.tests.command.clone(),
            stdin: DRIVER
                .replace("CALLS = 0", &format!("CALLS = {calls}"))
                .replace("NONCE = 0", &format!("NONCE = \"{nonce}\"")),
            timeout_seconds: task.tests.timeout_seconds,
        })
    };
    let runs = vec![run("tests", &real)?, run("control", &control)?];
    let required = task.tests.fail_to_pass.iter().chain(&task.tests.pass_to_pass).cloned().collect();
    let values = cases.into_iter().map(|case| (case.id, case.expected)).collect();
    let expectation = Expectation { nonce: nonce.to_owned(), values, required };
    Ok(Planned::Run(GradingPlan {
        workdir: task.environment.workdir.clone(),
        files: restore(files, task),
        runs,
        expectation: super::Expectation::Mini(expectation),
    }))
}

/// What a run printed: a result for each test, if the lines are those of the program.
enum Printed<'a> {
    Complete(BTreeMap<&'a str, &'a str>),
    /// The process ended before its last line.
    Cut(BTreeMap<&'a str, &'a str>),
    /// Lines that the program cannot have printed.
    Forged,
}

impl Expectation {
    pub(super) fn judge(&self, tests: &RunOutput, control: &RunOutput) -> Judgement {
        if tests.timed_out {
            return Judgement::new(Verdict::Timeout, "the tests ran into their wall limit");
        }
        let (results, is_complete) = match self.read(tests) {
            Printed::Forged => {
                return Judgement::new(Verdict::Tampered, "the test run printed lines that are not its own");
            }
            Printed::Complete(results) => (results, tests.exit_code == Some(0)),
            Printed::Cut(results) => (results, false),
        };
        let passes = |id: &String| {
            let expected = self.values.get(id).map(|value| format!("value {value}"));
            expected.is_some() && results.get(id.as_str()).copied() == expected.as_deref()
        };
        let failed: Vec<String> = self.required.iter().filter(|id| !passes(id)).cloned().collect();
        if !failed.is_empty() {
            return Judgement::failing(failed, self.required.len());
        }
        if !is_complete {
            return Judgement::new(
                Verdict::Tampered,
                "every value was printed, but the test process did not end by itself",
            );
        }
        self.judge_control(control)
    }

    fn judge_control(&self, control: &RunOutput) -> Judgement {
        if control.timed_out {
            return Judgement::new(Verdict::Timeout, "the negative control ran into its wall limit");
        }
        let Printed::Complete(results) = self.read(control) else {
            return Judgement::new(
                Verdict::Tampered,
                "the negative control printed something else than its results",
            );
        };
        let all_fail =
            results.len() == self.values.len() && results.values().all(|text| text.starts_with("raised "));
        if !all_fail || control.exit_code != Some(0) {
            return Judgement::new(Verdict::Tampered, "a test of the negative control did not fail");
        }
        Judgement::new(Verdict::Resolved, format!("{} tests passed", self.required.len()))
    }

    fn read<'a>(&self, output: &'a RunOutput) -> Printed<'a> {
        let mut results = BTreeMap::new();
        let end = format!("end {}", self.values.len());
        let mut has_ended = false;
        for line in marked(output, &self.nonce) {
            if has_ended {
                return Printed::Forged;
            }
            if line == end {
                has_ended = true;
                continue;
            }
            let Some((id, result)) = line.split_once(' ') else { return Printed::Forged };
            if !self.values.contains_key(id) || results.insert(id, result).is_some() {
                return Printed::Forged;
            }
        }
        if has_ended { Printed::Complete(results) } else { Printed::Cut(results) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;
    use crate::suites::mini::{MiniOptions, Split, generate};

    const NONCE: &str = "nonce";

    fn output(lines: &[String]) -> RunOutput {
        let stdout = lines.iter().flat_map(|line| [NONCE, " ", line, "\n"]).collect();
        RunOutput { exit_code: Some(0), timed_out: false, stdout }
    }

    /// The verdict on a run that printed every right value and a control in which every call raised, after `change`.
    fn judged(change: impl FnOnce(&mut RunOutput, &mut RunOutput)) -> Verdict {
        let task = generate(&MiniOptions::standard(Split::Train, 1, 1)).unwrap().remove(0);
        let cases: Vec<Case> = serde_json::from_str(hidden(&task, CASES_FILE).unwrap()).unwrap();
        let lines = |of: &dyn Fn(&Case) -> String| -> Vec<String> {
            let results = cases.iter().map(|case| format!("{} {}", case.id, of(case)));
            results.chain([format!("end {}", cases.len())]).collect()
        };
        let mut tests = output(&lines(&|case| format!("value {}", case.expected)));
        let mut control = output(&lines(&|_| "raised IndexError".to_owned()));
        change(&mut tests, &mut control);
        let Ok(Planned::Run(plan)) = plan(&task, "", NONCE) else {
            panic!("an empty patch is graded by a run")
        };
        plan.judge(&[tests, control]).verdict
    }

    #[test]
    fn a_pass_takes_every_right_value_and_a_process_that_ended_by_itself() {
        assert_eq!(judged(|_, _| ()), Verdict::Resolved);
        assert_eq!(judged(|tests, _| tests.exit_code = Some(1)), Verdict::Tampered);
        assert_eq!(judged(|tests, _| tests.exit_code = None), Verdict::Tampered);
        assert_eq!(judged(|tests, _| tests.timed_out = true), Verdict::Timeout);
        assert_eq!(
            judged(|tests, _| tests.stdout = tests.stdout.replacen("value ", "value 1", 1)),
            Verdict::Unresolved
        );
    }

    #[test]
    fn lines_that_the_program_cannot_have_printed_are_forged() {
        let twice = |tests: &mut RunOutput, _: &mut RunOutput| tests.stdout = tests.stdout.repeat(2);
        assert_eq!(judged(twice), Verdict::Tampered);
        assert_eq!(judged(|tests, _| tests.stdout.extend([NONCE, " further value 1\n"])), Verdict::Tampered);
    }

    #[test]
    fn a_control_in_which_anything_passes_is_tampered_with() {
        let one_passes = |_: &mut RunOutput, control: &mut RunOutput| {
            control.stdout = control.stdout.replacen("raised IndexError", "value 1", 1);
        };
        assert_eq!(judged(one_passes), Verdict::Tampered);
        assert_eq!(judged(|_, control| control.exit_code = Some(1)), Verdict::Tampered);
        assert_eq!(judged(|_, control| control.stdout.clear()), Verdict::Tampered);
    }
}
