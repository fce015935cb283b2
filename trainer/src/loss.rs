//! Losses as functions of log-probabilities.
//!
//! A loss here never sees a tensor: it gets the log-probability of each prediction of a packed batch and returns its value
//! with the derivative by each of them, which [`crate::model::head`] turns into gradients. Sums are in double precision.

pub mod dpo;
pub mod sft;

use sealign_batch::PackedBatch;

/// Weighted sum of log-probabilities per sequence, in input order.
pub fn sequence_log_probs(batch: &PackedBatch, log_probs: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; batch.sequences];
    for target_use in &batch.uses {
        if let (Some(sum), Some(log_prob)) =
            (sums.get_mut(target_use.sequence), log_probs.get(target_use.target))
        {
            *sum += f64::from(target_use.weight) * f64::from(*log_prob);
        }
    }
    sums
}

/// Spreads one derivative per sequence over the predictions that the sequence is made of.
pub fn spread(batch: &PackedBatch, per_sequence: &[f64]) -> Vec<f32> {
    let mut coefficients = vec![0.0_f64; batch.targets.len()];
    for target_use in &batch.uses {
        if let (Some(coefficient), Some(derivative)) =
            (coefficients.get_mut(target_use.target), per_sequence.get(target_use.sequence))
        {
            *coefficient += f64::from(target_use.weight) * derivative;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "gradients are single precision")]
    coefficients.into_iter().map(|coefficient| coefficient as f32).collect()
}

/// Sum of the loss weights of each sequence.
pub fn sequence_weights(batch: &PackedBatch) -> Vec<f64> {
    let mut sums = vec![0.0; batch.sequences];
    for target_use in &batch.uses {
        if let Some(sum) = sums.get_mut(target_use.sequence) {
            *sum += f64::from(target_use.weight);
        }
    }
    sums
}
