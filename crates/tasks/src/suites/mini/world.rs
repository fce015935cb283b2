//! Predicts what the commands of an agent print in a task, without running anything.
//!
//! It knows `ls`, `cat FILE`, `grep -rn "TEXT" .`, the test command and `str_replace`, and only repositories whose buggy
//! function holds one of the task's own lines: exactly what scripted teachers do. Whatever else is asked gives `None`.
//! It makes the millions of tokens that the built-in base model is trained on, and an integration test compares it with
//! the real commands. Rollouts never use it: they run in sandboxes.

use std::collections::BTreeMap;

use sealign_manifest::Task;

use super::truth::{MiniTruth, TruthError};
use super::{CHECK_FILE, TEST_COMMAND, WORKDIR};

/// What a command prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// Standard output and standard error, in order.
    pub text: String,
    /// Exit status.
    pub exit_code: i32,
}

/// Why `str_replace` changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplaced {
    /// No such file.
    NoFile,
    /// The text is not in the file.
    NotFound,
    /// The text is in the file more than once.
    Ambiguous,
    /// Both texts are equal.
    Equal,
}

/// A task's repository as an agent changes it.
#[derive(Clone, Debug)]
pub struct World {
    truth: MiniTruth,
    original: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl World {
    /// The repository as the agent finds it.
    ///
    /// # Errors
    /// [`TruthError`] when the task is not of this suite.
    pub fn new(task: &Task) -> Result<Self, TruthError> {
        let truth = MiniTruth::of(task)?;
        let files: BTreeMap<String, String> =
            task.environment.files.iter().map(|file| (file.path.clone(), file.content.clone())).collect();
        Ok(Self { truth, original: files.clone(), files })
    }

    /// What the task hides.
    pub fn truth(&self) -> &MiniTruth {
        &self.truth
    }

    /// The file at a path relative to the task root.
    pub fn file(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether the repository is the original with the right line in place.
    pub fn is_right(&self) -> bool {
        self.in_place() == Some((self.truth.right, false))
    }

    /// What `command` prints in the task root; `None` for commands and states that are not predicted.
    pub fn run(&self, command: &str) -> Option<Printed> {
        if command == "ls" {
            let names: Vec<&str> = self.files.keys().map(String::as_str).collect();
            return Some(Printed { text: format!("{}\n", names.join("\n")), exit_code: 0 });
        }
        if command == TEST_COMMAND {
            return self.check();
        }
        if let Some(path) = command.strip_prefix("cat ") {
            return Some(match self.files.get(path) {
                Some(content) => Printed { text: content.clone(), exit_code: 0 },
                None => Printed { text: format!("cat: {path}: No such file or directory\n"), exit_code: 1 },
            });
        }
        let pattern = command.strip_prefix("grep -rn \"")?.strip_suffix("\" .")?;
        self.grep(pattern)
    }

    /// Replaces the only occurrence of `old` in the file at an absolute or relative path.
    ///
    /// # Errors
    /// [`NotReplaced`] when nothing is changed.
    pub fn replace(&mut self, path: &str, old: &str, new: &str) -> Result<(), NotReplaced> {
        let relative = path.strip_prefix(WORKDIR).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path);
        let content = self.files.get_mut(relative).ok_or(NotReplaced::NoFile)?;
        if old == new {
            return Err(NotReplaced::Equal);
        }
        match content.matches(old).count() {
            0 => Err(NotReplaced::NotFound),
            1 => {
                *content = content.replace(old, new);
                Ok(())
            }
            _ => Err(NotReplaced::Ambiguous),
        }
    }

    /// Puts `content` in place of the file at a path relative to the task root.
    pub fn write(&mut self, path: &str, content: String) {
        self.files.insert(path.to_owned(), content);
    }

    /// Which candidate stands in the buggy place and whether the last line is spoilt.
    fn in_place(&self) -> Option<(usize, bool)> {
        let original = self.original.get(&self.truth.file)?;
        let current = self.files.get(&self.truth.file)?;
        let others_are_untouched = self
            .files
            .iter()
            .filter(|(path, _)| **path != self.truth.file)
            .all(|(path, content)| self.original.get(path) == Some(content));
        let buggy = self.truth.sources.get(self.truth.buggy)?;
        if !others_are_untouched {
            return None;
        }
        let states = (0..self.truth.sources.len()).flat_map(|index| [(index, false), (index, true)]);
        states.into_iter().find(|(index, spoilt)| {
            self.source(*index, *spoilt)
                .is_some_and(|source| original.replacen(buggy, &source, 1) == *current)
        })
    }

    fn source(&self, index: usize, spoilt: bool) -> Option<String> {
        let source = self.truth.sources.get(index)?;
        if !spoilt {
            return Some(source.clone());
        }
        let decoy = self.truth.decoy.as_ref()?;
        Some(source.replace(&decoy.line, &decoy.spoilt))
    }

    fn check(&self) -> Option<Printed> {
        let (candidate, spoilt) = self.in_place()?;
        let module = self.truth.file.strip_suffix(".py")?;
        for case in &self.truth.visible {
            let expected = case.results.get(self.truth.right)?;
            let given = if spoilt { "None" } else { case.results.get(candidate)? };
            if given != expected {
                let spec = if self.truth.explicit { String::new() } else { format!(": {}", self.truth.spec) };
                let source = self.source(candidate, spoilt)?;
                let text =
                    format!("{module}.py: {} gave {given}, expected {expected}{spec}\n{source}\n", case.call);
                return Some(Printed { text, exit_code: 1 });
            }
        }
        Some(Printed { text: "passed\n".to_owned(), exit_code: 0 })
    }

    /// Only patterns of plain words, whose hits lie in one file: the order of files is the file system's.
    fn grep(&self, pattern: &str) -> Option<Printed> {
        let is_plain =
            pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b' ');
        let mut hits: Vec<(&str, String)> = Vec::new();
        for (path, content) in &self.files {
            for (number, line) in content.lines().enumerate().filter(|(_, line)| line.contains(pattern)) {
                hits.push((path, format!("./{path}:{}:{line}\n", number + 1)));
            }
        }
        let in_one_file = hits.windows(2).all(|pair| matches!(pair, [a, b] if a.0 == b.0));
        if !is_plain || !in_one_file || pattern.is_empty() {
            return None;
        }
        let exit_code = i32::from(hits.is_empty());
        Some(Printed { text: hits.into_iter().map(|(_, line)| line).collect(), exit_code })
    }

    /// Files that an agent may look at by mistake: all but the one with the bug, the tests last.
    pub fn other_files(&self) -> Vec<&str> {
        let mut paths: Vec<&str> = self
            .files
            .keys()
            .map(String::as_str)
            .filter(|path| *path != self.truth.file && *path != CHECK_FILE)
            .collect();
        paths.push(CHECK_FILE);
        paths
    }
}
