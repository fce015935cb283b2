//! Packs token sequences into one batch in which every shared prefix appears once.
//!
//! The sequences become a radix tree over tokens. Its nodes are [`Segment`]s, laid out in depth-first order, so that the
//! descendants of a segment are one contiguous run of rows. A row attends to its segment up to itself and to all ancestor
//! segments; positions continue along the chain. The first token of a branch is predicted by the last row of its parent, so
//! one row may have several targets. The linear layout is the same structure with one tree of one segment per sequence.
//!
//! Rows behind the last weighted target of a sequence are left out: nothing depends on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether prefixes are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Every sequence on its own; the reference path.
    Linear,
    /// One token trie over all sequences of the batch.
    #[default]
    TreePacked,
}

/// One sequence to pack.
#[derive(Clone, Copy, Debug)]
pub struct SequenceInput<'tokens> {
    /// Token ids.
    pub ids: &'tokens [u32],
    /// Loss weight of predicting each token, as long as `ids`; index 0 is ignored.
    pub weights: &'tokens [f32],
}

/// A run of rows whose tokens continue one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows, at least 1.
    pub len: usize,
    /// Index of the segment that this one continues.
    pub parent: Option<usize>,
    /// Position (distance from the start of the sequence) of the first row.
    pub position: usize,
    /// First row after all descendants; equals `start + len` for a leaf.
    pub subtree_end: usize,
}

/// A prediction: the hidden state of `row` predicts `token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Row whose hidden state is read.
    pub row: usize,
    /// Token to predict.
    pub token: u32,
}

/// How a sequence uses a prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetUse {
    /// Index into [`PackedBatch::targets`].
    pub target: usize,
    /// Index of the sequence in the input.
    pub sequence: usize,
    /// Its loss weight there.
    pub weight: f32,
}

/// A packed batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackedBatch {
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// Position of each row.
    pub positions: Vec<usize>,
    /// Segments in depth-first order.
    pub segments: Vec<Segment>,
    /// Distinct predictions, ascending by row and token.
    pub targets: Vec<Target>,
    /// Uses of the predictions, grouped by sequence in input order.
    pub uses: Vec<TargetUse>,
    /// Number of sequences in the input.
    pub sequences: usize,
    /// Rows that the linear layout would have.
    pub linear_rows: usize,
}

