//! The built forest: trees, pairs as references into them, the set for supervised fine-tuning, and the counts.

use serde::{Deserialize, Serialize};

use crate::clean::Dropped;
use crate::options::{Options, PairMode};
use crate::pairs::Pair;
use crate::score::Score;
use crate::select::RolloutName;
use crate::statistics::{PairLine, Statistics, Summary};
use crate::tree::Tree;

/// A forest, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forest {
    /// How it was built.
    pub options: Options,
    /// What it is, in numbers.
    pub statistics: Statistics,
    /// One per task and prompt, in their order.
    pub trees: Vec<Tree>,
    /// By tree, then decision; those that training leaves out say so.
    pub pairs: Vec<Pair>,
    /// The rollouts for supervised fine-tuning, in order of source and id.
    pub sft: Vec<RolloutName>,
    /// The rollouts that were cleaned away, in order of source and id.
    pub dropped: Vec<Dropped>,
}

impl Forest {
    /// What `sealign forest --output json` prints.
    pub fn summary(&self) -> Summary {
        let mut pairs: Vec<PairLine> = self.pairs.iter().filter_map(|pair| self.pair_line(pair)).collect();
        pairs.sort();
        Summary { statistics: self.statistics.clone(), pairs }
    }

    /// The pairs that training uses.
    pub fn training_pairs(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(|pair| pair.left_out.is_none())
    }

    /// The scores of both sides: of the nodes, or of the two rollouts where whole rollouts are paired.
    pub(crate) fn scores(&self, pair: &Pair) -> Option<(Score, Score)> {
        if self.options.pairs.mode == PairMode::WholeTrajectory {
            return Some((Score { successes: 1, paths: 1 }, Score { successes: 0, paths: 1 }));
        }
        let tree = self.trees.get(pair.tree)?;
        Some((tree.nodes.get(pair.chosen)?.score, tree.nodes.get(pair.rejected)?.score))
    }

    fn pair_line(&self, pair: &Pair) -> Option<PairLine> {
        let tree = self.trees.get(pair.tree)?;
        let (chosen, rejected) = (tree.nodes.get(pair.chosen)?, tree.nodes.get(pair.rejected)?);
        let (chosen_score, rejected_score) = self.scores(pair)?;
        Some(PairLine {
            task: tree.task.clone(),
            depth: pair.depth,
            chosen_key: chosen.key.clone(),
            rejected_key: rejected.key.clone(),
            chosen_score: chosen_score.to_string(),
            rejected_score: rejected_score.to_string(),
        })
    }
}
