//! Which examples make one optimiser step, and which tasks are kept for validation.
//!
//! Every order is a function of seed and epoch alone, so a resumed run needs no random state. Batches mix lengths: examples
//! come in random order up to a budget, never bucketed by length, because buckets give short examples fewer steps.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Why the data cannot be split.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SplitError {
    /// No task fell into the validation share.
    #[error(
        "none of the {tasks} tasks fell into the validation share of {share}; raise validationShare (validationPercent in an \
         AlignmentRun) until it gives one, add tasks, or change the seed"
    )]
    NoValidationTask {
        /// Number of distinct tasks.
        tasks: usize,
        /// The share as text.
        share: String,
    },
    /// Every task fell into the validation share.
    #[error(
        "all {tasks} tasks fell into the validation share of {share}; lower validationShare (validationPercent in an \
         AlignmentRun) or add tasks"
    )]
    NoTrainingTask {
        /// Number of distinct tasks.
        tasks: usize,
        /// The share as text.
        share: String,
    },
}

/// How many examples make one optimiser step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepSize {
    /// A fixed number of examples.
    Examples(usize),
    /// As many examples as fit the budget of tokens, at least one. Tokens count before sharing, so that the layout does not
    /// change what a step is.
    Tokens(usize),
}

/// What is shuffled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Grouping {
    /// Single examples.
    #[default]
    Example,
    /// Tasks; the examples of a task stay together, which lets the trie share most.
    Task,
}

/// Seeded hash of a text, uniform over `u64`.
fn hash(domain: &str, seed: u64, numbers: &[u64], text: &str) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(domain.as_bytes());
    hasher.update(seed.to_le_bytes());
    for number in numbers {
        hasher.update(number.to_le_bytes());
    }
    hasher.update(text.as_bytes());
    let digest = hasher.finalize();
    digest.iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// A permutation of `0..count` that depends on nothing but seed and epoch.
pub fn shuffled(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<(u64, usize)> =
        (0..count).map(|index| (hash("order", seed, &[epoch, index as u64], ""), index)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, index)| index).collect()
}

/// The steps of one epoch: example indices in the order of their use.
///
/// `lengths` and `tasks` describe the examples; both are equally long.
pub fn epoch_steps(
    seed: u64,
    epoch: u64,
    lengths: &[usize],
    tasks: &[&str],
    grouping: Grouping,
    size: StepSize,
) -> Vec<Vec<usize>> {
    let order = match grouping {
        Grouping::Example => shuffled(seed, epoch, lengths.len()),
        Grouping::Task => {
            let mut by_task: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (index, task) in tasks.iter().enumerate() {
                by_task.entry(task).or_default().push(index);
            }
            let groups: Vec<Vec<usize>> = by_task.into_values().collect();
            let order = shuffled(seed, epoch, groups.len());
            order.into_iter().filter_map(|group| groups.get(group)).flatten().copied().collect()
        }
    };
    fill(&order, lengths, size)
}

/// Cuts `order` into consecutive groups; the last may be smaller.
pub fn fill(order: &[usize], lengths: &[usize], size: StepSize) -> Vec<Vec<usize>> {
    let mut steps: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0_usize;
    for index in order {
        let length = lengths.get(*index).copied().unwrap_or(0);
        match steps.last_mut() {
            Some(step)
                if match size {
                    StepSize::Examples(count) => step.len() < count,
                    StepSize::Tokens(budget) => tokens + length <= budget,
                } =>
            {
                step.push(*index);
                tokens += length;
            }
            _ => {
                steps.push(vec![*index]);
                tokens = length;
            }
        }
    }
    steps
}

/// Validation tasks by seeded hash (specs 5.7): a task's place does not depend on which other tasks are there.
pub fn validation_tasks<'task>(
    tasks: impl Iterator<Item = &'task str>,
    share: f64,
    seed: u64,
) -> Result<BTreeSet<&'task str>, SplitError> {
    let tasks: BTreeSet<&str> = tasks.collect();
    #[expect(clippy::cast_precision_loss, reason = "a hash needs no more than a double's precision here")]
    let chosen: BTreeSet<&str> = tasks
        .iter()
        .copied()
        .filter(|task| (hash("validation", seed, &[], task) as f64) < share * u64::MAX as f64)
        .collect();
    if chosen.is_empty() {
        return Err(SplitError::NoValidationTask { tasks: tasks.len(), share: share.to_string() });
    }
    if chosen.len() == tasks.len() {
        return Err(SplitError::NoTrainingTask { tasks: tasks.len(), share: share.to_string() });
    }
    Ok(chosen)
}