impl PackedBatch {
    /// Packs the sequences. Sequences without a weighted target get no rows.
    pub fn pack(sequences: &[SequenceInput<'_>], layout: Layout) -> Self {
        // Only tokens before the last weighted target are inputs.
        let inputs: Vec<&[u32]> = sequences
            .iter()
            .map(|sequence| {
                let last = sequence.weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
                sequence.ids.get(..last).unwrap_or_default()
            })
            .collect();
        let mut packer =
            Packer { inputs: &inputs, batch: Self::default(), rows: vec![Vec::new(); inputs.len()] };
        packer.batch.sequences = sequences.len();
        packer.batch.linear_rows = inputs.iter().map(|input| input.len()).sum();
        match layout {
            Layout::Linear => {
                for index in 0..inputs.len() {
                    packer.add_tree(vec![index]);
                }
            }
            Layout::TreePacked => {
                let mut order: Vec<usize> = (0..inputs.len()).collect();
                order.sort_by_key(|index| inputs.get(*index).copied());
                packer.add_tree(order);
            }
        }
        let Packer { mut batch, rows, .. } = packer;
        batch.close_subtrees();
        batch.add_targets(sequences, &rows);
        batch
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Share of rows that sharing saved against the linear layout, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a double's precision")]
    pub fn saved_share(&self) -> f64 {
        if self.linear_rows == 0 { 0.0 } else { 1.0 - self.rows() as f64 / self.linear_rows as f64 }
    }

    fn close_subtrees(&mut self) {
        // Depth-first order puts children after their parents, so one pass from the back sees every child first.
        let mut ends: Vec<usize> = self.segments.iter().map(|segment| segment.start + segment.len).collect();
        for index in (0..self.segments.len()).rev() {
            let (Some(segment), Some(end)) = (self.segments.get_mut(index), ends.get(index).copied()) else {
                continue;
            };
            segment.subtree_end = end;
            if let Some(parent_end) = segment.parent.and_then(|parent| ends.get_mut(parent)) {
                *parent_end = end.max(*parent_end);
            }
        }
    }

    fn add_targets(&mut self, sequences: &[SequenceInput<'_>], rows: &[Vec<usize>]) {
        let mut used: Vec<(Target, usize, f32)> = Vec::new();
        for (sequence, (input, rows)) in sequences.iter().zip(rows).enumerate() {
            // Token i + 1 is predicted by row i.
            let predicted = input.ids.iter().zip(input.weights).skip(1);
            for (row, (token, weight)) in rows.iter().zip(predicted) {
                if *weight > 0.0 {
                    used.push((Target { row: *row, token: *token }, sequence, *weight));
                }
            }
        }
        let mut index: BTreeMap<Target, usize> = used.iter().map(|(target, _, _)| (*target, 0)).collect();
        for (place, slot) in index.values_mut().enumerate() {
            *slot = place;
        }
        self.uses = used
            .into_iter()
            .filter_map(|(target, sequence, weight)| {
                Some(TargetUse { target: *index.get(&target)?, sequence, weight })
            })
            .collect();
        self.targets = index.into_keys().collect();
    }
}

struct Packer<'input> {
    inputs: &'input [&'input [u32]],
    batch: PackedBatch,
    /// Row of each token of each sequence.
    rows: Vec<Vec<usize>>,
}

/// Sequences that agree on their first `depth` tokens and hang below `parent`.
struct Branch {
    members: Vec<usize>,
    depth: usize,
    parent: Option<usize>,
}

impl Packer<'_> {
    /// Adds the radix tree over `members`, which are sorted by their tokens.
    fn add_tree(&mut self, members: Vec<usize>) {
        let mut open = vec![Branch { members, depth: 0, parent: None }];
        while let Some(branch) = open.pop() {
            let end = self.common_length(&branch);
            let parent =
                if end > branch.depth { Some(self.add_segment(&branch, end)) } else { branch.parent };
            let mut children: Vec<(u32, Vec<usize>)> = Vec::new();
            for member in branch.members {
                let Some(token) = self.inputs.get(member).and_then(|input| input.get(end)) else { continue };
                match children.last_mut() {
                    Some((last, group)) if last == token => group.push(member),
                    _ => children.push((*token, vec![member])),
                }
            }
            open.extend(children.into_iter().rev().map(|(_, members)| Branch {
                members,
                depth: end,
                parent,
            }));
        }
    }

    /// Length of the longest prefix that all members share; sorted members differ most between the first and the last.
    fn common_length(&self, branch: &Branch) -> usize {
        let input = |member: Option<&usize>| {
            member.and_then(|index| self.inputs.get(*index)).copied().unwrap_or_default()
        };
        let (first, last) = (input(branch.members.first()), input(branch.members.last()));
        first.iter().zip(last).skip(branch.depth).take_while(|(left, right)| left == right).count()
            + branch.depth
    }

    fn add_segment(&mut self, branch: &Branch, end: usize) -> usize {
        let start = self.batch.tokens.len();
        let len = end - branch.depth;
        let tokens = branch
            .members
            .first()
            .and_then(|member| self.inputs.get(*member))
            .and_then(|input| input.get(branch.depth..end))
            .unwrap_or_default();
        self.batch.tokens.extend(tokens);
        self.batch.positions.extend(branch.depth..end);
        self.batch.segments.push(Segment {
            start,
            len,
            parent: branch.parent,
            position: branch.depth,
            subtree_end: start + len,
        });
        for member in &branch.members {
            if let Some(rows) = self.rows.get_mut(*member) {
                rows.extend(start..start + len);
            }
        }
        self.batch.segments.len() - 1
    }
}
