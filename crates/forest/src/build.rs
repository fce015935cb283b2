//! From trajectories to a forest: clean, merge, score, pair, select, count.

use std::collections::{BTreeMap, BTreeSet};

use sealign_trajectory::Trajectory;
use sealign_trajectory::key::KeyOptions;
use sealign_trajectory::observe::Normaliser;
use sealign_trajectory::stuck::stuck;

use crate::attempt::Attempt;
use crate::clean::{DropReason, Dropped, clean};
use crate::forest::Forest;
use crate::options::{Options, PairMode};
use crate::pairs::{Candidate, LeftOut, Pair, candidates, is_critical};
use crate::select::{sft_set, tasks_in_use};
use crate::statistics::{Statistics, average, count, distinct};
use crate::tree::{NodeIndex, Tree};
use crate::whole;

/// Why a forest could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Two trajectories have one name, so that results would depend on their order.
    #[error(
        "trajectory `{id}` of source `{source_name}` is there twice; import each set once, or name the sources apart"
    )]
    RepeatedId {
        /// The id.
        id: String,
        /// The set.
        source_name: String,
    },
    /// A share of more than everything.
    #[error("dataRatio.percent is {0}; use a number from 0 to 100")]
    DataRatio(u32),
}

/// Builds a forest. The result depends on the set of trajectories and the options, never on their order.
///
/// # Errors
/// [`BuildError`] as its variants say.
pub fn build(trajectories: &[Trajectory], options: &Options) -> Result<Forest, BuildError> {
    if options.data_ratio.percent > 100 {
        return Err(BuildError::DataRatio(options.data_ratio.percent));
    }
    let normaliser = Normaliser::standard(!options.keep_temporary_paths);
    let mut sorted: Vec<&Trajectory> = trajectories.iter().collect();
    sorted.sort_by_key(|trajectory| (&trajectory.source, &trajectory.id));
    refuse_repeats(&sorted)?;
    let attempts = sorted.iter().map(|trajectory| Attempt::new(trajectory, options, &normaliser)).collect();
    let (kept, dropped) = clean(attempts, options, &normaliser);
    let forest = Builder { options, normaliser: &normaliser, kept: &kept }.build(dropped, &sorted);
    Ok(forest)
}

fn refuse_repeats(sorted: &[&Trajectory]) -> Result<(), BuildError> {
    let name = |trajectory: &Trajectory| (trajectory.source.clone(), trajectory.id.clone());
    for (left, right) in sorted.iter().zip(sorted.iter().skip(1)) {
        if name(left) == name(right) {
            let (source_name, id) = name(left);
            return Err(BuildError::RepeatedId { id, source_name });
        }
    }
    Ok(())
}

struct Builder<'a> {
    options: &'a Options,
    normaliser: &'a Normaliser,
    kept: &'a [Attempt<'a>],
}

impl<'a> Builder<'a> {
    fn build(&self, dropped: Vec<Dropped>, collected: &[&Trajectory]) -> Forest {
        let groups = self.groups();
        let trees: Vec<Tree> = groups.values().map(|attempts| Tree::grow(attempts)).collect();
        let members: Vec<&Vec<&Attempt<'a>>> = groups.values().collect();
        let mut statistics = self.table(&dropped, collected);
        let mut pairs = Vec::new();
        for (index, tree) in trees.iter().enumerate() {
            let attempts = members.get(index).map_or(&[][..], |attempts| attempts.as_slice());
            pairs.extend(self.tree_pairs(index, tree, attempts, &mut statistics));
        }
        for pair in &pairs {
            statistics
                .single_path_pairs
                .count(score(&trees, pair, pair.chosen), score(&trees, pair, pair.rejected));
        }
        statistics.critical_pairs = count(pairs.len());
        if self.options.pairs.mode == PairMode::WholeTrajectory {
            pairs = self.whole_pairs(&trees, &pairs);
            for pair in &mut pairs {
                let attempts = members.get(pair.tree).map_or(&[][..], |attempts| attempts.as_slice());
                pair.prefix_condensed = attempts
                    .get(pair.chosen_rollout)
                    .is_some_and(|attempt| is_condensed(attempt, usize::MAX))
                    || attempts
                        .get(pair.rejected_rollout)
                        .is_some_and(|attempt| is_condensed(attempt, usize::MAX));
            }
        }
        let tasks: BTreeSet<&str> = trees.iter().map(|tree| tree.task.as_str()).collect();
        let in_use = tasks_in_use(&tasks, &self.options.data_ratio);
        for pair in &mut pairs {
            let is_used = trees.get(pair.tree).is_some_and(|tree| in_use.contains(tree.task.as_str()));
            pair.left_out = self.left_out(pair, is_used);
            if let Some(reason) = pair.left_out {
                *statistics.pairs_left_out.entry(reason).or_default() += 1;
            }
        }
        statistics.training_pairs = count(pairs.iter().filter(|pair| pair.left_out.is_none()).count());
        let sft =
            sft_set(self.kept, &self.options.sft, (!self.options.data_ratio.pairs_only).then_some(&in_use));
        statistics.sft_rollouts = count(sft.len());
        Forest { options: self.options.clone(), statistics, trees, pairs, sft, dropped }
    }

