//! Figures of objects as metrics: numbers that their status shows anyway, for graphs and alerts. Series go with their object.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kube::core::DynamicObject;
use prometheus::{GaugeVec, Opts, Registry};
use sealign_reconcile::port::Kind;
use serde_json::Value;

use Kind::{AlignmentRun, Benchmark, RolloutCampaign, TaskSet, TrajectoryForest};

/// Kind, field of its status, name and help of the metric.
pub const FIGURES: [(Kind, &str, &str, &str); 23] = [
    (TaskSet, "taskCount", "sealign_taskset_tasks", "Tasks of the set"),
    (TaskSet, "healthy", "sealign_taskset_healthy", "Tasks that passed their health check"),
    (TaskSet, "quarantined", "sealign_taskset_quarantined", "Tasks put aside by the health check"),
    (RolloutCampaign, "attempts", "sealign_campaign_attempts", "Attempts of the plan"),
    (RolloutCampaign, "recorded", "sealign_campaign_attempts_recorded", "Attempts that have their record"),
    (RolloutCampaign, "graded", "sealign_campaign_gradings_recorded", "Gradings that have their record"),
    (RolloutCampaign, "tokens", "sealign_campaign_tokens", "Tokens of all tries"),
    (
        RolloutCampaign,
        "attemptsPerMinute",
        "sealign_campaign_attempts_per_minute",
        "Attempts recorded a minute",
    ),
    (
        RolloutCampaign,
        "etaSeconds",
        "sealign_campaign_eta_seconds",
        "Estimated seconds until the last record",
    ),
    (TrajectoryForest, "collected", "sealign_forest_trajectories", "Trajectories collected"),
    (
        TrajectoryForest,
        "successful",
        "sealign_forest_trajectories_successful",
        "Successful trajectories after filtering",
    ),
    (TrajectoryForest, "nodes", "sealign_forest_nodes", "Nodes of all trees"),
    (TrajectoryForest, "criticalPairs", "sealign_forest_critical_pairs", "Critical pairs"),
    (
        TrajectoryForest,
        "singlePathPairs",
        "sealign_forest_single_path_pairs",
        "Critical pairs that rest on a single path",
    ),
    (TrajectoryForest, "sftExamples", "sealign_forest_sft_examples", "Examples for supervised fine-tuning"),
    (AlignmentRun, "loss", "sealign_training_loss", "Loss of the training step at work"),
    (AlignmentRun, "rewardMargin", "sealign_training_reward_margin", "Reward margin of the DPO step at work"),
    (AlignmentRun, "tokensPerSecond", "sealign_training_tokens_per_second", "Tokens trained on a second"),
    (Benchmark, "total", "sealign_benchmark_tasks", "Tasks measured"),
    (Benchmark, "resolved", "sealign_benchmark_resolved", "Tasks resolved"),
    (Benchmark, "empty", "sealign_benchmark_empty", "Tasks whose patch is empty"),
    (Benchmark, "infra", "sealign_benchmark_infra", "Tasks without a result for reasons of infrastructure"),
    (Benchmark, "resolvedPercent", "sealign_benchmark_resolved_percent", "Tasks resolved, in percent"),
];
/// Name and help of the one figure that is a map.
pub const OUTCOMES: (&str, &str) = ("sealign_campaign_outcomes", "Recorded attempts by outcome");

/// Kind, namespace and name of an object.
type Key = (Kind, String, String);

/// The metrics of [`FIGURES`].
pub struct Figures {
    gauges: BTreeMap<&'static str, GaugeVec>,
    outcomes: GaugeVec,
    /// Outcomes that an object shows.
    shown: Mutex<BTreeMap<Key, Vec<String>>>,
}

impl Figures {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics have one name, a fault of ours.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let mut gauges = BTreeMap::new();
        for (_, _, name, help) in FIGURES {
            gauges.insert(name, gauge(name, help, &["namespace", "name"])?);
        }
        let outcomes = gauge(OUTCOMES.0, OUTCOMES.1, &["namespace", "name", "outcome"])?;
        Ok(Self { gauges, outcomes, shown: Mutex::default() })
    }

    /// Shows what the status of an object says in place of what it said, or nothing when it is gone.
    pub fn show(&self, kind: Kind, object: &DynamicObject, is_gone: bool) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let status = object.data.get("status").filter(|_| !is_gone);
        for (_, field, metric, _) in FIGURES.iter().filter(|figure| figure.0 == kind) {
            let Some(gauge) = self.gauges.get(metric) else { continue };
            match status.and_then(|status| number(status.get(field)?)) {
                Some(value) => gauge.with_label_values(&[namespace, name]).set(value),
                // A series that is not there is as good as removed.
                None => drop(gauge.remove_label_values(&[namespace, name])),
            }
        }
        let outcomes = status.and_then(|status| status.get("outcomes")?.as_object());
        let now: BTreeMap<String, f64> = outcomes
            .into_iter()
            .flatten()
            .filter_map(|(outcome, count)| Some((outcome.clone(), number(count)?)))
            .collect();
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in shown.remove(&key).unwrap_or_default() {
            if !now.contains_key(&outcome) {
                drop(self.outcomes.remove_label_values(&[namespace, name, &outcome]));
            }
        }
        for (outcome, count) in &now {
            self.outcomes.with_label_values(&[namespace, name, outcome]).set(*count);
        }
        if !now.is_empty() {
            shown.insert(key, now.into_keys().collect());
        }
    }
}

/// Counts are numbers and decimals are texts in a status.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_follow_the_status_and_go_with_the_object() {
        let registry = Registry::new();
        let figures = Figures::new(&registry).unwrap();
        let campaign = |status: &Value| -> DynamicObject {
            serde_json::from_value(
                json!({ "metadata": { "name": "c", "namespace": "demo" }, "status": status }),
            )
            .unwrap()
        };
        let series = || registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        let running = campaign(&json!({ "attempts": 8, "attemptsPerMinute": "1.5",
            "outcomes": { "Resolved": 2, "Infra": 1 } }));
        figures.show(RolloutCampaign, &running, false);
        assert_eq!(series(), 4);
        let rate = figures.gauges["sealign_campaign_attempts_per_minute"].with_label_values(&["demo", "c"]);
        assert!((rate.get() - 1.5).abs() < 1e-12);
        figures.show(
            RolloutCampaign,
            &campaign(&json!({ "attempts": 8, "outcomes": { "Resolved": 3 } })),
            false,
        );
        assert_eq!(series(), 2);
        figures.show(RolloutCampaign, &running, true);
        assert_eq!(series(), 0);
    }

    #[test]
    fn every_figure_is_a_field_of_its_kind() {
        for definition in sealign_crds::generate::definitions() {
            let kind = Kind::parse(&definition.spec.names.kind).unwrap();
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            let fields = schema.pointer("/openAPIV3Schema/properties/status/properties").unwrap();
            for (_, field, metric, _) in FIGURES.iter().filter(|figure| figure.0 == kind) {
                assert!(fields.get(field).is_some(), "{metric}: {kind:?} has no status.{field}");
            }
        }
    }
}
