//! Direct preference optimisation (Rafailov et al., arXiv 2305.18290; specs 5.6), and its IPO variant (arXiv 2310.12036).

use serde::{Deserialize, Serialize};

/// Which function of the margin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PreferenceLoss {
    /// `-(1 - e) log sigma(beta h) - e log sigma(-beta h)`, with label smoothing `e`.
    #[default]
    Sigmoid,
    /// `(h - 1 / (2 beta))^2` with log-probabilities averaged over the completion.
    Ipo,
}

/// The loss with its constants.
#[derive(Clone, Copy, Debug)]
pub struct Preference {
    /// Which function.
    pub loss: PreferenceLoss,
    /// Strength of the pull towards the reference.
    pub beta: f64,
    /// Assumed share of swapped labels, 0 to below 0.5; sigmoid only.
    pub label_smoothing: f64,
    /// Divide every log-probability by its number of tokens first. IPO always does.
    pub length_normalized: bool,
}

/// Log-probabilities of one side of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Under the policy.
    pub policy: f64,
    /// Under the reference.
    pub reference: f64,
    /// Number of scored tokens (sum of their weights).
    pub tokens: f64,
}

/// What one pair contributes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// Value of the loss.
    pub loss: f64,
    /// Derivative by the policy's log-probability of the chosen side.
    pub by_chosen: f64,
    /// Derivative by the policy's log-probability of the rejected side.
    pub by_rejected: f64,
    /// `beta` times the log-ratio of the chosen side.
    pub reward_chosen: f64,
    /// `beta` times the log-ratio of the rejected side.
    pub reward_rejected: f64,
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Preference {
    /// Loss and derivatives of one pair.
    pub fn pair(&self, chosen: Side, rejected: Side) -> PairLoss {
        let normalized = self.length_normalized || self.loss == PreferenceLoss::Ipo;
        let scale = |side: Side| if normalized { 1.0 / side.tokens.max(f64::MIN_POSITIVE) } else { 1.0 };
        let ratio = |side: Side| (side.policy - side.reference) * scale(side);
        let margin = ratio(chosen) - ratio(rejected);
        let (loss, by_margin) = match self.loss {
            PreferenceLoss::Sigmoid => {
                let (x, smoothing) = (self.beta * margin, self.label_smoothing);
                let loss = (1.0 - smoothing) * softplus(-x) + smoothing * softplus(x);
                (loss, self.beta * (smoothing * sigmoid(x) - (1.0 - smoothing) * sigmoid(-x)))
            }
            PreferenceLoss::Ipo => {
                let distance = margin - 0.5 / self.beta;
                (distance * distance, 2.0 * distance)
            }
        };
        PairLoss {
            loss,
            by_chosen: by_margin * scale(chosen),
            by_rejected: -by_margin * scale(rejected),
            reward_chosen: self.beta * ratio(chosen),
            reward_rejected: self.beta * ratio(rejected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preference(loss: PreferenceLoss) -> Preference {
        Preference { loss, beta: 0.1, label_smoothing: 0.0, length_normalized: false }
    }

    fn side(policy: f64) -> Side {
        Side { policy, reference: -20.0, tokens: 10.0 }
    }

    #[test]
    fn equal_policy_and_reference_give_ln_two_and_no_margin() {
        let pair = preference(PreferenceLoss::Sigmoid).pair(side(-20.0), side(-20.0));
        assert!((pair.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!(pair.reward_chosen.abs() < 1e-15 && pair.reward_rejected.abs() < 1e-15);
    }

    #[test]
    fn derivatives_are_those_of_the_loss() {
        for (loss, smoothing, normalized) in [
            (PreferenceLoss::Sigmoid, 0.0, false),
            (PreferenceLoss::Sigmoid, 0.2, true),
            (PreferenceLoss::Ipo, 0.0, false),
        ] {
            let preference =
                Preference { label_smoothing: smoothing, length_normalized: normalized, ..preference(loss) };
            let value = |chosen: f64, rejected: f64| preference.pair(side(chosen), side(rejected)).loss;
            let (chosen, rejected, step) = (-18.5, -23.0, 1e-5);
            let pair = preference.pair(side(chosen), side(rejected));
            let by_chosen = (value(chosen + step, rejected) - value(chosen - step, rejected)) / (2.0 * step);
            let by_rejected =
                (value(chosen, rejected + step) - value(chosen, rejected - step)) / (2.0 * step);
            assert!((pair.by_chosen - by_chosen).abs() < 1e-8, "{loss:?}");
            assert!((pair.by_rejected - by_rejected).abs() < 1e-8, "{loss:?}");
        }
    }

    #[test]
    fn extreme_margins_stay_finite() {
        let pair = preference(PreferenceLoss::Sigmoid).pair(side(-1e6), side(1e6));
        assert!(pair.loss.is_finite() && pair.loss > 1e4);
    }
}