    /// Attempts by task and prompt, each group in order of id and source.
    fn groups(&self) -> BTreeMap<(&'a str, &'a str), Vec<&'a Attempt<'a>>> {
        let mut groups: BTreeMap<(&str, &str), Vec<&Attempt<'_>>> = BTreeMap::new();
        for attempt in self.kept {
            groups.entry((&attempt.trajectory.task, &attempt.prompt)).or_default().push(attempt);
        }
        for attempts in groups.values_mut() {
            attempts.sort_by_key(|attempt| (&attempt.trajectory.id, &attempt.trajectory.source));
        }
        groups
    }

    /// Everything that is counted over rollouts.
    fn table(&self, dropped: &[Dropped], collected: &[&Trajectory]) -> Statistics {
        let kept = || self.kept.iter().map(|attempt| attempt.trajectory);
        let after_filtering = count(self.kept.len());
        let successful = count(self.kept.iter().filter(|attempt| attempt.is_success()).count());
        let path_messages = kept().map(|trajectory| trajectory.message_count).sum();
        let path_actions = kept().map(|trajectory| count(trajectory.turns.len())).sum();
        let mut by_reason: BTreeMap<DropReason, u64> =
            DropReason::ALL.into_iter().map(|reason| (reason, 0)).collect();
        for rollout in dropped {
            *by_reason.entry(rollout.reason).or_default() += 1;
        }
        let keys = KeyOptions { unify_temporary_paths: !self.options.keep_temporary_paths };
        let loops: Vec<_> = collected.iter().map(|trajectory| stuck(trajectory, keys)).collect();
        Statistics {
            instances: distinct(kept().map(|trajectory| trajectory.task.as_str())),
            instances_collected: distinct(collected.iter().map(|trajectory| trajectory.task.as_str())),
            collected: count(collected.len()),
            after_filtering,
            successful,
            wrong: after_filtering - successful,
            path_messages,
            average_path_messages: average(path_messages, after_filtering),
            path_actions,
            average_path_actions: average(path_actions, after_filtering),
            dropped: by_reason,
            stuck_in_loop: count(loops.iter().filter(|found| found.anywhere).count()),
            stuck_at_end: count(loops.iter().filter(|found| found.at_end).count()),
            overlap_saved: path_actions,
            ..Statistics::default()
        }
    }

