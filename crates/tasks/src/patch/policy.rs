//! Which paths a patch may touch, and what of a patch is kept.

use std::collections::BTreeSet;

use sealign_manifest::{Suite, Task, TaskFile};

use super::parse::Patch;
use super::write::{changes_between, unified_diff};

/// A path that no patch may name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {problem}")]
pub struct PathError {
    /// The path, cut to a bounded length.
    path: String,
    /// Why.
    problem: &'static str,
}

/// Bytes of a path at most: what Linux allows below any root.
const PATH_BYTES_MAX: usize = 1_024;

/// Checks that `path` stays below the root it is joined to and touches no repository internals.
///
/// # Errors
/// [`PathError`] for absolute paths, `..`, empty or `.` parts, control characters, backslashes, names that are `.git` in
/// any case or with the tricks that file systems fold, and overlong paths.
pub fn check_path(path: &str) -> Result<(), PathError> {
    match path_problem(path) {
        None => Ok(()),
        Some(problem) => Err(PathError { path: path.chars().take(80).collect(), problem }),
    }
}

fn path_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        return Some("a path has 1 to 1024 bytes");
    }
    if path.starts_with('/') {
        return Some("a path is relative to the task root");
    }
    if path.chars().any(|letter| letter.is_control() || letter == '\\' || is_invisible(letter)) {
        return Some("a path holds no control characters, no invisible ones and no backslash");
    }
    path.split('/').find_map(|part| match part {
        "" | "." => Some("a path has no empty or `.` parts"),
        ".." => Some("a path does not leave the task root"),
        _ if is_git(part) => Some("a path does not touch `.git`"),
        _ => None,
    })
}

/// Characters that some file systems ignore when they compare names.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn is_git(part: &str) -> bool {
    let name = part.trim_end_matches(['.', ' ']).to_ascii_lowercase();
    // The short name and the stream form that Windows shares know.
    name == ".git" || name == "git~1" || name.starts_with(".git:")
}

/// Why a file of a patch was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The grader restores it.
    Test,
    /// It could change how tests are collected or how the interpreter starts.
    Infrastructure,
    /// Compiled or cached files.
    Cache,
}

/// A patch after the path policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The patch; the empty text when nothing is left ("empty patch").
    pub patch: String,
    /// Files left out, sorted.
    pub dropped: BTreeSet<(String, DropReason)>,
    /// No file that the environment holds is changed by what is left (specs 1.8, `no_source_edit`).
    pub is_without_source_edit: bool,
}

/// The filtered patch that a rollout left: the difference between what the environment held and what the sandbox holds
/// now (`after`: text files only), without tests and test infrastructure. Paths that no patch may touch are left out.
pub fn rollout_patch(task: &Task, after: &[TaskFile]) -> Filtered {
    let allowed: Vec<TaskFile> =
        after.iter().filter(|file| check_path(&file.path).is_ok()).cloned().collect();
    keep(
        task,
        changes_between(&task.environment.files, &allowed)
            .into_iter()
            .map(|change| (change.path.clone(), change))
            .collect(),
    )
}

fn keep(task: &Task, changes: Vec<(String, super::write::FileChange)>) -> Filtered {
    let mut filtered = Filtered { is_without_source_edit: true, ..Filtered::default() };
    let mut kept = Vec::new();
    for (path, change) in changes {
        if let Some(reason) = drop_reason(task, &path) {
            filtered.dropped.insert((path, reason));
        } else {
            filtered.is_without_source_edit &= change.before.is_none();
            kept.push(change);
        }
    }
    filtered.patch = unified_diff(&kept);
    filtered
}

/// Filters a foreign patch (a prediction) in the same way, for tasks whose environment holds all files.
///
/// # Errors
/// [`ApplyError`](super::ApplyError) when what is left does not apply.
pub fn filter(task: &Task, patch: &Patch) -> Result<Filtered, super::ApplyError> {
    let kept = Patch {
        files: patch.files.iter().filter(|file| drop_reason(task, file.path()).is_none()).cloned().collect(),
    };
    let dropped = patch
        .files
        .iter()
        .filter_map(|file| Some((file.path().to_owned(), drop_reason(task, file.path())?)))
        .collect();
    let after = super::apply(&task.environment.files, &kept)?;
    let filtered = rollout_patch(task, &after);
    Ok(Filtered { dropped, ..filtered })
}

fn drop_reason(task: &Task, path: &str) -> Option<DropReason> {
    if task.tests.files.iter().any(|file| file.path == path) || path.starts_with(".sealign/") {
        return Some(DropReason::Test);
    }
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let name = name.as_str();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    if path.split('/').any(|part| part == "__pycache__") || matches!(extension, "pyc" | "pyo") {
        return Some(DropReason::Cache);
    }
    let starts_the_interpreter =
        matches!(name, "sitecustomize.py" | "usercustomize.py") || extension == "pth";
    let steers_a_runner =
        matches!(name, "conftest.py" | "pytest.ini" | "tox.ini" | "setup.cfg" | "pyproject.toml");
    // Projects of real suites change their own build files in honest patches; ours have none.
    let steers = match task.suite {
        Suite::Mini | Suite::HumanEvalFix => steers_a_runner,
        Suite::SweBench => matches!(name, "conftest.py" | "pytest.ini"),
    };
    (starts_the_interpreter || steers).then_some(DropReason::Infrastructure)
}

/// The text that a foreign harness recorded as its patch, in the form that we parse (specs 1.8): CRLF becomes LF, what
/// stands before the first `diff --git` line is dropped, blocks of binary files are dropped, and the text ends with one
/// line break. Blank texts become empty.
pub fn normalize(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let start =
        if text.starts_with("diff --git ") { Some(0) } else { text.find("\ndiff --git ").map(|at| at + 1) };
    let Some(patch) = start.and_then(|at| text.get(at..)) else { return String::new() };
    let mut kept = String::with_capacity(patch.len());
    let mut rest = patch;
    while !rest.is_empty() {
        let end = rest.get(1..).and_then(|tail| tail.find("\ndiff --git ")).map_or(rest.len(), |at| at + 2);
        let (block, later) = rest.split_at(end);
        if !block.lines().any(|line| line.starts_with("Binary files ") || line == "GIT binary patch") {
            kept.push_str(block);
        }
        rest = later;
    }
    let trimmed = kept.trim_end();
    if trimmed.is_empty() { String::new() } else { format!("{trimmed}\n") }
}
