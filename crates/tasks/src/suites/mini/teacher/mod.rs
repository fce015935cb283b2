//! Scripted teachers: seeded stochastic policies that act well or badly at known decision points.
//!
//! They stand in for a language model where the loop needs trajectories and has no model to make them: they know the
//! answer ([`MiniTruth`]) and pretend not to, with the probabilities of [`PolicyParams`]. They speak the text protocol of
//! the `openhands` harness (specs 1.5) and see what the harness shows them.
//!
//! A teacher keeps no state: what it does next follows from the conversation so far and its seed, so that a rollout that
//! was lost and run again has the same record.
//!
//! Start with [`Teacher::next`].

mod history;
mod params;
mod step;

pub use history::Exchange;
pub use params::PolicyParams;
pub use step::Step;

use sealign_manifest::Task;
use sealign_trajectory::Message;

use super::truth::{MiniTruth, TruthError};
use super::{TEST_COMMAND, WORKDIR};
use crate::draw::Draw;
use history::{Facts, TestResult, exchanges};

/// A policy at work on one task.
#[derive(Clone, Debug)]
pub struct Teacher {
    truth: MiniTruth,
    params: PolicyParams,
    files: Vec<String>,
    task: String,
    seed: String,
}

impl Teacher {
    /// A teacher of `task`. Attempts of the same seed and params are equal.
    ///
    /// # Errors
    /// [`TruthError`] when the task is not of the suite `mini`.
    pub fn new(task: &Task, params: PolicyParams, seed: u32) -> Result<Self, TruthError> {
        let truth = MiniTruth::of(task)?;
        let files = task.environment.files.iter().map(|file| file.path.clone()).collect();
        Ok(Self { truth, params, files, task: task.id.clone(), seed: seed.to_string() })
    }

    /// The next assistant message, given all messages so far: those before the first assistant message are the prompt,
    /// and everything between two assistant messages is the observation of the first.
    pub fn next(&self, messages: &[Message]) -> String {
        self.step(&exchanges(messages)).text()
    }

    /// The next step after `history`.
    pub fn step(&self, history: &[Exchange<'_>]) -> Step {
        let turn = history.len().to_string();
        let mut draw = Draw::new("teacher", &[&self.task, &self.seed, &turn]);
        let facts = Facts::of(history, &self.truth);
        // Every chance of a turn is thrown whether or not it is needed, so that changing one leaves the others alone.
        let params = &self.params;
        let [repeats, finishes, fails] =
            [params.repeat, params.early_finish, params.invalid].map(|chance| draw.chance(chance));
        if let Some(last) = history.last()
            && (repeats || (params.repeat > 0.0 && facts.is_repeating))
        {
            return Step::Raw(last.action.to_owned());
        }
        if finishes && !facts.has_edited {
            return Step::Finish;
        }
        if fails {
            return self.malformed(&mut draw);
        }
        self.sensible(&facts, &mut draw)
    }

    fn sensible(&self, facts: &Facts, draw: &mut Draw) -> Step {
        match facts.test_since_edit {
            Some(TestResult::Passed) => return Step::Finish,
            Some(TestResult::Failed) => return self.edit(facts, draw),
            None => {}
        }
        if facts.has_edited {
            let verifies = draw.chance(self.params.test_after);
            return if verifies { Step::Bash(TEST_COMMAND.to_owned()) } else { Step::Finish };
        }
        // Whether an attempt looks at the tests first is one coin for the whole attempt.
        let looks_first =
            Draw::new("teacher-looks", &[&self.task, &self.seed]).chance(self.params.test_before);
        if looks_first && !facts.has_tested {
            return Step::Bash(TEST_COMMAND.to_owned());
        }
        if facts.has_read(&self.truth.file) {
            return self.edit(facts, draw);
        }
        self.look(facts, draw)
    }

    /// Finds and reads the file with the bug.
    fn look(&self, facts: &Facts, draw: &mut Draw) -> Step {
        let truth = &self.truth;
        if draw.chance(self.params.wrong_file) {
            let others: Vec<&String> = self.files.iter().filter(|path| **path != truth.file).collect();
            if let Some(path) = draw.pick(&others) {
                return Step::Bash(format!("cat {path}"));
            }
        }
        let lists = draw.chance(0.3);
        if facts.has_read(&truth.issue_file) {
            // It imports the function with the bug.
            return Step::Bash(format!("cat {}", truth.file));
        }
        if truth.names_file || facts.has_searched {
            return Step::Bash(format!("cat {}", truth.issue_file));
        }
        Step::Bash(if lists && !facts.has_listed {
            "ls".to_owned()
        } else {
            format!("grep -rn \"def {}\" .", truth.issue_function)
        })
    }

    fn edit(&self, facts: &Facts, draw: &mut Draw) -> Step {
        let truth = &self.truth;
        let picks_wrong_line = draw.chance(self.params.wrong_line);
        let miscopies = draw.chance(self.params.miscopy);
        let is_skilled = draw.chance(self.params.skill);
        let line = |index: usize| truth.candidates.get(index).cloned().unwrap_or_default();
        let others: Vec<usize> =
            (0..truth.candidates.len()).filter(|index| *index != facts.in_place).collect();
        let wrong: Vec<usize> = others.iter().copied().filter(|index| *index != truth.right).collect();
        let (old, new) = match &truth.decoy {
            Some(decoy) if facts.is_spoilt => (decoy.spoilt.clone(), decoy.line.clone()),
            Some(decoy) if picks_wrong_line => (decoy.line.clone(), decoy.spoilt.clone()),
            _ => {
                let is_told = truth.explicit || facts.has_seen_failure || truth.family.is_evident();
                let knows = is_told && facts.in_place != truth.right;
                let target = match (knows, is_skilled) {
                    (true, true) => Some(&truth.right),
                    (true, false) => draw.pick(&wrong).or(Some(&truth.right)),
                    (false, _) => draw.pick(&others),
                };
                (line(facts.in_place), line(target.copied().unwrap_or(truth.right)))
            }
        };
        let old = if miscopies { misquote(&old, draw) } else { old };
        Step::Edit { path: format!("{WORKDIR}/{}", truth.file), old, new }
    }

    /// A call that the harness cannot accept: a wrong parameter, an unknown tool, or a missing parameter.
    fn malformed(&self, draw: &mut Draw) -> Step {
        let path = &self.truth.issue_file;
        Step::Raw(match draw.below(3) {
            0 => format!("<function=execute_bash>\n<parameter=cmd>cat {path}</parameter>\n</function>"),
            1 => format!("<function=open>\n<parameter=path>{path}</parameter>\n</function>"),
            _ => format!(
                "<function=str_replace_editor>\n<parameter=path>{WORKDIR}/{path}</parameter>\n</function>"
            ),
        })
    }
}

/// The text with one letter doubled: near enough to look right, and not in the file.
fn misquote(text: &str, draw: &mut Draw) -> String {
    let letters: Vec<usize> =
        text.char_indices().filter(|(_, letter)| letter.is_ascii_alphabetic()).map(|(at, _)| at).collect();
    let Some(at) = draw.pick(&letters).copied() else { return format!("{text}_") };
    let (head, tail) = text.split_at_checked(at + 1).unwrap_or((text, ""));
    format!("{head}{}{tail}", head.chars().last().unwrap_or('_'))
}

#[cfg(test)]
mod tests;
