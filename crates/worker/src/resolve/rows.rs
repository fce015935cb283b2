//! From a TaskSet's source to tasks; rows that cannot be used are put aside with their line and the reason.

use std::collections::BTreeSet;

use sealign_crds::task_set::{ImageTemplate, MiniSource, MiniSplit, TaskSource};
use sealign_manifest::{Suite, Task};
use sealign_storage::ArtifactStore;
use sealign_tasks::suites::humanevalfix;
use sealign_tasks::suites::mini::{Family, MiniOptions, Split, generate};
use serde::{Deserialize, Serialize};

use super::Suites;
use crate::error::WorkerError;
use crate::input;

/// Refused rows that are kept by name; their number is kept in any case.
const REFUSED_MAX: usize = 1_000;

/// A row that is no task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRow {
    /// 1-based line.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What a source gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Tasks in order of their rows.
    pub tasks: Vec<Task>,
    /// The first rows that are no tasks.
    pub refused: Vec<RefusedRow>,
    /// How many those are in all.
    pub refused_count: u64,
}

/// The suite of a source.
///
/// # Errors
/// [`WorkerError::Rejected`] for sources of which no tasks can be made.
pub fn suite(source: &TaskSource) -> Result<Suite, WorkerError> {
    match (&source.mini, &source.human_eval_fix, &source.swe_bench) {
        (Some(_), None, None) => Ok(Suite::Mini),
        (None, Some(_), None) => Ok(Suite::HumanEvalFix),
        (None, None, Some(_)) => Err(WorkerError::rejected(
            "source.sweBench: this version reads no SWE-bench rows; use source.mini or source.humanEvalFix",
        )),
        _ => Err(WorkerError::rejected("source: set exactly one of mini, humanEvalFix and sweBench")),
    }
}

/// Reads the rows of a source.
///
/// # Errors
/// [`WorkerError::Rejected`] for a source that cannot be read at all.
pub async fn read(
    store: &dyn ArtifactStore,
    source: &TaskSource,
    suites: &Suites,
) -> Result<Rows, WorkerError> {
    if let Some(mini) = &source.mini {
        let tasks = generate(&mini_options(mini, suites)?)
            .map_err(|error| WorkerError::rejected(format!("source.mini: {error}")))?;
        return Ok(Rows { tasks, ..Rows::default() });
    }
    match &source.human_eval_fix {
        Some(source) => {
            let bytes = input::read(store, "source.humanEvalFix.rows", &source.rows).await?;
            Ok(humanevalfix_rows(&bytes, suites))
        }
        None => Err(WorkerError::rejected("source: set exactly one of mini and humanEvalFix")),
    }
}

fn mini_options(source: &MiniSource, suites: &Suites) -> Result<MiniOptions, WorkerError> {
    let percent = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
    let split = match source.split {
        MiniSplit::Train => Split::Train,
        MiniSplit::Eval => Split::Eval,
    };
    let mut families = Vec::new();
    for name in &source.families {
        let known = || Family::ALL.map(Family::name).join(", ");
        let family = Family::parse(name).ok_or_else(|| {
            WorkerError::rejected(format!("source.mini.families: `{name}` is not known; use {}", known()))
        })?;
        families.push(family);
    }
    let count = usize::try_from(source.count).unwrap_or(0);
    let seed = u64::try_from(source.seed).unwrap_or(0);
    let standard = MiniOptions::standard(split, seed, count);
    Ok(MiniOptions {
        families: if families.is_empty() { standard.families.clone() } else { families },
        vague_percent: percent(source.vague_percent),
        two_file_percent: percent(source.two_file_percent),
        name_file_percent: percent(source.name_file_percent),
        image: suites.python_image.clone(),
        interpreter: suites.interpreter.clone(),
        ..standard
    })
}

fn humanevalfix_rows(bytes: &[u8], suites: &Suites) -> Rows {
    let mut rows = Rows::default();
    let mut seen = BTreeSet::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        // One line at a time: a row that cannot be used costs no other.
        let read = humanevalfix::read_rows(line, &suites.python_image, &suites.interpreter);
        let reason = match read.map(|mut tasks| tasks.pop()) {
            Ok(Some(task)) if seen.insert(task.id.clone()) => {
                rows.tasks.push(task);
                continue;
            }
            Ok(Some(_)) => "its `task_id` occurred before".to_owned(),
            Ok(None) => "it holds no row".to_owned(),
            Err(error) => describe(&error),
        };
        rows.refused_count += 1;
        if rows.refused.len() < REFUSED_MAX {
            let line = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
            rows.refused.push(RefusedRow { line, reason });
        }
    }
    rows
}

/// The reason without the line, which would be that of the single line.
fn describe(error: &humanevalfix::RowError) -> String {
    use std::error::Error as _;
    let text = error.to_string();
    let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
    match error.source() {
        Some(source) => format!("{reason}: {source}"),
        None => reason.to_owned(),
    }
}

/// Sets the images that a template names.
pub fn apply_template(tasks: &mut [Task], template: &ImageTemplate) {
    let Some(template) = &template.template else { return };
    for task in tasks {
        // SWE-bench writes ids in image names this way, and `/` would begin another path.
        let id = task.id.to_lowercase().replace("__", "_1776_").replace('/', "_");
        task.environment.image = template.replace("{id}", &id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(id: &str) -> String {
        json!({
            "task_id": id, "declaration": "def f():\n", "canonical_solution": "    return 1\n",
            "buggy_solution": "    return 2\n", "test": "assert f() == 1\n", "entry_point": "f",
        })
        .to_string()
    }

    #[test]
    fn rows_that_are_no_tasks_are_put_aside_by_line_and_the_others_are_kept() {
        let text =
            [row("Python/1"), "{".into(), String::new(), row("Java/2"), row("Python/1"), row("Python/3")];
        let rows = humanevalfix_rows(text.join("\n").as_bytes(), &Suites::default());
        let ids: Vec<&str> = rows.tasks.iter().map(|task| task.id.as_str()).collect();
        assert_eq!(ids, ["Python/1", "Python/3"]);
        let lines: Vec<u64> = rows.refused.iter().map(|refused| refused.line).collect();
        assert_eq!((lines, rows.refused_count), (vec![2, 4, 5], 3));
        assert!(rows.refused[1].reason.contains("Python/NUMBER"), "{}", rows.refused[1].reason);
    }

    #[test]
    fn an_unknown_family_is_refused_by_name() {
        let source = MiniSource {
            split: MiniSplit::Train,
            count: 1,
            seed: 0,
            families: vec!["typo".into()],
            vague_percent: 0,
            two_file_percent: 0,
            name_file_percent: 0,
        };
        let error = mini_options(&source, &Suites::default()).unwrap_err();
        assert!(error.to_string().contains("source.mini.families: `typo`"), "{error}");
    }
}
