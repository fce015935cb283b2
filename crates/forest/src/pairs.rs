//! Critical pairs (specs 5.4; rules D4, E1 to E7).
//!
//! At every decision the siblings are ranked; the paper's rule pairs the best with the worst when their scores differ by
//! strictly more than one half. Everything is decided in integers. A pair refers to nodes and rollouts of its tree; its
//! texts are taken from the trajectories when rows are written.

use std::cmp::{Ordering, Reverse};

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::options::{PairOptions, Selection};
use crate::tree::{Node, NodeIndex, RolloutIndex, Tree};

/// A preference at one decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pair {
    /// Index into the forest's trees.
    pub tree: usize,
    /// The decision point: the parent of both actions; the root for pairs of whole rollouts.
    pub node: NodeIndex,
    /// The better action; the root for pairs of whole rollouts.
    pub chosen: NodeIndex,
    /// The worse action; the root for pairs of whole rollouts.
    pub rejected: NodeIndex,
    /// Actions before the decision (rule E6).
    pub depth: u64,
    /// The successful rollout that stands for the better action and gives the prefix.
    pub chosen_rollout: RolloutIndex,
    /// The failed rollout that stands for the worse action.
    pub rejected_rollout: RolloutIndex,
    /// The two rollouts saw different observations before the decision (rule E5).
    pub prefix_divergent: bool,
    /// The prefix contains a condensation (rule C17).
    pub prefix_condensed: bool,
    /// Why training leaves the pair out, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

/// Why a pair is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LeftOut {
    /// Its prefix was condensed.
    Condensed,
    /// The two rollouts saw different observations before the decision.
    Divergent,
    /// Its task is outside the share of the data that is used.
    DataRatio,
}

/// Two siblings that are to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) chosen: NodeIndex,
    pub(crate) rejected: NodeIndex,
}

/// Whether best minus worst of a group exceeds the threshold, before any exception (rule D4).
pub(crate) fn is_critical(tree: &Tree, group: &[NodeIndex], options: &PairOptions) -> bool {
    let estimator = options.score_estimator;
    let scores = || group.iter().filter_map(|child| tree.nodes.get(*child)).map(|node| node.score);
    let best = scores().max_by(|a, b| estimator.compare(*a, *b));
    let worst = scores().min_by(|a, b| estimator.compare(*a, *b));
    best.zip(worst).is_some_and(|(best, worst)| estimator.exceeds(best, worst, options.threshold))
}

/// The pairs of one group of siblings, those with the largest gaps first.
pub(crate) fn candidates(
    tree: &Tree,
    group: &[NodeIndex],
    options: &PairOptions,
    kind: &dyn Fn(NodeIndex) -> Kind,
) -> Vec<Candidate> {
    let estimator = options.score_estimator;
    let ranked = Ranked::new(tree, group, options);
    let pairs: Vec<(&Child<'_>, &Child<'_>)> = match options.selection {
        Selection::BestWorst => ranked.best().into_iter().zip(ranked.worst_first.first()).collect(),
        Selection::BestVsEach => {
            let worst = ranked.worst_first.iter();
            ranked.best().into_iter().flat_map(|best| worst.clone().map(move |other| (best, other))).collect()
        }
        Selection::AllPairs => {
            let chosen = ranked.best_first.iter().filter(|(_, node)| !node.invalid);
            chosen.flat_map(|better| ranked.worst_first.iter().map(move |worse| (better, worse))).collect()
        }
    };
    let is_pair = |better: &Child<'_>, worse: &Child<'_>| {
        better.0 != worse.0
            && estimator.exceeds(better.1.score, worse.1.score, options.threshold)
            && (!options.require_different_kind || kind(better.0) != kind(worse.0))
            // With a shrunk score or a low threshold a node may lack the rollout that would stand for it.
            && better.1.success.is_some()
            && worse.1.failure.is_some()
    };
    let mut found: Vec<_> = pairs
        .into_iter()
        .filter(|(better, worse)| is_pair(better, worse))
        .map(|(better, worse)| {
            let gap = estimator.gap(better.1.score, worse.1.score);
            (Reverse(gap), Candidate { chosen: better.0, rejected: worse.0 })
        })
        .collect();
    // Stable: equal gaps stay in the order of ranks.
    found.sort_by_key(|(gap, _)| *gap);
    let limit = options
        .max_pairs_per_decision
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    found.into_iter().take(limit).map(|(_, candidate)| candidate).collect()
}

/// A child with its place in the tree.
type Child<'a> = (NodeIndex, &'a Node);

/// The children that may take part, in both orders of rule E1.
struct Ranked<'a> {
    best_first: Vec<Child<'a>>,
    worst_first: Vec<Child<'a>>,
}

impl<'a> Ranked<'a> {
    fn new(tree: &'a Tree, group: &[NodeIndex], options: &PairOptions) -> Self {
        let estimator = options.score_estimator;
        let takes_part = |node: &&Node| node.score.paths >= u64::from(options.min_support) && !node.wordless;
        let children = group
            .iter()
            .filter_map(|child| tree.nodes.get(*child).filter(takes_part).map(|node| (*child, node)));
        let mut best_first: Vec<Child<'_>> = children.collect();
        let mut worst_first = best_first.clone();
        let ties = |a: &Node, b: &Node| -> Ordering {
            b.score.paths.cmp(&a.score.paths).then_with(|| a.key.cmp(&b.key))
        };
        best_first.sort_by(|(_, a), (_, b)| estimator.compare(b.score, a.score).then_with(|| ties(a, b)));
        worst_first.sort_by(|(_, a), (_, b)| estimator.compare(a.score, b.score).then_with(|| ties(a, b)));
        Self { best_first, worst_first }
    }

    /// The first child in the best order that is no invalid output (rule E2).
    fn best(&self) -> Option<&Child<'a>> {
        self.best_first.iter().find(|(_, node)| !node.invalid)
    }
}
