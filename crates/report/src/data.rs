//! What a report says beside the benchmark: training data, training, cost, provenance.

use serde::{Deserialize, Serialize};

use crate::statistics::real;
use crate::summary::length;

/// The paper's Table 1 for the data that the model was aligned on. Reads what `sealign forest --output json` prints;
/// fields that are missing there are left out of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataStatistics {
    /// Tasks with at least one kept rollout.
    pub instances: Option<u64>,
    /// Rollouts before cleaning.
    pub collected: Option<u64>,
    /// Rollouts after cleaning.
    pub after_filtering: Option<u64>,
    /// Kept rollouts that succeeded.
    pub successful: Option<u64>,
    /// Kept rollouts that failed.
    pub wrong: Option<u64>,
    /// Mean messages of a kept rollout.
    pub average_path_messages: Option<f64>,
    /// Mean actions of a kept rollout.
    pub average_path_actions: Option<f64>,
    /// Action nodes of all trees.
    pub nodes: Option<u64>,
    /// Nodes with two or more children.
    pub branch_points: Option<u64>,
    /// Decisions whose best and worst child differ by more than one half.
    pub critical_decision_points: Option<u64>,
    /// Preference pairs.
    pub critical_pairs: Option<u64>,
}

impl DataStatistics {
    /// The rows of the table that are known, in the paper's order.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let whole = |value: Option<u64>| value.map(|number| number.to_string());
        let mean = |value: Option<f64>| value.map(|number| format!("{number:.1}"));
        let rows = [
            ("tasks", whole(self.instances)),
            ("rollouts collected", whole(self.collected)),
            ("rollouts after filtering", whole(self.after_filtering)),
            ("successful rollouts", whole(self.successful)),
            ("wrong rollouts", whole(self.wrong)),
            ("average path length (messages)", mean(self.average_path_messages)),
            ("average path length (actions)", mean(self.average_path_actions)),
            ("nodes", whole(self.nodes)),
            ("branch points", whole(self.branch_points)),
            ("critical decision points", whole(self.critical_decision_points)),
            ("critical pairs", whole(self.critical_pairs)),
        ];
        rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// One training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainingStage {
    /// Name, for example `sft` or `dpo-0`.
    pub name: String,
    /// Optimiser steps.
    pub steps: u64,
    /// Figures in the order to show them, for example `loss` and `0.41`.
    pub figures: Vec<(String, String)>,
}

/// What attempts cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// What was measured, for example `scripted rollouts`.
    pub what: String,
    /// Attempts measured.
    pub attempts: u64,
    /// CPU seconds of all of them, every process included.
    pub cpu_seconds: f64,
    /// Wall seconds for all of them, at the parallelism of the run.
    pub wall_seconds: f64,
}

impl Cost {
    /// For example `0.110 CPU-s and 0.062 s of wall time an attempt`.
    pub fn text(&self) -> String {
        if self.attempts == 0 {
            return "no attempts".to_owned();
        }
        let each = |seconds: f64| seconds / real(self.attempts);
        format!(
            "{:.3} CPU-s and {:.3} s of wall time an attempt",
            each(self.cpu_seconds),
            each(self.wall_seconds)
        )
    }
}

/// A thing that the report rests on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// What it is, for example `evaluation tasks`.
    pub name: String,
    /// Its digest, or another exact name of it.
    pub digest: String,
}

/// Mean of a list of rates in percent: for tables over seeds.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / real(length(values.len())))
}
