//! Training rows of a forest (specs 7.3): its pairs and successes with their texts, taken from the trajectories.

use std::collections::BTreeMap;

use sealign_trajectory::Trajectory;
use sealign_trajectory::chat::{ChatOptions, decision, prefix, to_chat};
use sealign_trajectory::export::{PreferenceRow, SftRow, full_id, row_messages, sft_row};

use crate::forest::Forest;
use crate::options::PairMode;
use crate::pairs::Pair;
use crate::tree::Tree;

/// A forest and trajectories that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// A rollout of the forest is not among the trajectories.
    #[error(
        "trajectory `{0}` of the forest is not among the given ones; give every set that the forest was built from"
    )]
    MissingTrajectory(String),
    /// A pair points outside the forest.
    #[error("pair {0} points outside its tree; build the forest again")]
    BrokenPair(usize),
}

impl Forest {
    /// The rows for supervised fine-tuning.
    ///
    /// # Errors
    /// [`RowsError::MissingTrajectory`].
    pub fn sft_rows(
        &self,
        trajectories: &[Trajectory],
        options: &ChatOptions,
    ) -> Result<Vec<SftRow>, RowsError> {
        let named = by_name(trajectories);
        let row = |source: &String, id: &String| {
            let found = named.get(&(source.as_str(), id.as_str()));
            found
                .map(|found| sft_row(found, options))
                .ok_or_else(|| RowsError::MissingTrajectory(format!("{source}/{id}")))
        };
        self.sft.iter().map(|name| row(&name.source, &name.id)).collect()
    }

    /// The preference rows of the pairs that training uses.
    ///
    /// # Errors
    /// [`RowsError`] as its variants say.
    pub fn preference_rows(
        &self,
        trajectories: &[Trajectory],
        options: &ChatOptions,
    ) -> Result<Vec<PreferenceRow>, RowsError> {
        let named = by_name(trajectories);
        let pairs = self.pairs.iter().enumerate().filter(|(_, pair)| pair.left_out.is_none());
        pairs.map(|(index, pair)| self.preference_row(index, pair, &named, options)).collect()
    }

    fn preference_row(
        &self,
        index: usize,
        pair: &Pair,
        named: &BTreeMap<(&str, &str), &Trajectory>,
        options: &ChatOptions,
    ) -> Result<PreferenceRow, RowsError> {
        let broken = || RowsError::BrokenPair(index);
        let tree = self.trees.get(pair.tree).ok_or_else(broken)?;
        let (score_chosen, score_rejected) = self.scores(pair).ok_or_else(broken)?;
        let chosen = rollout(tree, pair.chosen_rollout, named).ok_or_else(broken)??;
        let rejected = rollout(tree, pair.rejected_rollout, named).ok_or_else(broken)??;
        let depth = usize::try_from(pair.depth).map_err(|_| broken())?;
        let continuation = |trajectory: &Trajectory, options: &ChatOptions| match self.options.pairs.mode {
            PairMode::Critical => decision(trajectory, depth, options),
            PairMode::WholeTrajectory => {
                let prompt = prefix(trajectory, 0, options).len();
                to_chat(trajectory, options).split_off(prompt)
            }
        };
        // An invalid output must not be imitated, but being rejected is just what it is there for (specs 5.4).
        let all = ChatOptions { mask_invalid: false, ..options.clone() };
        Ok(PreferenceRow {
            prompt: row_messages(prefix(chosen, depth, options)),
            chosen: row_messages(continuation(chosen, options)),
            rejected: row_messages(continuation(rejected, &all)),
            score_chosen: score_chosen.to_string(),
            score_rejected: score_rejected.to_string(),
            support_chosen: score_chosen.paths,
            support_rejected: score_rejected.paths,
            instance_id: tree.task.clone(),
            depth: pair.depth,
            node_id: tree.node_id(pair.node),
            prefix_divergent: pair.prefix_divergent,
            prefix_condensed: pair.prefix_condensed,
            trajectory_chosen: full_id(chosen),
            trajectory_rejected: full_id(rejected),
        })
    }
}

fn by_name(trajectories: &[Trajectory]) -> BTreeMap<(&str, &str), &Trajectory> {
    trajectories
        .iter()
        .map(|trajectory| ((trajectory.source.as_str(), trajectory.id.as_str()), trajectory))
        .collect()
}

/// `None` when the index is outside the tree, an error when the trajectory was not given.
fn rollout<'a>(
    tree: &Tree,
    index: usize,
    named: &BTreeMap<(&str, &str), &'a Trajectory>,
) -> Option<Result<&'a Trajectory, RowsError>> {
    let rollout = tree.rollouts.get(index)?;
    let found = named.get(&(rollout.source.as_str(), rollout.id.as_str())).copied();
    Some(found.ok_or_else(|| RowsError::MissingTrajectory(format!("{}/{}", rollout.source, rollout.id))))
}
