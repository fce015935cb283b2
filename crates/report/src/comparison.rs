//! Paired comparison of two models on the tasks that both were counted on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, ModelAttempts};
use crate::statistics::{mcnemar_exact, percent_tenths, relative_gain_tenths};
use crate::summary::Rate;

/// Whether a change from one model to another shows on the same tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The model before.
    pub from: String,
    /// The model after.
    pub to: String,
    /// Which tasks: empty for all of them, or a family group.
    pub on: String,
    /// Tasks with a counted first attempt of both.
    pub tasks: u64,
    /// Tasks left out because one side has no counted attempt.
    pub unpaired: u64,
    /// Resolved before, of the paired tasks.
    pub before: Rate,
    /// Resolved after, of the paired tasks.
    pub after: Rate,
    /// Tasks resolved only after.
    pub wins: u64,
    /// Tasks resolved only before.
    pub losses: u64,
    /// Two-sided p-value of the exact McNemar test.
    pub p_value: f64,
    /// Relative gain in tenths of a percent by the paper's rule, where the rate before is not 0.
    pub relative_gain_tenths: Option<i64>,
}

/// The level below which a difference is called shown.
pub const LEVEL: f64 = 0.05;

impl Comparison {
    /// Compares the first attempts of two models, task by task; a task whose first attempt is not counted on one side is
    /// unpaired.
    pub fn new(
        from: &ModelAttempts,
        to: &ModelAttempts,
        on: &str,
        belongs: impl Fn(&Attempt) -> bool,
    ) -> Self {
        let first = |model: &ModelAttempts| {
            let mut tasks: BTreeMap<String, Option<bool>> = BTreeMap::new();
            for attempt in model.attempts.iter().filter(|attempt| belongs(attempt)) {
                let result = attempt.is_counted().then(|| attempt.is_resolved());
                tasks.entry(attempt.task.clone()).or_insert(result);
            }
            tasks
        };
        let (before, after) = (first(from), first(to));
        let pairs: Vec<(bool, bool)> = before
            .iter()
            .filter_map(|(task, was)| Some(((*was)?, after.get(task).copied().flatten()?)))
            .collect();
        let count = |wanted: fn(&(bool, bool)) -> bool| {
            crate::summary::length(pairs.iter().filter(|pair| wanted(pair)).count())
        };
        let tasks = crate::summary::length(pairs.len());
        let (wins, losses) = (count(|(was, is)| !was && *is), count(|(was, is)| *was && !is));
        let (resolved_before, resolved_after) = (count(|(was, _)| *was), count(|(_, is)| *is));
        let all: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        Self {
            from: from.name.clone(),
            to: to.name.clone(),
            on: on.to_owned(),
            tasks,
            unpaired: crate::summary::length(all.len()) - tasks,
            before: Rate::new(resolved_before, tasks),
            after: Rate::new(resolved_after, tasks),
            wins,
            losses,
            p_value: mcnemar_exact(wins, losses),
            relative_gain_tenths: relative_gain_tenths(
                percent_tenths(resolved_before, tasks),
                percent_tenths(resolved_after, tasks),
            ),
        }
    }

    /// In words, without claiming more than the test shows.
    pub fn reading(&self) -> &'static str {
        match (self.p_value < LEVEL, self.wins > self.losses) {
            (true, true) => "better",
            (true, false) => "worse",
            (false, _) => "no difference shown",
        }
    }
}

/// A p-value for people: three decimals, or a power of ten below 0.001.
pub fn p_text(p: f64) -> String {
    if p >= 0.001 { format!("{p:.3}") } else { format!("{p:.0e}") }
}
