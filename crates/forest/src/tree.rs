//! Merging the rollouts of one task and prompt into a tree, and scoring its nodes (specs 5.3 and 5.4; rules B1, B5 to B7).
//!
//! The root is the prompt and stands for no action. Every other node is one action after one sequence of actions. A
//! rollout ends as an outcome leaf under its last action; leaves are kept as a list in their node and are never
//! children. This is a static prefix tree with success rates, not a search tree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, Edge};
use crate::score::Score;

/// Index of a node in [`Tree::nodes`]. Parents come before their children.
pub type NodeIndex = usize;
/// Index of a rollout in [`Tree::rollouts`].
pub type RolloutIndex = usize;

/// The tree of one task and prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tree {
    /// The task.
    pub task: String,
    /// Digest of the prompt (rule C5).
    pub prompt: String,
    /// The rollouts that were merged, by id and source.
    pub rollouts: Vec<Rollout>,
    /// Depth first, children in order of observation and key; the first is the root.
    pub nodes: Vec<Node>,
}

/// A rollout of a tree, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Its id within the set.
    pub id: String,
    /// The set it is from.
    pub source: String,
    /// Number of its actions.
    pub actions: u64,
    /// Its verdict.
    pub success: bool,
}

/// A node: the root, or an action after its ancestors' actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// `None` for the root.
    pub parent: Option<NodeIndex>,
    /// Number of actions down to and including this one; 0 for the root.
    pub depth: u64,
    /// The action's key (rule A1); empty for the root.
    pub key: String,
    /// Digest of the observation that preceded the action, in the mode that splits by it (rule B1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<String>,
    /// Action children.
    pub children: Vec<NodeIndex>,
    /// Rollouts that end here: the outcome leaves.
    pub leaves: Vec<RolloutIndex>,
    /// Successes and paths of the subtree.
    pub score: Score,
    /// The successful rollout through this node that stands for it (rule E4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<RolloutIndex>,
    /// The failed rollout through this node that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RolloutIndex>,
    /// The action is an invalid output.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invalid: bool,
    /// The action is an invalid output whose text is not known; no pair may use it (rule C4).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wordless: bool,
}

/// A node before its final place is known.
#[derive(Default)]
struct Sprout {
    children: BTreeMap<Edge, usize>,
    leaves: Vec<RolloutIndex>,
    invalid: bool,
    wordless: bool,
}

impl Tree {
    /// Merges attempts of one task and prompt; they are in order of id and source.
    pub(crate) fn grow(attempts: &[&Attempt<'_>]) -> Self {
        let mut sprouts = vec![Sprout::default()];
        for (rollout, attempt) in attempts.iter().enumerate() {
            plant(&mut sprouts, rollout, attempt);
        }
        let first = attempts.first().map(|attempt| (attempt.trajectory.task.clone(), attempt.prompt.clone()));
        let (task, prompt) = first.unwrap_or_default();
        let mut tree = Self {
            task,
            prompt,
            rollouts: attempts.iter().map(|attempt| rollout(attempt)).collect(),
            nodes: settle(sprouts),
        };
        tree.score();
        tree
    }

    /// Post-order without recursion: children come after their parents, so backwards every child is ready.
    fn score(&mut self) {
        for index in (0..self.nodes.len()).rev() {
            let Some(node) = self.nodes.get(index) else { continue };
            let mut score = Score::default();
            let (mut success, mut failure) = (None, None);
            for leaf in &node.leaves {
                let is_success = self.rollouts.get(*leaf).is_some_and(|rollout| rollout.success);
                score.paths += 1;
                score.successes += u64::from(is_success);
                let best = if is_success { &mut success } else { &mut failure };
                *best = self.shorter(*best, Some(*leaf));
            }
            for child in node.children.iter().filter_map(|child| self.nodes.get(*child)) {
                score.paths += child.score.paths;
                score.successes += child.score.successes;
                success = self.shorter(success, child.success);
                failure = self.shorter(failure, child.failure);
            }
            if let Some(node) = self.nodes.get_mut(index) {
                (node.score, node.success, node.failure) = (score, success, failure);
            }
        }
    }

    /// Rule E4: fewest actions, then bytewise smaller id. Rollouts are in order of id, so the smaller index decides.
    fn shorter(&self, left: Option<RolloutIndex>, right: Option<RolloutIndex>) -> Option<RolloutIndex> {
        let rank = |index: RolloutIndex| (self.rollouts.get(index).map(|rollout| rollout.actions), index);
        match (left, right) {
            (Some(l), Some(r)) => Some(if rank(l) <= rank(r) { l } else { r }),
            (one, other) => one.or(other),
        }
    }

    /// The groups of siblings that may be compared: one, or one per preceding observation (rule B1).
    pub fn decision_groups(&self, node: &Node) -> Vec<Vec<NodeIndex>> {
        let mut groups: BTreeMap<Option<&str>, Vec<NodeIndex>> = BTreeMap::new();
        for child in &node.children {
            let observation = self.nodes.get(*child).and_then(|child| child.observation.as_deref());
            groups.entry(observation).or_default().push(*child);
        }
        groups.into_values().collect()
    }

    /// A name for the decision at a node, stable for equal forests.
    pub fn node_id(&self, node: NodeIndex) -> String {
        format!("{}:{}:{node}", self.task, self.prompt.get(..12).unwrap_or(&self.prompt))
    }
}

fn rollout(attempt: &Attempt<'_>) -> Rollout {
    Rollout {
        id: attempt.trajectory.id.clone(),
        source: attempt.trajectory.source.clone(),
        actions: u64::try_from(attempt.edges.len()).unwrap_or(u64::MAX),
        success: attempt.is_success(),
    }
}

fn plant(sprouts: &mut Vec<Sprout>, rollout: RolloutIndex, attempt: &Attempt<'_>) {
    let mut at = 0;
    for (position, edge) in attempt.edges.iter().enumerate() {
        let next = sprouts.len();
        let Some(sprout) = sprouts.get_mut(at) else { return };
        at = if let Some(child) = sprout.children.get(edge) {
            *child
        } else {
            sprout.children.insert(edge.clone(), next);
            let (invalid, wordless) = (attempt.is_invalid(position), attempt.is_wordless(position));
            sprouts.push(Sprout { invalid, wordless, ..Sprout::default() });
            next
        };
    }
    if let Some(sprout) = sprouts.get_mut(at) {
        sprout.leaves.push(rollout);
    }
}

/// Gives nodes their final places: depth first in order of edges, whatever the order of planting was.
fn settle(mut sprouts: Vec<Sprout>) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::with_capacity(sprouts.len());
    let mut waiting: Vec<(usize, Option<NodeIndex>, Edge)> =
        vec![(0, None, Edge { observation: None, key: String::new() })];
    while let Some((sprout, parent, edge)) = waiting.pop() {
        let Some(sprout) = sprouts.get_mut(sprout).map(std::mem::take) else { continue };
        let index = nodes.len();
        let depth = match parent.and_then(|parent| nodes.get_mut(parent)) {
            Some(parent) => {
                parent.children.push(index);
                parent.depth + 1
            }
            None => 0,
        };
        waiting.extend(sprout.children.into_iter().rev().map(|(edge, child)| (child, Some(index), edge)));
        nodes.push(Node {
            parent,
            depth,
            key: edge.key,
            observation: edge.observation,
            children: Vec::new(),
            leaves: sprout.leaves,
            score: Score::default(),
            success: None,
            failure: None,
            invalid: sprout.invalid,
            wordless: sprout.wordless,
        });
    }
    nodes
}
