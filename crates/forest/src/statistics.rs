//! The paper's Table 1 and what lies behind it (rules B5, B6, D1 to D5), under the names that `sealign forest` prints.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clean::DropReason;
use crate::pairs::LeftOut;
use crate::score::Score;

/// What a forest is, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statistics {
    /// Tasks with at least one kept rollout.
    pub instances: u64,
    /// Tasks with at least one rollout before cleaning.
    pub instances_collected: u64,
    /// Rollouts before cleaning.
    pub collected: u64,
    /// Rollouts that were kept.
    pub after_filtering: u64,
    /// Kept rollouts that succeeded.
    pub successful: u64,
    /// Kept rollouts that failed.
    pub wrong: u64,
    /// Recorded messages of kept rollouts.
    pub path_messages: u64,
    /// The same per kept rollout; 0 without any.
    pub average_path_messages: f64,
    /// Model turns of kept rollouts.
    pub path_actions: u64,
    /// The same per kept rollout; 0 without any.
    pub average_path_actions: f64,
    /// Distinct action nodes; roots and outcome leaves do not count.
    pub nodes: u64,
    /// Nodes and roots with two or more action children.
    pub branch_points: u64,
    /// Groups of siblings whose best and worst scores differ by more than the threshold.
    pub critical_decision_points: u64,
    /// Pairs of actions. In the whole-trajectory mode these are the pairs that set the number, not the ones drawn.
    pub critical_pairs: u64,
    /// Critical pairs that rest on a single path.
    pub single_path_pairs: SinglePathPairs,
    /// Dropped rollouts by reason; every reason is listed.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Trees: one per task and prompt.
    pub trees: u64,
    /// Model turns saved by merging: path actions minus nodes.
    pub overlap_saved: u64,
    /// Collected rollouts that take the same action three times running (specs 1.10).
    pub stuck_in_loop: u64,
    /// Collected rollouts whose last three actions are equal.
    pub stuck_at_end: u64,
    /// Successes in the set for supervised fine-tuning.
    pub sft_rollouts: u64,
    /// Pairs that training uses.
    pub training_pairs: u64,
    /// Pairs that training leaves out, by reason.
    pub pairs_left_out: BTreeMap<LeftOut, u64>,
}

/// Pairs where a side has been seen on one path only (rule D5). `either` is the headline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinglePathPairs {
    /// The chosen side.
    pub chosen: u64,
    /// The rejected side.
    pub rejected: u64,
    /// At least one side.
    pub either: u64,
    /// Both sides.
    pub both: u64,
}

impl SinglePathPairs {
    pub(crate) fn count(&mut self, chosen: Score, rejected: Score) {
        let (chosen, rejected) = (chosen.paths == 1, rejected.paths == 1);
        self.chosen += u64::from(chosen);
        self.rejected += u64::from(rejected);
        self.either += u64::from(chosen || rejected);
        self.both += u64::from(chosen && rejected);
    }
}

/// A pair as `sealign forest --output json` lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairLine {
    /// The task.
    pub task: String,
    /// Actions before the decision.
    pub depth: u64,
    /// Key of the better action.
    pub chosen_key: String,
    /// Key of the worse action.
    pub rejected_key: String,
    /// Successes and paths of the better node.
    pub chosen_score: String,
    /// Successes and paths of the worse node.
    pub rejected_score: String,
}

/// What `sealign forest --output json` prints: the statistics and every pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The numbers.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// The pairs, by task, depth and keys.
    pub pairs: Vec<PairLine>,
}

pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A mean for people; every decision is taken on the sums.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn average(sum: u64, number: u64) -> f64 {
    if number == 0 { 0.0 } else { sum as f64 / number as f64 }
}

pub(crate) fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    count(names.collect::<BTreeSet<_>>().len())
}