    /// The critical pairs of one tree; counts its nodes on the way.
    fn tree_pairs(
        &self,
        index: usize,
        tree: &Tree,
        attempts: &[&Attempt<'_>],
        statistics: &mut Statistics,
    ) -> Vec<Pair> {
        let options = &self.options.pairs;
        let actions = count(tree.nodes.len().saturating_sub(1));
        statistics.trees += 1;
        statistics.nodes += actions;
        statistics.overlap_saved = statistics.overlap_saved.saturating_sub(actions);
        let kind = |node: NodeIndex| {
            let turn = tree.nodes.get(node).and_then(|node| {
                let rollout = node.success.or(node.failure)?;
                attempts.get(rollout)?.trajectory.turns.get(usize::try_from(node.depth).ok()?.checked_sub(1)?)
            });
            turn.map_or(crate::kind::Kind::Other, |turn| options.kinds.kind(turn))
        };
        let mut pairs = Vec::new();
        for (node_index, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.children.len() > 1) {
            statistics.branch_points += 1;
            for group in tree.decision_groups(node) {
                if is_critical(tree, &group, options) {
                    statistics.critical_decision_points += 1;
                }
                let found = candidates(tree, &group, options, &kind);
                pairs.extend(
                    found.into_iter().filter_map(|found| self.pair(index, tree, node_index, found, attempts)),
                );
            }
        }
        pairs
    }

    fn pair(
        &self,
        index: usize,
        tree: &Tree,
        node: NodeIndex,
        found: Candidate,
        attempts: &[&Attempt<'_>],
    ) -> Option<Pair> {
        let depth = tree.nodes.get(node)?.depth;
        let chosen_rollout = tree.nodes.get(found.chosen)?.success?;
        let rejected_rollout = tree.nodes.get(found.rejected)?.failure?;
        let (chosen, rejected) = (attempts.get(chosen_rollout)?, attempts.get(rejected_rollout)?);
        let before = usize::try_from(depth).ok()?;
        Some(Pair {
            tree: index,
            node,
            chosen: found.chosen,
            rejected: found.rejected,
            depth,
            chosen_rollout,
            rejected_rollout,
            prefix_divergent: self.diverges(chosen, rejected, before),
            // The condensation just before the decision itself changed what the model saw, so it counts.
            prefix_condensed: is_condensed(chosen, before + 1),
            left_out: None,
        })
    }

    /// Rule E5: whether two rollouts saw different observations before their action number `before`. A missing one is
    /// unequal to everything (rule C11).
    fn diverges(&self, chosen: &Attempt<'_>, rejected: &Attempt<'_>, before: usize) -> bool {
        // Observation 0 has no turn to be missing from: two attempts without one saw the same.
        let opening = |attempt: &Attempt<'_>| {
            self.normaliser.observation(attempt.trajectory.first_observation.as_deref())
        };
        if opening(chosen) != opening(rejected) {
            return true;
        }
        let seen = chosen.observations(self.normaliser).iter().zip(rejected.observations(self.normaliser));
        seen.take(before).any(|(left, right)| left.is_none() || left != right)
    }

    fn whole_pairs(&self, trees: &[Tree], critical: &[Pair]) -> Vec<Pair> {
        let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
        for tree in critical.iter().filter_map(|pair| trees.get(pair.tree)) {
            *wanted.entry(tree.task.as_str()).or_default() += 1;
        }
        let mut by_task: BTreeMap<&str, Vec<(usize, &Tree)>> = BTreeMap::new();
        for (index, tree) in trees.iter().enumerate() {
            by_task.entry(tree.task.as_str()).or_default().push((index, tree));
        }
        let seed = self.options.pairs.seed;
        let draw = |(task, wanted): (&str, u64)| {
            whole::pairs(task, by_task.get(task).map_or(&[], Vec::as_slice), wanted, seed)
        };
        wanted.into_iter().flat_map(draw).collect()
    }

    fn left_out(&self, pair: &Pair, is_used: bool) -> Option<LeftOut> {
        if pair.prefix_condensed && !self.options.pairs.keep_condensed {
            return Some(LeftOut::Condensed);
        }
        if pair.prefix_divergent && self.options.pairs.drop_divergent {
            return Some(LeftOut::Divergent);
        }
        (!is_used).then_some(LeftOut::DataRatio)
    }
}

fn score(trees: &[Tree], pair: &Pair, node: NodeIndex) -> crate::score::Score {
    trees.get(pair.tree).and_then(|tree| tree.nodes.get(node)).map(|node| node.score).unwrap_or_default()
}

fn is_condensed(attempt: &Attempt<'_>, turns: usize) -> bool {
    attempt.trajectory.turns.iter().take(turns).any(|turn| turn.condensed_before)
}
