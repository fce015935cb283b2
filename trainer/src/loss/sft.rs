//! Supervised loss: weighted negative log-likelihood (specs 5.5).

use serde::{Deserialize, Serialize};

/// What the sum over tokens is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reduction {
    /// The loss weights of the whole optimiser step: a mean over unmasked tokens.
    #[default]
    TokenMean,
    /// The number of trajectories of the step: a mean of sums, as the paper's formula reads.
    TrajectorySum,
}

impl Reduction {
    /// The divisor for a step with the given total weight and number of trajectories.
    pub fn divisor(self, total_weight: f64, trajectories: usize) -> f64 {
        match self {
            Self::TokenMean if total_weight > 0.0 => total_weight,
            Self::TokenMean => 1.0,
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
            Self::TrajectorySum => trajectories.max(1) as f64,
        }
    }
}
