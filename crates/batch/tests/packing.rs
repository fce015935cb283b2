//! The packed layouts and the order of examples.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

use std::collections::BTreeSet;

use sealign_batch::order::{Grouping, SplitError, StepSize, epoch_steps, shuffled, validation_tasks};
use sealign_batch::{Layout, PackedBatch, SequenceInput, Target};

/// Sequences whose loss starts at the given index.
fn pack(sequences: &[(&[u32], usize)], layout: Layout) -> PackedBatch {
    let weights: Vec<Vec<f32>> = sequences
        .iter()
        .map(|(ids, from)| (0..ids.len()).map(|index| if index >= *from { 1.0 } else { 0.0 }).collect())
        .collect();
    let inputs: Vec<SequenceInput<'_>> =
        sequences.iter().zip(&weights).map(|((ids, _), weights)| SequenceInput { ids, weights }).collect();
    PackedBatch::pack(&inputs, layout)
}

/// Rebuilds, for every sequence, the (context, token, weight) triples that its loss is made of.
fn predictions(batch: &PackedBatch) -> BTreeSet<(usize, Vec<u32>, u32, u32)> {
    batch
        .uses
        .iter()
        .map(|target_use| {
            let Target { row, token } = batch.targets[target_use.target];
            let mut at = batch
                .segments
                .iter()
                .position(|segment| (segment.start..segment.start + segment.len).contains(&row));
            let mut context = Vec::new();
            let mut end = row + 1;
            while let Some(index) = at {
                let segment = batch.segments[index];
                let mut part = batch.tokens[segment.start..end].to_vec();
                part.extend(context);
                context = part;
                at = segment.parent;
                end = at.map_or(0, |parent| batch.segments[parent].start + batch.segments[parent].len);
            }
            (target_use.sequence, context, token, target_use.weight.to_bits())
        })
        .collect()
}

#[test]
fn a_shared_prefix_appears_once_and_branches_hang_below_it() {
    let batch = pack(&[(&[1, 2, 3, 4, 5], 3), (&[1, 2, 3, 6, 7, 8], 3)], Layout::TreePacked);
    assert_eq!(batch.tokens, [1, 2, 3, 4, 6, 7]);
    assert_eq!(batch.positions, [0, 1, 2, 3, 3, 4]);
    assert_eq!(
        batch.segments.iter().map(|segment| segment.parent).collect::<Vec<_>>(),
        [None, Some(0), Some(0)]
    );
    assert_eq!(batch.segments[0].subtree_end, 6);
    // The last prefix row predicts the first token of both branches.
    assert_eq!(batch.targets.iter().filter(|target| target.row == 2).count(), 2);
    assert_eq!(batch.linear_rows, 9);
    assert!((batch.saved_share() - 1.0 / 3.0).abs() < 1e-12);
}

#[test]
fn both_layouts_make_the_same_predictions() {
    let sequences: [(&[u32], usize); 6] = [
        (&[1, 2, 3, 4, 5, 6], 2),
        (&[1, 2, 3, 4, 9], 3),
        (&[1, 2, 3, 4, 5, 6], 4),
        (&[1, 2], 1),
        (&[7, 8, 9], 1),
        (&[1, 2, 3], 2),
    ];
    let linear = pack(&sequences, Layout::Linear);
    let tree = pack(&sequences, Layout::TreePacked);
    assert_eq!(predictions(&linear), predictions(&tree));
    assert!(tree.rows() < linear.rows());
    assert_eq!(tree.linear_rows, linear.rows());
}

#[test]
fn subtrees_are_contiguous() {
    let sequences: [(&[u32], usize); 5] =
        [(&[1, 2, 3, 4], 1), (&[1, 2, 5, 6], 1), (&[1, 2, 5, 7], 1), (&[1, 8, 8], 1), (&[2, 1, 1], 1)];
    let batch = pack(&sequences, Layout::TreePacked);
    for (index, segment) in batch.segments.iter().enumerate() {
        for (other, candidate) in batch.segments.iter().enumerate() {
            let mut at = Some(other);
            let mut descends = false;
            while let Some(current) = at {
                descends |= current == index;
                at = batch.segments[current].parent;
            }
            let inside =
                candidate.start >= segment.start && candidate.start + candidate.len <= segment.subtree_end;
            assert_eq!(descends, inside, "segment {other} below {index}");
        }
    }
}

#[test]
fn a_sequence_without_loss_gets_no_rows() {
    assert_eq!(pack(&[(&[1, 2, 3], 3)], Layout::TreePacked).rows(), 0);
    assert_eq!(pack(&[], Layout::Linear).rows(), 0);
}

#[test]
fn an_epoch_uses_every_example_once_and_epochs_differ() {
    let lengths = [5, 9, 2, 7, 7, 30, 1];
    let tasks = ["a", "b", "a", "c", "b", "c", "a"];
    for grouping in [Grouping::Example, Grouping::Task] {
        let steps = epoch_steps(1, 0, &lengths, &tasks, grouping, StepSize::Tokens(12));
        let mut all: Vec<usize> = steps.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
        for step in &steps {
            let tokens: usize = step.iter().map(|index| lengths[*index]).sum();
            assert!(tokens <= 12 || step.len() == 1);
        }
    }
    assert_ne!(shuffled(1, 0, 50), shuffled(1, 1, 50));
    assert_ne!(shuffled(1, 0, 50), shuffled(2, 0, 50));
    assert_eq!(shuffled(1, 0, 50), shuffled(1, 0, 50));
    assert!(epoch_steps(1, 0, &lengths, &tasks, Grouping::Example, StepSize::Examples(3)).len() == 3);
}

#[test]
fn a_tasks_place_in_the_split_does_not_depend_on_other_tasks() {
    let names: Vec<String> = (0..400).map(|index| format!("task-{index}")).collect();
    let all = validation_tasks(names.iter().map(String::as_str), 0.05, 7).unwrap();
    assert!((8..=40).contains(&all.len()), "{} of 400", all.len());
    let half = validation_tasks(names.iter().take(200).map(String::as_str), 0.05, 7).unwrap();
    let expected: BTreeSet<&str> =
        all.into_iter().filter(|task| names[..200].iter().any(|name| name == task)).collect();
    assert_eq!(half, expected);
}

#[test]
fn a_split_without_a_validation_task_names_the_remedy() {
    let error = validation_tasks(["only"].into_iter(), 1e-9, 0).unwrap_err();
    assert!(matches!(error, SplitError::NoValidationTask { tasks: 1, .. }));
    assert!(error.to_string().contains("raise validationShare"));
    assert!(matches!(validation_tasks(["only"].into_iter(), 1.0, 0), Err(SplitError::NoTrainingTask { .. })));
}
