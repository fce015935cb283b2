//! What a teacher can tell from the conversation so far.

use std::collections::BTreeSet;

use sealign_trajectory::{Message, Role};

use super::super::truth::MiniTruth;
use super::super::{TEST_COMMAND, WORKDIR};
use super::step::Step;

/// One assistant message and what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// The assistant message.
    pub action: &'a str,
    /// What came back; the texts of several messages joined by line breaks.
    pub observation: String,
}

/// The exchanges of a conversation: everything before the first assistant message is its prompt.
pub fn exchanges(messages: &[Message]) -> Vec<Exchange<'_>> {
    let mut found: Vec<Exchange<'_>> = Vec::new();
    for message in messages {
        match (message.role, found.last_mut()) {
            (Role::Assistant, _) => {
                found.push(Exchange { action: &message.content, observation: String::new() });
            }
            (_, Some(last)) => {
                if !last.observation.is_empty() {
                    last.observation.push('\n');
                }
                last.observation.push_str(&message.content);
            }
            (_, None) => {}
        }
    }
    found
}

/// How a test run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TestResult {
    Passed,
    Failed,
}

/// What the conversation shows.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each asked for by name")]
pub(super) struct Facts {
    read: BTreeSet<String>,
    pub(super) has_listed: bool,
    pub(super) has_searched: bool,
    pub(super) has_tested: bool,
    pub(super) has_seen_failure: bool,
    pub(super) has_edited: bool,
    /// The last two actions were the same.
    pub(super) is_repeating: bool,
    pub(super) test_since_edit: Option<TestResult>,
    /// The candidate that stands in the file.
    pub(super) in_place: usize,
    pub(super) is_spoilt: bool,
}

impl Facts {
    pub(super) fn of(history: &[Exchange<'_>], truth: &MiniTruth) -> Self {
        let mut facts = Self { in_place: truth.buggy, ..Self::default() };
        for exchange in history {
            match Step::parse(exchange.action) {
                Step::Bash(command) => facts.note_command(&command, &exchange.observation),
                Step::Edit { path, old, new } => {
                    let is_bug_file =
                        path.strip_prefix(WORKDIR).is_some_and(|rest| rest.get(1..) == Some(&truth.file));
                    if exchange.observation.contains("has been edited") && is_bug_file {
                        facts.note_edit(truth, &old, &new);
                    }
                }
                Step::Finish | Step::Raw(_) => {}
            }
        }
        facts.is_repeating = matches!(history, [.., a, b] if a.action == b.action);
        facts
    }

    pub(super) fn has_read(&self, path: &str) -> bool {
        self.read.contains(path)
    }

    fn note_command(&mut self, command: &str, observation: &str) {
        if command == TEST_COMMAND {
            self.has_tested = true;
            let failed = observation.contains(" gave ");
            self.has_seen_failure |= failed;
            // A run that neither passed nor failed (a deadline, say) tells nothing.
            if failed || observation.contains("passed") {
                let result = if failed { TestResult::Failed } else { TestResult::Passed };
                self.test_since_edit = Some(result);
            }
        } else if command == "ls" {
            self.has_listed = true;
        } else if command.starts_with("grep ") {
            self.has_searched = true;
        } else if let Some(path) = command.strip_prefix("cat ") {
            self.read.insert(path.to_owned());
        }
    }

    fn note_edit(&mut self, truth: &MiniTruth, old: &str, new: &str) {
        self.has_edited = true;
        self.test_since_edit = None;
        match &truth.decoy {
            Some(decoy) if old == decoy.line && new == decoy.spoilt => self.is_spoilt = true,
            Some(decoy) if old == decoy.spoilt && new == decoy.line => self.is_spoilt = false,
            _ => {
                let found = truth.candidates.iter().position(|candidate| candidate == new);
                self.in_place = found.unwrap_or(self.in_place);
            }
        }
    }
}
