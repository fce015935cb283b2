//! Records: what is known of an item once it has run. A record is written once and never again.

use std::collections::BTreeMap;

use sealign_trajectory::{Message, Turn};
use serde::{Deserialize, Serialize};

use crate::{Digest, GradingItem, RolloutItem};

/// Version of the record formats.
pub const RECORD_VERSION: u32 = 1;

/// Why a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// The agent said that it is done.
    Finished,
    /// A stop rule for loops ended it.
    Stuck,
    /// The next prompt would not fit the context.
    ContextExceeded,
    /// The turn limit.
    TurnLimit,
    /// The wall limit, waiting for the model excluded.
    Timeout,
    /// The task's own memory, disk or process limit: the model's doing.
    Limit,
    /// Infrastructure, after every try; never scored as a failure of the model.
    Infra,
    /// A replayed prefix gave other observations.
    ReplayDiverged,
    /// The budget was spent and the campaign says to close what is open.
    NotRun,
}

/// One rollout: the conversation and what it left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// What was to be done.
    pub item: RolloutItem,
    /// The task's identifier, for people and for joins with foreign verdicts.
    pub task_id: String,
    /// Harness name and version, for example `openhands/1`.
    pub harness: String,
    /// Digest of the policy: model, sampling and harness settings.
    pub policy: Digest,
    /// Digest of the environment.
    pub environment: Digest,
    /// Digest of the rendered first prompt.
    pub prompt_digest: Digest,
    /// Messages before the first model turn.
    pub prompt: Vec<Message>,
    /// Model turns; each keeps the raw text before repair.
    pub turns: Vec<Turn>,
    /// Why it ended.
    pub stop: StopReason,
    /// One bounded line for people: the cause of `Infra` or `Limit`; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Digest of the filtered patch (a blob of the store); `None` when it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Digest>,
    /// Tokens of all model requests of the try that is recorded.
    pub usage: Usage,
    /// Properties that metrics count: `invalidTurns`, `stuck` (0 or 1), `noSourceEdit` (0 or 1), ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, u64>,
}

/// Token counts as the model server reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Usage {
    /// Prompt tokens, summed over requests.
    pub prompt_tokens: u64,
    /// Completion tokens, summed over requests.
    pub completion_tokens: u64,
}

/// What a grading says of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Every required test passed, and the negative control failed as it must.
    Resolved,
    /// At least one required test did not pass, or the patch does not apply.
    Unresolved,
    /// The tests ran into their wall limit.
    Timeout,
    /// The patch reached the test runner: the negative control passed, or the nonce was forged.
    Tampered,
    /// Infrastructure, after every try.
    Infra,
}

/// One verdict. Definite ones are valid for every campaign that asks for the same item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerdictRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// What was to be judged.
    pub item: GradingItem,
    /// The judgement.
    pub verdict: Verdict,
    /// Required tests that did not pass, at most [`VerdictRecord::FAILED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// One bounded line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl VerdictRecord {
    /// Names of failed tests that are kept: enough to see a pattern, small enough to read.
    pub const FAILED_MAX: usize = 20;
}

/// How one rollout counts, after its grading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// The tests pass, however the rollout ended.
    Resolved,
    /// A definite failure.
    Unresolved,
    /// A stop rule for loops ended it, and the tests do not pass.
    Stuck,
    /// It ran out of context.
    ContextExceeded,
    /// It ran out of turns.
    TurnLimit,
    /// It ran out of time, in the rollout or in the tests.
    Timeout,
    /// It ran into its own memory, disk or process limit.
    Limit,
    /// Unknown: infrastructure failed. Not in any rate of the model.
    Infra,
    /// It reached the test runner.
    Tampered,
    /// Its replayed prefix diverged.
    ReplayDiverged,
    /// Never run: the budget was spent. In the denominators.
    NotRun,
    /// Not graded: the campaign asks for none.
    Ungraded,
}

/// Joins how a rollout ended with the verdict on its patch (`None`: the patch is empty, or grading is off).
pub fn outcome(stop: StopReason, verdict: Option<Verdict>, graded: bool) -> Outcome {
    match (stop, verdict) {
        (StopReason::Infra, _) | (_, Some(Verdict::Infra)) => Outcome::Infra,
        (StopReason::ReplayDiverged, _) => Outcome::ReplayDiverged,
        (StopReason::NotRun, _) => Outcome::NotRun,
        (_, Some(Verdict::Tampered)) => Outcome::Tampered,
        (_, Some(Verdict::Resolved)) => Outcome::Resolved,
        _ if !graded => Outcome::Ungraded,
        (StopReason::Stuck, _) => Outcome::Stuck,
        (StopReason::ContextExceeded, _) => Outcome::ContextExceeded,
        (StopReason::TurnLimit, _) => Outcome::TurnLimit,
        (StopReason::Timeout, _) | (_, Some(Verdict::Timeout)) => Outcome::Timeout,
        (StopReason::Limit, _) => Outcome::Limit,
        (StopReason::Finished, _) => Outcome::Unresolved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_pass_resolve_a_rollout_that_ran_out_of_turns() {
        assert_eq!(outcome(StopReason::TurnLimit, Some(Verdict::Resolved), true), Outcome::Resolved);
        assert_eq!(outcome(StopReason::TurnLimit, Some(Verdict::Unresolved), true), Outcome::TurnLimit);
    }

    #[test]
    fn infrastructure_is_never_a_failure_of_the_model() {
        assert_eq!(outcome(StopReason::Infra, None, true), Outcome::Infra);
        assert_eq!(outcome(StopReason::Finished, Some(Verdict::Infra), true), Outcome::Infra);
    }

    #[test]
    fn an_empty_patch_is_unresolved_when_graded_and_unknown_when_not() {
        assert_eq!(outcome(StopReason::Finished, None, true), Outcome::Unresolved);
        assert_eq!(outcome(StopReason::Finished, None, false), Outcome::Ungraded);
    }
}
