//! Steps whose gradient is out of all proportion are left out, and a run of them ends the training.

use serde::{Deserialize, Serialize};

/// Norms that the median is over.
const WINDOW: usize = 32;

/// Norms that there must be before one can be called a spike.
const KNOWN_MIN: usize = 8;

/// Spikes in a row after which the run is given up: then it is the model that has changed, not the data.
pub const IN_A_ROW_MAX: usize = 5;

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The optimiser takes it.
    Apply,
    /// It is left out.
    Skip,
    /// The run ends.
    GiveUp,
}

/// Gradient norms of the last steps. Part of a run's state, so that a resumed run judges alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpikeGuard {
    recent: Vec<f64>,
    in_a_row: usize,
    /// Steps left out so far.
    pub skipped: usize,
}

impl SpikeGuard {
    /// Judges a step by its gradient norm; `factor` times the median is the limit, `None` lets all pass.
    pub fn judge(&mut self, norm: f64, factor: Option<f64>) -> Verdict {
        let Some(factor) = factor else { return Verdict::Apply };
        if self.recent.len() >= KNOWN_MIN && self.median().is_some_and(|median| norm > factor * median) {
            self.in_a_row += 1;
            self.skipped += 1;
            return if self.in_a_row >= IN_A_ROW_MAX { Verdict::GiveUp } else { Verdict::Skip };
        }
        self.in_a_row = 0;
        if self.recent.len() >= WINDOW {
            self.recent.remove(0);
        }
        self.recent.push(norm);
        Verdict::Apply
    }

    fn median(&self) -> Option<f64> {
        let mut sorted = self.recent.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_spike_is_left_out_and_a_run_of_them_ends_the_training() {
        let mut guard = SpikeGuard::default();
        assert_eq!(guard.judge(500.0, Some(4.0)), Verdict::Apply, "nothing is known yet");
        for _ in 0..20 {
            assert_eq!(guard.judge(1.0, Some(4.0)), Verdict::Apply);
        }
        assert_eq!(guard.judge(9.0, Some(4.0)), Verdict::Skip);
        assert_eq!(guard.judge(1.1, Some(4.0)), Verdict::Apply);
        for _ in 1..IN_A_ROW_MAX {
            assert_eq!(guard.judge(9.0, Some(4.0)), Verdict::Skip);
        }
        assert_eq!(guard.judge(9.0, Some(4.0)), Verdict::GiveUp);
        assert_eq!(guard.skipped, 1 + IN_A_ROW_MAX);
    }

    #[test]
    fn without_a_factor_everything_passes() {
        let mut guard = SpikeGuard::default();
        for norm in [1.0, 1.0, 1e9, f64::MAX] {
            assert_eq!(guard.judge(norm, None), Verdict::Apply);
        }
    }
}
