//! The ablation without fine-grained scores (specs 5.8): whole successful against whole failed rollouts of one tree, as
//! many per task as critical pairs were found, at most successes times failures.

use std::collections::BTreeMap;

use crate::draw::below;
use crate::pairs::Pair;
use crate::tree::{RolloutIndex, Tree};

/// Draws the pairs of one task. `trees` are the task's trees with their indexes in the forest.
pub(crate) fn pairs(task: &str, trees: &[(usize, &Tree)], wanted: u64, seed: u64) -> Vec<Pair> {
    let sides: Vec<Sides> = trees.iter().map(|(index, tree)| Sides::new(*index, tree)).collect();
    let total: u64 = sides.iter().map(Sides::combinations).sum();
    // A shuffle of 0..total of which only the first `wanted` places are made.
    let mut moved: BTreeMap<u64, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for place in 0..wanted.min(total) {
        let other = place + below(seed, task, &place.to_string(), total - place);
        let drawn = moved.get(&other).copied().unwrap_or(other);
        moved.insert(other, moved.get(&place).copied().unwrap_or(place));
        found.extend(nth(&sides, drawn));
    }
    found.sort_by_key(|pair| (pair.tree, pair.chosen_rollout, pair.rejected_rollout));
    found
}

struct Sides {
    tree: usize,
    successes: Vec<RolloutIndex>,
    failures: Vec<RolloutIndex>,
}

impl Sides {
    fn new(tree_index: usize, tree: &Tree) -> Self {
        let side = |success| {
            let rollouts =
                tree.rollouts.iter().enumerate().filter(move |(_, rollout)| rollout.success == success);
            // A rollout without a single action has nothing that could be trained on.
            rollouts.filter(|(_, rollout)| rollout.actions > 0).map(|(index, _)| index).collect()
        };
        Self { tree: tree_index, successes: side(true), failures: side(false) }
    }

    fn combinations(&self) -> u64 {
        let count = |side: &Vec<RolloutIndex>| u64::try_from(side.len()).unwrap_or(u64::MAX);
        count(&self.successes).saturating_mul(count(&self.failures))
    }
}

fn nth(sides: &[Sides], mut number: u64) -> Option<Pair> {
    for side in sides {
        if number >= side.combinations() {
            number -= side.combinations();
            continue;
        }
        let failures = u64::try_from(side.failures.len()).unwrap_or(u64::MAX).max(1);
        let pick =
            |from: &[RolloutIndex], at: u64| usize::try_from(at).ok().and_then(|at| from.get(at).copied());
        return Some(Pair {
            tree: side.tree,
            node: 0,
            chosen: 0,
            rejected: 0,
            depth: 0,
            chosen_rollout: pick(&side.successes, number / failures)?,
            rejected_rollout: pick(&side.failures, number % failures)?,
            prefix_divergent: false,
            prefix_condensed: false,
            left_out: None,
        });
    }
    None
}
