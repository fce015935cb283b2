//! The built-in suite: bug-fix tasks in small Python repositories that a seed determines.
//!
//! A task has one function with one wrong line out of two to four candidates, an issue that states the spec or only that
//! something is wrong, and tests. What decides whether an aligned model can do better than the base is the visible test
//! program: **a failing test prints the current source of the failing function, and in a vague task the spec**; so an
//! agent that tests before it edits knows what to write and what to quote. Output holds no durations, paths or
//! addresses, so equal attempts have equal observations.
//!
//! Nothing here runs Python: each template knows what its candidates compute ([`template`]), and an integration test
//! compares that with Python itself.
//!
//! Start with [`MiniOptions`] and [`generate`]; [`MiniTruth`] is what [`teacher`] knows; [`world`] predicts what the
//! commands of an agent print.

mod assemble;
pub mod family;
mod names;
pub mod teacher;
mod template;
pub mod truth;
pub mod world;

use std::collections::BTreeSet;

use sealign_manifest::{Digest, Environment, Suite, Task, TaskFile, TestPlan};

pub use assemble::{CASES_FILE, CHECK_FILE, Case};
pub use family::Family;
pub use names::Split;
pub use truth::{MiniTruth, TruthError};

use crate::draw::Draw;
use crate::patch::{FileChange, unified_diff};
use crate::suites::environment_digest;
use names::Names;

/// Where an agent finds a task's files.
pub const WORKDIR: &str = "/repo";
/// The command that an agent runs the visible tests with.
pub const TEST_COMMAND: &str = "python3 check.py";
/// Tasks of one set at most: enough for any laptop run, and few enough that names do not run out.
pub const COUNT_MAX: usize = 200_000;
/// Draws for one task at most. About one draw in ten is rejected, so a hundred failures in a row mean that the options
/// leave nothing to draw.
const DRAWS_MAX: usize = 100;
/// Wall limit of one test run: a hundred times what it takes on a loaded machine.
const TEST_TIMEOUT_SECONDS: u32 = 10;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct MiniOptions {
    /// Tasks of different seeds are different draws.
    pub seed: u64,
    /// Number of tasks.
    pub count: usize,
    /// Which half of all possible tasks to draw from.
    pub split: Split,
    /// Families to draw from, in equal shares. Noise functions come from the same ones.
    pub families: Vec<Family>,
    /// Percentage of issues that do not state the spec.
    pub vague_percent: u8,
    /// Percentage of tasks whose issue names a function that only calls the buggy one, in another file.
    pub two_file_percent: u8,
    /// Percentage of issues that name a file.
    pub name_file_percent: u8,
    /// Image reference for pods: one with `python3` in its path.
    pub image: String,
    /// What is said of the interpreter in the environment's digest.
    pub interpreter: String,
}

impl MiniOptions {
    /// The mixture of the habits recipe: trained families, half of the issues vague, 35 % two-file tasks, 70 % of the
    /// issues name a file.
    pub fn standard(split: Split, seed: u64, count: usize) -> Self {
        Self {
            seed,
            count,
            split,
            families: Family::TRAINED.to_vec(),
            vague_percent: 50,
            two_file_percent: 35,
            name_file_percent: 70,
            image: "python:3.12-slim".to_owned(),
            interpreter: "python3".to_owned(),
        }
    }

    /// The mixture of the guessing recipe: seven families of four candidates, every issue vague and naming the file with
    /// the bug.
    pub fn guessing(split: Split, seed: u64, count: usize) -> Self {
        Self {
            families: Family::FOUR_CANDIDATES.to_vec(),
            vague_percent: 100,
            two_file_percent: 0,
            name_file_percent: 100,
            ..Self::standard(split, seed, count)
        }
    }
}

/// Why a set cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum MiniError {
    /// Too many tasks.
    #[error(
        "`count` is {0}: at most {COUNT_MAX} tasks can be generated; use several sets with different seeds"
    )]
    Count(usize),
    /// No families.
    #[error("`families` is empty: name at least one, for example `operator`")]
    NoFamilies,
    /// A share above 100.
    #[error("`{field}` is {value}: give a percentage from 0 to 100")]
    Percent {
        /// Name of the option.
        field: &'static str,
        /// Its value.
        value: u8,
    },
    /// Nothing more to draw.
    #[error("only {made} distinct tasks could be drawn: lower `count` or allow more `families`")]
    Exhausted {
        /// Tasks made before.
        made: usize,
    },
    /// A task could not be written as JSON.
    #[error("cannot write a task as JSON")]
    Json(#[from] serde_json::Error),
}

