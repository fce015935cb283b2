//! A small classifier of actions by tool and command, for pairs whose two actions must be of different kinds.
//!
//! A pair of two edits that differ by a lucky guess teaches little; looking against guessing teaches a habit. The
//! classifier reads a shell command word by word and never runs or fully parses it: quoting is not understood, so an
//! operator inside quotes splits a command in two. Of several parts the most consequential decides, in the order
//! finish, edit, test, other, look.

use sealign_trajectory::key::canonical_tool;
use sealign_trajectory::{Action, ToolCall, Turn};
use serde::{Deserialize, Serialize};

/// What an action does. The order is that of consequence among the parts of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Reads files, lists, searches.
    Look,
    /// Anything else that is a call.
    Other,
    /// Runs tests.
    Test,
    /// Changes files.
    Edit,
    /// Ends the attempt or hands the patch in.
    Finish,
    /// Text without a call.
    Message,
    /// Output that could not be parsed.
    Invalid,
}

/// The words by which shell commands are told apart. A word matches the program's name without its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KindRules {
    /// Programs that only look.
    pub look: Vec<String>,
    /// Programs that change files.
    pub edit: Vec<String>,
    /// A command is a test run when one of these is among its words, or a script's name contains `test`.
    pub test: Vec<String>,
    /// A command that contains one of these texts hands in.
    pub finish: Vec<String>,
}

impl Default for KindRules {
    fn default() -> Self {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Self {
            look: words(&[
                "awk", "cat", "cd", "diff", "du", "egrep", "env", "fd", "fgrep", "file", "find", "grep",
                "head", "less", "ls", "more", "nl", "pwd", "rg", "sed", "sort", "stat", "tail", "tree",
                "type", "uniq", "wc", "which", "xargs",
            ]),
            edit: words(&[
                "chmod", "cp", "ed", "ln", "mkdir", "mv", "patch", "rm", "tee", "touch", "truncate",
            ]),
            test: words(&["nose", "nosetests", "py.test", "pytest", "tox", "unittest"]),
            finish: words(&["COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT", "MINI_SWE_AGENT_FINAL_OUTPUT"]),
        }
    }
}

/// `git` subcommands that only look.
const GIT_LOOKS: [&str; 9] =
    ["blame", "branch", "diff", "grep", "log", "ls-files", "rev-parse", "show", "status"];
/// Interpreters whose first script argument names what runs.
const INTERPRETERS: [&str; 5] = ["bash", "node", "python", "python3", "sh"];

impl KindRules {
    /// The kind of a model turn.
    pub fn kind(&self, turn: &Turn) -> Kind {
        match &turn.action {
            Action::Calls { calls } => calls.iter().map(|call| self.call(call)).max().unwrap_or(Kind::Other),
            Action::Message => Kind::Message,
            Action::Invalid { .. } => Kind::Invalid,
        }
    }

    fn call(&self, call: &ToolCall) -> Kind {
        let argument =
            |name: &str| call.arguments.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        match canonical_tool(&call.name) {
            "finish" | "submit" => Kind::Finish,
            "str_replace_editor" => match argument("command").trim() {
                "view" => Kind::Look,
                "create" | "str_replace" | "insert" | "undo_edit" => Kind::Edit,
                _ => Kind::Other,
            },
            "execute_bash" => self.command(argument("command")),
            _ => Kind::Other,
        }
    }

    /// The kind of a shell command.
    pub fn command(&self, command: &str) -> Kind {
        if self.finish.iter().any(|text| command.contains(text.as_str())) {
            return Kind::Finish;
        }
        let parts = command.split(['\n', ';', '|', '&']).map(str::trim).filter(|part| !part.is_empty());
        let kind = parts.map(|part| self.part(part)).max().unwrap_or(Kind::Other);
        if writes_to_file(command) { kind.max(Kind::Edit) } else { kind }
    }

    fn part(&self, part: &str) -> Kind {
        let mut words = part.split_whitespace().skip_while(|word| is_assignment(word));
        let program = words.next().map_or("", file_name);
        let others: Vec<&str> = words.collect();
        let has = |list: &[String], word: &str| list.iter().any(|known| known == word);
        let first = others.iter().find(|word| !word.starts_with('-')).copied().unwrap_or_default();
        let in_place = matches!(program, "sed" | "perl") && others.iter().any(|word| word.starts_with("-i"));
        let runs_tests = has(&self.test, program)
            || others.windows(2).any(|pair| {
                pair.first() == Some(&"-m") && pair.last().is_some_and(|word| has(&self.test, word))
            })
            || (INTERPRETERS.contains(&program) && file_name(first).contains("test"))
            || (matches!(program, "make" | "cargo" | "go" | "npm") && first == "test")
            || (program.contains("test") && program.contains('.'));
        if has(&self.edit, program) || in_place {
            Kind::Edit
        } else if runs_tests {
            Kind::Test
        } else if program == "git" {
            if GIT_LOOKS.contains(&first) { Kind::Look } else { Kind::Edit }
        } else if has(&self.look, program) {
            Kind::Look
        } else {
            Kind::Other
        }
    }
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// Output is redirected into a file: a `>` whose target is neither a descriptor nor `/dev/null`.
fn writes_to_file(command: &str) -> bool {
    command.split('>').skip(1).zip(command.split('>')).any(|(after, before)| {
        let target = after.trim_start_matches(' ');
        !target.is_empty()
            && !target.starts_with('&')
            && !target.starts_with("/dev/null")
            && !target.starts_with('=')
            && !before.ends_with(['-', '='])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_apart_by_their_most_consequential_part() {
        let rules = KindRules::default();
        let cases = [
            ("ls -la && cat a.py | head -3", Kind::Look),
            ("cd /testbed && grep -rn \"x\" src 2>/dev/null", Kind::Look),
            ("git log --oneline -3", Kind::Look),
            ("git checkout -- a.py", Kind::Edit),
            ("sed -n 1,20p a.py", Kind::Look),
            ("sed -i 's/a/b/' a.py", Kind::Edit),
            ("cat > a.py <<'EOF'\nx\nEOF", Kind::Edit),
            ("python -m pytest tests 2>&1 | tail -5", Kind::Test),
            ("PYTHONPATH=. /usr/bin/python3 -S -E run_tests.py", Kind::Test),
            ("python reproduce.py", Kind::Other),
            ("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt", Kind::Finish),
            ("", Kind::Other),
        ];
        for (command, kind) in cases {
            assert_eq!(rules.command(command), kind, "{command}");
        }
    }
}
