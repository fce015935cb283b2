//! What a report needs to know of an attempt.

use sealign_manifest::record::Outcome;

/// One attempt of a benchmark, after its grading.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Task id; attempts of different models are paired by it.
    pub task: String,
    /// What results are broken down by, for example the bug family; empty when there is none.
    pub family: String,
    /// How it counts.
    pub outcome: Outcome,
    /// The filtered patch is empty (specs 1.8).
    pub is_empty: bool,
    /// Three equal actions in a row (specs 1.10).
    pub is_stuck: bool,
    /// The suite's notion of invalid: a refused call in the attempt, or for HumanEvalFix an invalid patch (specs 3.4).
    pub is_invalid: bool,
    /// Turns that the harness refused.
    pub invalid_turns: u64,
    /// Model turns.
    pub turns: u64,
    /// Prompt and completion tokens.
    pub tokens: u64,
}

impl Attempt {
    /// Whether it says something about the model: infrastructure failures, attempts without a grading and diverged
    /// replays do not; attempts that were not run because the budget was spent stay in.
    pub fn is_counted(&self) -> bool {
        !matches!(self.outcome, Outcome::Infra | Outcome::Ungraded | Outcome::ReplayDiverged)
    }

    /// Whether the tests pass.
    pub fn is_resolved(&self) -> bool {
        self.outcome == Outcome::Resolved
    }
}

/// The attempts of one model on the tasks of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelAttempts {
    /// Name shown in tables, for example `base`, `SFT`, `SFT + DPO`.
    pub name: String,
    /// In any order; of several attempts at a task the first is the one that is compared.
    pub attempts: Vec<Attempt>,
}
