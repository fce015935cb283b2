//! What one model did, in counts and rates.

use std::collections::BTreeMap;

use sealign_manifest::record::Outcome;
use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, ModelAttempts};
use crate::statistics::{pass_at_k, percent_tenths, real, wilson};

/// A count out of a number, with its 95 % Wilson interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Numerator.
    pub count: u64,
    /// Denominator.
    pub of: u64,
    /// Percentage, rounded to one decimal; 0 when `of` is 0.
    pub percent: f64,
    /// Lower end of the interval in percent, one decimal.
    pub low: f64,
    /// Upper end of the interval in percent, one decimal.
    pub high: f64,
}

impl Rate {
    /// The rate of `count` out of `of`.
    pub fn new(count: u64, of: u64) -> Self {
        let (low, high) = wilson(count, of);
        let percent = real(percent_tenths(count, of)) / 10.0;
        Self { count, of, percent, low: one_decimal(100.0 * low), high: one_decimal(100.0 * high) }
    }

    /// Percentage in tenths, as the paper rounds it.
    pub fn tenths(&self) -> u64 {
        percent_tenths(self.count, self.of)
    }

    /// For example `64.4 % (77/120, 55.3-72.2)`.
    pub fn text(&self) -> String {
        if self.of == 0 {
            return "none counted".to_owned();
        }
        format!("{:.1} % ({}/{}, {:.1}-{:.1})", self.percent, self.count, self.of, self.low, self.high)
    }
}

pub(crate) fn one_decimal(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// One row of the before/after table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelSummary {
    /// The model.
    pub name: String,
    /// Attempts of any kind.
    pub attempts: u64,
    /// Attempts in the denominators: all but `infra` and `not graded`.
    pub counted: u64,
    /// Attempts by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// The tests pass.
    pub resolved: Rate,
    /// Nothing is left after the path policy.
    pub empty: Rate,
    /// Three equal actions in a row.
    pub stuck: Rate,
    /// See [`Attempt::is_invalid`].
    pub invalid: Rate,
    /// Ran into their own memory, disk or process limit.
    pub limit: Rate,
    /// Reached the test runner.
    pub tampered: Rate,
    /// Infrastructure failures: in no other rate.
    pub infra: u64,
    /// Mean over tasks of the chance that one attempt passes, in percent with one decimal.
    pub pass_at_1: f64,
    /// Mean model turns of a counted attempt, one decimal.
    pub mean_turns: f64,
    /// Refused turns, of all turns of counted attempts.
    pub invalid_turns: u64,
    /// All turns of counted attempts.
    pub turns: u64,
    /// Tokens of counted attempts.
    pub tokens: u64,
}

impl ModelSummary {
    /// Sums up the attempts of a model.
    pub fn new(model: &ModelAttempts) -> Self {
        let counted: Vec<&Attempt> = model.attempts.iter().filter(|attempt| attempt.is_counted()).collect();
        let of = length(counted.len());
        let rate = |holds: fn(&Attempt) -> bool| {
            Rate::new(length(counted.iter().filter(|attempt| holds(attempt)).count()), of)
        };
        let mut outcomes = BTreeMap::new();
        for attempt in &model.attempts {
            *outcomes.entry(attempt.outcome).or_insert(0) += 1;
        }
        let turns: u64 = counted.iter().map(|attempt| attempt.turns).sum();
        Self {
            name: model.name.clone(),
            attempts: length(model.attempts.len()),
            counted: of,
            resolved: rate(Attempt::is_resolved),
            empty: rate(|attempt| attempt.is_empty),
            stuck: rate(|attempt| attempt.is_stuck),
            invalid: rate(|attempt| attempt.is_invalid),
            limit: rate(|attempt| attempt.outcome == Outcome::Limit),
            tampered: rate(|attempt| attempt.outcome == Outcome::Tampered),
            infra: outcomes.get(&Outcome::Infra).copied().unwrap_or(0),
            outcomes,
            pass_at_1: one_decimal(100.0 * mean_pass_at(&counted, 1).unwrap_or(0.0)),
            mean_turns: if of == 0 { 0.0 } else { one_decimal(real(turns) / real(of)) },
            invalid_turns: counted.iter().map(|attempt| attempt.invalid_turns).sum(),
            turns,
            tokens: counted.iter().map(|attempt| attempt.tokens).sum(),
        }
    }
}

/// pass@k over the tasks that have at least `k` attempts; `None` when none has.
pub fn mean_pass_at(attempts: &[&Attempt], k: u64) -> Option<f64> {
    let mut tasks: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for attempt in attempts {
        let (tries, passes) = tasks.entry(&attempt.task).or_default();
        *tries += 1;
        *passes += u64::from(attempt.is_resolved());
    }
    let shares: Vec<f64> =
        tasks.values().filter_map(|(tries, passes)| pass_at_k(*tries, *passes, k)).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / real(length(shares.len())))
}

pub(crate) fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
