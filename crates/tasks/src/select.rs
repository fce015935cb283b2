//! Which tasks take part, and the proof that training and evaluation share none.
//!
//! Identity is compared in three ways, so that a renamed copy is still found: task ids, `owner/name` of the repository,
//! and the problem statement (normalised text, and overlap of its word sequences).

use std::collections::{BTreeMap, BTreeSet};

use sealign_manifest::{Digest, Task};
use serde::{Deserialize, Serialize};

use crate::draw::Draw;

/// The twelve repositories of SWE-bench, which training data must not hold (specs 2.1).
pub const SWE_BENCH_REPOSITORIES: [&str; 12] = [
    "astropy/astropy",
    "django/django",
    "matplotlib/matplotlib",
    "mwaskom/seaborn",
    "pallets/flask",
    "psf/requests",
    "pydata/xarray",
    "pylint-dev/pylint",
    "pytest-dev/pytest",
    "scikit-learn/scikit-learn",
    "sphinx-doc/sphinx",
    "sympy/sympy",
];

/// Words in a row that are compared as one: long enough that two statements of different issues rarely share one.
const SHINGLE_WORDS: usize = 8;
/// Share of the shorter statement's word sequences that the other has to hold to count as the same issue.
const OVERLAP_PERCENT: usize = 50;
/// Word sequences below which statements are only compared whole: one-sentence issues of a generated suite share their
/// phrasing and nothing else.
const SHINGLES_MIN: usize = 16;

/// What must not take part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    repositories: BTreeSet<String>,
    ids: BTreeSet<String>,
    statements: BTreeMap<String, String>,
    /// Word sequences and the ids of the tasks that have them.
    shingles: BTreeMap<u64, BTreeSet<String>>,
}

/// Why a task is excluded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Excluded {
    /// Its repository is excluded.
    Repository,
    /// Its id is excluded.
    Id,
    /// Its problem statement is that of the named excluded task, or shares most of its word sequences.
    Statement(String),
}

impl Exclusions {
    /// Excludes repositories, compared without regard to case.
    #[must_use]
    pub fn with_repositories<'a>(mut self, repositories: impl IntoIterator<Item = &'a str>) -> Self {
        self.repositories.extend(repositories.into_iter().map(str::to_lowercase));
        self
    }

    /// Excludes task ids, compared without regard to case.
    #[must_use]
    pub fn with_ids<'a>(mut self, ids: impl IntoIterator<Item = &'a str>) -> Self {
        self.ids.extend(ids.into_iter().map(str::to_lowercase));
        self
    }

    /// Excludes whatever is the same as one of `tasks`: by id and by problem statement. Generated suites name their
    /// tasks by seed, so ids of different sets differ and statements decide.
    #[must_use]
    pub fn with_tasks<'a>(mut self, tasks: impl IntoIterator<Item = &'a Task>) -> Self {
        for task in tasks {
            self.ids.insert(task.id.to_lowercase());
            self.statements.entry(content_key(task)).or_insert_with(|| task.id.clone());
            for shingle in Some(shingles(&task.problem_statement))
                .filter(|all| all.len() >= SHINGLES_MIN)
                .into_iter()
                .flatten()
            {
                self.shingles.entry(shingle).or_default().insert(task.id.clone());
            }
        }
        self
    }

    /// Why `task` is excluded, or nothing.
    pub fn check(&self, task: &Task) -> Option<Excluded> {
        if task.repo.as_ref().is_some_and(|repo| self.repositories.contains(&repo.to_lowercase())) {
            return Some(Excluded::Repository);
        }
        if self.ids.contains(&task.id.to_lowercase()) {
            return Some(Excluded::Id);
        }
        if let Some(same) = self.statements.get(&content_key(task)) {
            return Some(Excluded::Statement(same.clone()));
        }
        self.near_duplicate(task).map(Excluded::Statement)
    }

    fn near_duplicate(&self, task: &Task) -> Option<String> {
        let own = shingles(&task.problem_statement);
        if own.len() < SHINGLES_MIN {
            return None;
        }
        let mut shared: BTreeMap<&str, usize> = BTreeMap::new();
        for id in own.iter().filter_map(|shingle| self.shingles.get(shingle)).flatten() {
            *shared.entry(id).or_default() += 1;
        }
        // Sorted by id, so the answer does not depend on the order of reading.
        shared
            .into_iter()
            .find(|(_, count)| count * 100 >= own.len() * OVERLAP_PERCENT)
            .map(|(id, _)| id.to_owned())
    }
}

