//! What the agent sees of the editor: in full, or as little as possible for models with a small context.

use std::fmt::Write as _;

use super::super::profile::Profile;

/// Longest text that an error quotes back, in characters.
const QUOTED_CHARS_MAX: usize = 2_000;
const CLIPPED: &str = "<response clipped><NOTE>To keep the context small only part of this is shown. Find the lines that you need first, for example with `grep -n`, and view only those.</NOTE>";
const REMINDER: &str = "Review the changes and see that they are as you meant them (indentation, doubled lines). Edit the file again if not.";

/// The wording of a profile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    is_terse: bool,
    chars_max: usize,
}

impl Words {
    pub(super) fn of(profile: Profile) -> Self {
        Self { is_terse: profile.is_compact(), chars_max: profile.editor_chars_max() }
    }

    fn choose(self, terse: impl Into<String>, full: impl FnOnce() -> String) -> String {
        if self.is_terse { terse.into() } else { full() }
    }

    /// Cuts a text at the cap and says so.
    pub(super) fn clip(self, text: &str) -> String {
        if text.chars().count() <= self.chars_max {
            return text.to_owned();
        }
        let kept: String = text.chars().take(self.chars_max).collect();
        let notice = self.choose("<response clipped>", || CLIPPED.to_owned());
        format!("{kept}{notice}")
    }

    pub(super) fn view(self, path: &str, lines: &[&str], first: usize) -> String {
        self.choose(lines.join("\n"), || numbered(path, lines, first))
    }

    pub(super) fn directory(self, path: &str, entries: &[String], hidden: usize) -> String {
        self.choose(entries.join("\n"), || {
            let base = path.trim_end_matches('/');
            let mut text = format!(
                "Files and directories up to 2 levels below {path}, hidden ones left out:\n{base}/\n"
            );
            for entry in entries {
                let _ = writeln!(text, "{base}/{entry}");
            }
            if hidden > 0 {
                let _ = write!(text, "\n{hidden} hidden names are left out; `ls -la {path}` shows them.");
            }
            text
        })
    }

    pub(super) fn created(self, path: &str) -> String {
        self.choose("Created.", || format!("File created successfully at: {path}"))
    }

    pub(super) fn edited(self, path: &str, lines: &[&str], first: usize) -> String {
        self.choose("The file has been edited.", || {
            let snippet = numbered(&format!("a snippet of {path}"), lines, first);
            format!("The file {path} has been edited. {snippet}{REMINDER}")
        })
    }

    pub(super) fn undone(self, path: &str, lines: &[&str]) -> String {
        self.choose("Undone.", || {
            format!("Last edit to {path} undone successfully. {}", numbered(path, lines, 1))
        })
    }

    pub(super) fn parameter_missing(self, name: &str, command: &str) -> String {
        self.choose(format!("{name} missing"), || {
            format!("Parameter `{name}` is required for command: {command}.")
        })
    }

    pub(super) fn not_absolute(self, path: &str, workdir: &str) -> String {
        self.choose("bad path", || {
            let suggested = format!("{}/{path}", workdir.trim_end_matches('/'));
            format!(
                "The path {path} is not an absolute path, it should start with `/`. Did you mean {suggested}?"
            )
        })
    }

    pub(super) fn outside(self, path: &str, workdir: &str) -> String {
        self.choose("bad path", || {
            format!("The path {path} is not below {workdir}. The editor works only there.")
        })
    }

    pub(super) fn missing(self, path: &str) -> String {
        self.choose("no such file", || {
            format!("The path {path} does not exist. Please give a path that does.")
        })
    }

    pub(super) fn exists(self, path: &str) -> String {
        self.choose("file exists", || {
            format!("File already exists at: {path}. Files cannot be overwritten with command `create`.")
        })
    }

    pub(super) fn is_directory(self, path: &str) -> String {
        self.choose("is a directory", || {
            format!("The path {path} is a directory; only the `view` command works on directories.")
        })
    }

    pub(super) fn too_large(self, path: &str) -> String {
        self.choose("file too large", || {
            format!("The file {path} is larger than 10 MB and cannot be opened.")
        })
    }

    pub(super) fn binary(self, path: &str) -> String {
        self.choose("binary file", || {
            format!("The file {path} is binary; only text files can be shown and edited.")
        })
    }

    pub(super) fn not_found(self, old: &str, path: &str) -> String {
        self.choose("old_str not found", || {
            let old = quoted(old);
            format!("No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
        })
    }

    pub(super) fn not_unique(self, old: &str, lines: &[usize]) -> String {
        self.choose("old_str not unique", || {
            let old = quoted(old);
            format!("No replacement was performed. Multiple occurrences of old_str `{old}` in lines {lines:?}. Please ensure it is unique.")
        })
    }

    pub(super) fn no_change(self) -> String {
        self.choose("new_str equals old_str", || {
            "No replacement was performed. `new_str` and `old_str` must be different.".to_owned()
        })
    }

    pub(super) fn bad_range(self, problem: &str) -> String {
        self.choose("bad view_range", || format!("Invalid `view_range`: {problem}."))
    }

    pub(super) fn bad_line(self, line: i64, count: usize) -> String {
        self.choose("bad insert_line", || {
            format!("Invalid `insert_line`: {line}. It must be from 0 to {count}, the number of lines.")
        })
    }

    pub(super) fn no_history(self, path: &str) -> String {
        self.choose("nothing to undo", || format!("No edit history found for {path}."))
    }
}

fn numbered(path: &str, lines: &[&str], first: usize) -> String {
    let mut text = format!("Here's the result of running `cat -n` on {path}:\n");
    for (offset, line) in lines.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:>6}\t{line}", first + offset);
    }
    text
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}
