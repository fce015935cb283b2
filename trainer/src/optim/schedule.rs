//! Learning-rate schedules: linear warm-up, then a linear or cosine decay to a floor.

use serde::{Deserialize, Serialize};

/// Shape of the decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScheduleKind {
    /// A straight line.
    #[default]
    Linear,
    /// Half a cosine.
    Cosine,
    /// No decay.
    Constant,
}

/// A schedule over a known number of steps.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Shape of the decay.
    pub kind: ScheduleKind,
    /// Learning rate at the end of the warm-up.
    pub peak: f64,
    /// Learning rate after the last step, as a share of the peak.
    pub floor_share: f64,
    /// Steps of the warm-up.
    pub warmup_steps: usize,
    /// Steps in all.
    pub total_steps: usize,
}

impl Schedule {
    /// Learning rate of the step with this index, from 0.
    ///
    /// transformers' schedulers give the first of a warm-up's steps a rate of 0, which would waste a good part of the short
    /// runs made here; this warm-up begins one notch higher. Without a warm-up both agree.
    #[expect(clippy::cast_precision_loss, reason = "step counts stay far below 2^53")]
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let remaining = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / remaining).min(1.0);
        let decayed = match self.kind {
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ScheduleKind::Constant => 1.0,
        };
        self.peak * (self.floor_share + (1.0 - self.floor_share) * decayed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, floor_share: f64) -> Schedule {
        Schedule { kind, peak: 2.0, floor_share, warmup_steps: 4, total_steps: 20 }
    }

    #[test]
    fn warm_up_is_linear_to_the_peak_and_its_first_step_counts() {
        let schedule = schedule(ScheduleKind::Linear, 0.0);
        let rates: Vec<f64> = (0..5).map(|step| schedule.rate(step)).collect();
        for (rate, expected) in rates.into_iter().zip([0.4, 0.8, 1.2, 1.6, 2.0]) {
            assert!((rate - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn decays_end_at_the_floor() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            assert!((schedule(kind, 0.05).rate(20) - 0.1).abs() < 1e-12);
            assert!((schedule(kind, 0.0).rate(12) - 1.0).abs() < 1e-12);
        }
        assert!((schedule(ScheduleKind::Constant, 0.0).rate(19) - 2.0).abs() < 1e-12);
    }
}
