//! Applying patches: exactly where they say, or not at all.

use std::collections::BTreeMap;

use sealign_manifest::TaskFile;

use super::lines::Lines;
use super::parse::{FilePatch, Hunk, LineKind, Patch};
use super::policy::{PathError, check_path};

/// A patch that does not fit the files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A path that no patch may touch.
    #[error("the patch names a path that is not allowed")]
    Path(#[from] PathError),
    /// A file is missing.
    #[error("`{0}` does not exist")]
    Missing(String),
    /// A new file exists already.
    #[error("`{0}` exists already")]
    Exists(String),
    /// A path that is at once a file and a directory.
    #[error("`{0}` would be both a file and a directory")]
    Directory(String),
    /// The text is another one.
    #[error("hunk {hunk} of `{path}` does not match the file at line {line}")]
    Mismatch {
        /// The file.
        path: String,
        /// 1-based.
        hunk: usize,
        /// 1-based line of the file.
        line: usize,
    },
    /// A deleted file is not empty afterwards.
    #[error("the patch deletes `{0}` but not all of its text")]
    Rest(String),
}

/// Applies `patch` to `files` and gives the new tree, sorted by path. All or nothing; no fuzz, no offset.
///
/// # Errors
/// [`ApplyError`] when a path is not allowed or a file is not as the patch says.
pub fn apply(files: &[TaskFile], patch: &Patch) -> Result<Vec<TaskFile>, ApplyError> {
    let mut tree: BTreeMap<String, String> =
        files.iter().map(|file| (file.path.clone(), file.content.clone())).collect();
    for file in &patch.files {
        check_path(file.path())?;
        apply_file(&mut tree, file)?;
    }
    // A file below another file cannot be written.
    for (path, next) in tree.keys().zip(tree.keys().skip(1)) {
        if next.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/')) {
            return Err(ApplyError::Directory(path.clone()));
        }
    }
    Ok(tree.into_iter().map(|(path, content)| TaskFile { path, content }).collect())
}

fn apply_file(tree: &mut BTreeMap<String, String>, file: &FilePatch) -> Result<(), ApplyError> {
    let before = match &file.old_path {
        Some(path) => tree.remove(path).ok_or_else(|| ApplyError::Missing(path.clone()))?,
        None => String::new(),
    };
    let after = apply_hunks(file, &before)?;
    match &file.new_path {
        Some(path) if tree.contains_key(path) => Err(ApplyError::Exists(path.clone())),
        Some(path) => {
            tree.insert(path.clone(), after);
            Ok(())
        }
        None if after.is_empty() => Ok(()),
        None => Err(ApplyError::Rest(file.path().to_owned())),
    }
}

fn apply_hunks(file: &FilePatch, before: &str) -> Result<String, ApplyError> {
    let old = Lines::of(before);
    let mut output = Output::default();
    let mut at = 0;
    for (number, hunk) in file.hunks.iter().enumerate() {
        let mismatch = |line: usize| ApplyError::Mismatch {
            path: file.path().to_owned(),
            hunk: number + 1,
            line: line + 1,
        };
        let start = if hunk.old_count == 0 { hunk.old_start } else { hunk.old_start.saturating_sub(1) };
        if start < at || start > old.lines.len() {
            return Err(mismatch(start));
        }
        output.copy(&old, at, start);
        at = apply_hunk(hunk, &old, start, &mut output).map_err(mismatch)?;
    }
    output.copy(&old, at, old.lines.len());
    output.text().ok_or_else(|| ApplyError::Mismatch {
        path: file.path().to_owned(),
        hunk: file.hunks.len(),
        line: at,
    })
}

/// Gives the line after the hunk, or the line that does not match.
fn apply_hunk(hunk: &Hunk, old: &Lines<'_>, start: usize, output: &mut Output) -> Result<usize, usize> {
    let mut at = start;
    for line in &hunk.lines {
        if line.kind != LineKind::Added {
            let matches = old.lines.get(at).is_some_and(|text| *text == line.text);
            if !matches || old.lacks_newline(at) != line.lacks_newline {
                return Err(at);
            }
            at += 1;
        }
        if line.kind != LineKind::Removed {
            output.push(&line.text, line.lacks_newline);
        }
    }
    Ok(at)
}

/// Lines of the new text; only the last may lack its line break.
#[derive(Default)]
struct Output {
    text: String,
    is_closed: bool,
    is_broken: bool,
}

impl Output {
    fn push(&mut self, line: &str, lacks_newline: bool) {
        self.is_broken |= self.is_closed;
        self.text.push_str(line);
        if !lacks_newline {
            self.text.push('\n');
        }
        self.is_closed = lacks_newline;
    }

    fn copy(&mut self, old: &Lines<'_>, from: usize, to: usize) {
        for index in from..to {
            self.push(old.lines.get(index).unwrap_or(&""), old.lacks_newline(index));
        }
    }

    fn text(self) -> Option<String> {
        (!self.is_broken).then_some(self.text)
    }
}