/// What the agent starts from: statement and files. Vague statements alone are not telling.
fn content_key(task: &Task) -> String {
    let words: Vec<String> = words(&task.problem_statement);
    let files =
        Digest::of_json(&task.environment.files).map(|digest| digest.as_str().to_owned()).unwrap_or_default();
    format!("{files} {}", words.join(" "))
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    parts.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Digests of every run of [`SHINGLE_WORDS`] words; shorter statements have none and are compared whole.
fn shingles(text: &str) -> BTreeSet<u64> {
    let words = words(text);
    let number =
        |run: &[String]| u64::from_str_radix(Digest::of_bytes(run.join(" ").as_bytes()).short(16), 16);
    words.windows(SHINGLE_WORDS).filter_map(|run| number(run).ok()).collect()
}

/// Takes `count` of the tasks by seed: a seeded order of task digests, of which the first ones are taken. A larger count
/// takes the same ones and more; the result keeps the order of `tasks`. All of them when there are fewer.
pub fn select(tasks: &[Task], count: usize, seed: u64) -> Vec<&Task> {
    let seed = seed.to_string();
    let mut ranked: Vec<(usize, usize)> = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| (Draw::new("select", &[&seed, &task.id]).below(usize::MAX), index))
        .collect();
    ranked.sort_unstable();
    let mut taken: Vec<usize> = ranked.into_iter().take(count).map(|(_, index)| index).collect();
    taken.sort_unstable();
    taken.into_iter().filter_map(|index| tasks.get(index)).collect()
}

/// The proof that two sets of tasks share none, or what they share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlap {
    /// Tasks of the training side.
    pub training: u64,
    /// Tasks of the evaluation side.
    pub evaluation: u64,
    /// Training tasks that are also on the other side, each with the reason; empty is the proof.
    pub shared: BTreeMap<String, Excluded>,
}

impl Overlap {
    /// Compares every training task with the whole evaluation side.
    pub fn between(training: &[Task], evaluation: &[Task]) -> Self {
        let exclusions = Exclusions::default().with_tasks(evaluation);
        let shared =
            training.iter().filter_map(|task| Some((task.id.clone(), exclusions.check(task)?))).collect();
        let count = |tasks: &[Task]| u64::try_from(tasks.len()).unwrap_or(u64::MAX);
        Self { training: count(training), evaluation: count(evaluation), shared }
    }

    /// Whether the sides share nothing.
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites::mini::{MiniOptions, Split, generate};

    fn task(id: &str, repo: Option<&str>, statement: &str) -> Task {
        let mut task = generate(&MiniOptions::standard(Split::Train, 1, 1)).unwrap().remove(0);
        task.id = id.into();
        task.repo = repo.map(str::to_owned);
        task.problem_statement = statement.into();
        task
    }

    const ISSUE: &str = "The parser drops the last line of a file when it does not end with a line break, \
        which loses data without any warning to the caller of the function.";

    #[test]
    fn repositories_and_ids_are_compared_without_case() {
        let exclusions = Exclusions::default().with_repositories(SWE_BENCH_REPOSITORIES).with_ids(["A__b-1"]);
        assert_eq!(exclusions.check(&task("x", Some("Django/django"), "a")), Some(Excluded::Repository));
        assert_eq!(exclusions.check(&task("a__B-1", None, "a")), Some(Excluded::Id));
        assert_eq!(exclusions.check(&task("x", Some("owner/django"), "a")), None);
    }

    #[test]
    fn a_renamed_reformatted_copy_of_an_issue_is_found_and_another_issue_is_not() {
        let exclusions = Exclusions::default().with_tasks([&task("original", None, ISSUE)]);
        let reformatted = ISSUE.to_uppercase().replace(". ", ".\n\n").replace("file", "*file*");
        let extended = format!("Hello! {ISSUE} Please have a look at it.");
        let same = Some(Excluded::Statement("original".into()));
        assert_eq!(exclusions.check(&task("copy", None, &reformatted)), same);
        assert_eq!(exclusions.check(&task("copy", None, &extended)), same);
        let other =
            "The writer adds an empty line at the end of every file, which some tools refuse to read at all.";
        assert_eq!(exclusions.check(&task("other", None, other)), None);
    }

    #[test]
    fn the_built_in_splits_share_no_task_whatever_the_seeds() {
        let train = generate(&MiniOptions::standard(Split::Train, 1, 100)).unwrap();
        let eval = generate(&MiniOptions::standard(Split::Eval, 1, 100)).unwrap();
        let overlap = Overlap::between(&train, &eval);
        assert!(overlap.is_empty(), "{:?}", overlap.shared);
        assert_eq!(Overlap::between(&train[..3], &train[2..]).shared.len(), 1);
    }

    #[test]
    fn a_larger_selection_holds_the_smaller_one() {
        let tasks = generate(&MiniOptions::standard(Split::Train, 2, 50)).unwrap();
        let ids = |count, seed| -> Vec<&str> {
            select(&tasks, count, seed).into_iter().map(|task| task.id.as_str()).collect()
        };
        let (small, large) = (ids(10, 4), ids(20, 4));
        assert!(small.iter().all(|id| large.contains(id)));
        assert!(large.is_sorted() && large.len() == 20);
        assert_ne!(ids(10, 4), ids(10, 5));
        assert_eq!(ids(99, 4).len(), 50);
    }
}