/// Generates the tasks that `options` describe: the same options give the same bytes, and a set with a smaller count is
/// a prefix of the larger one.
///
/// # Errors
/// [`MiniError`] when an option is out of range or leaves too few distinct tasks.
pub fn generate(options: &MiniOptions) -> Result<Vec<Task>, MiniError> {
    validate(options)?;
    let seed = options.seed.to_string();
    let mut tasks = Vec::with_capacity(options.count);
    let mut drawn_before = BTreeSet::new();
    while tasks.len() < options.count {
        let index = tasks.len().to_string();
        let drawn = (0..DRAWS_MAX).find_map(|draw| {
            let stream = Draw::new("mini", &[options.split.name(), &seed, &index, &draw.to_string()]);
            one(options, stream, tasks.len(), &mut drawn_before).transpose()
        });
        match drawn {
            Some(task) => tasks.push(task?),
            None => return Err(MiniError::Exhausted { made: tasks.len() }),
        }
    }
    Ok(tasks)
}

fn validate(options: &MiniOptions) -> Result<(), MiniError> {
    if options.count > COUNT_MAX {
        return Err(MiniError::Count(options.count));
    }
    if options.families.is_empty() {
        return Err(MiniError::NoFamilies);
    }
    let percents = [
        ("vaguePercent", options.vague_percent),
        ("twoFilePercent", options.two_file_percent),
        ("nameFilePercent", options.name_file_percent),
    ];
    match percents.into_iter().find(|(_, value)| *value > 100) {
        Some((field, value)) => Err(MiniError::Percent { field, value }),
        None => Ok(()),
    }
}

/// One draw: `None` when it is rejected or was drawn before.
fn one(
    options: &MiniOptions,
    stream: Draw,
    index: usize,
    drawn_before: &mut BTreeSet<Digest>,
) -> Result<Option<Task>, MiniError> {
    let mut names = Names::new(stream, options.split);
    // Families take turns, so that every prefix of a set holds them in equal shares.
    let Some(family) = options.families.get(index % options.families.len()).copied() else { return Ok(None) };
    let Some(repository) = assemble::assemble(options, family, &mut names) else { return Ok(None) };
    if !drawn_before.insert(Digest::of_json(&(&repository.issue, &repository.files))?) {
        return Ok(None);
    }
    let check = repository.files.iter().find(|file| file.path == CHECK_FILE).cloned();
    let cases = TaskFile { path: CASES_FILE.to_owned(), content: serde_json::to_string(&repository.cases)? };
    let gold = gold_patch(&repository.files, &repository.truth);
    Ok(Some(Task {
        id: format!("mini-{}-{}-{index:05}", options.split.name(), options.seed),
        suite: Suite::Mini,
        repo: None,
        problem_statement: repository.issue,
        environment: Environment {
            image: options.image.clone(),
            workdir: WORKDIR.to_owned(),
            digest: environment_digest(&repository.files, &options.interpreter)?,
            files: repository.files,
        },
        tests: TestPlan {
            fail_to_pass: repository.fail_to_pass,
            pass_to_pass: repository.pass_to_pass,
            files: std::iter::once(cases).chain(check).collect(),
            command: crate::grade::MINI_COMMAND.map(str::to_owned).to_vec(),
            timeout_seconds: TEST_TIMEOUT_SECONDS,
        },
        gold_patch: Some(gold),
        truth: Some(serde_json::to_value(&repository.truth)?),
    }))
}

fn gold_patch(files: &[TaskFile], truth: &MiniTruth) -> String {
    let before = files.iter().find(|file| file.path == truth.file).map_or("", |file| file.content.as_str());
    let after = before.replace(truth.buggy_line(), truth.right_line());
    unified_diff(&[FileChange {
        path: truth.file.clone(),
        before: Some(before.to_owned()),
        after: Some(after),
    }])
}

#[cfg(test)]
mod tests;
