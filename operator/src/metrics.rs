//! Metrics, under the names that controller-runtime gives them, so that stock dashboards work. Labels are closed sets and
//! object names; series of an object go with it. What cannot be measured truly (the depth of kube's queue) is left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::core::DynamicObject;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
use sealign_reconcile::Outcome;
use sealign_reconcile::port::Kind;

/// Conditions of an object as last shown: type and status.
type Shown = Vec<(String, String)>;

/// All metrics of the operator.
pub struct Metrics {
    registry: Registry,
    total: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
    active: IntGaugeVec,
    concurrency: IntGaugeVec,
    commands: IntCounterVec,
    status_writes: IntCounterVec,
    leader: IntGaugeVec,
    conditions: IntGaugeVec,
    shown: Mutex<BTreeMap<(Kind, String, String), Shown>>,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics have one name, a fault of ours.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let name = "controller_runtime_reconcile_time_seconds";
        let options = HistogramOpts::new(name, "Length of time per reconciliation per controller")
            .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]);
        let seconds = HistogramVec::new(options, &["controller"])?;
        registry.register(Box::new(seconds.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build = gauge("sealign_build_info", "Always 1; the version is a label", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let total = "controller_runtime_reconcile_total";
        let errors = "controller_runtime_reconcile_errors_total";
        let active = "controller_runtime_active_workers";
        let most = "controller_runtime_max_concurrent_reconciles";
        Ok(Self {
            total: counter(
                total,
                "Total number of reconciliations per controller",
                &["controller", "result"],
            )?,
            errors: counter(errors, "Total number of reconciliation errors per controller", &["controller"])?,
            active: gauge(active, "Number of currently used workers per controller", &["controller"])?,
            concurrency: gauge(
                most,
                "Maximum number of concurrent reconciles per controller",
                &["controller"],
            )?,
            commands: counter(
                "sealign_commands_total",
                "Writes to cluster and store that reconciles made",
                &["controller"],
            )?,
            status_writes: counter("sealign_status_writes_total", "Status writes", &["controller"])?,
            leader: gauge(
                "leader_election_master_status",
                "Whether this replica holds the lease",
                &["name"],
            )?,
            conditions: gauge(
                "sealign_resource_condition",
                "Conditions of objects; 1 for the status that a condition has",
                &["kind", "namespace", "name", "type", "status"],
            )?,
            seconds,
            registry,
            shown: Mutex::default(),
        })
    }

    /// A reconcile begins.
    pub fn begun(&self, kind: Kind) {
        self.active.with_label_values(&[kind.plural()]).inc();
    }

    /// A reconcile has ended.
    pub fn ended(&self, kind: Kind, took: Duration, outcome: &Outcome) {
        let controller = kind.plural();
        let result = match (&outcome.error, outcome.requeue) {
            (Some(_), _) => "error",
            (None, Some(_)) => "requeue_after",
            (None, None) => "success",
        };
        self.active.with_label_values(&[controller]).dec();
        self.total.with_label_values(&[controller, result]).inc();
        self.seconds.with_label_values(&[controller]).observe(took.as_secs_f64());
        self.commands.with_label_values(&[controller]).inc_by(outcome.commands as u64);
        self.status_writes.with_label_values(&[controller]).inc_by(u64::from(outcome.wrote_status));
        if outcome.error.is_some() {
            self.errors.with_label_values(&[controller]).inc();
        }
    }

    /// The bound of a controller.
    pub fn concurrency(&self, kind: Kind, concurrency: u16) {
        self.concurrency.with_label_values(&[kind.plural()]).set(i64::from(concurrency));
    }

    /// Whether we hold the lease.
    pub fn leader(&self, name: &str, is_leader: bool) {
        self.leader.with_label_values(&[name]).set(i64::from(is_leader));
    }

    /// Shows the conditions of an object in place of those that it had, or none when it is gone.
    pub fn conditions(&self, kind: Kind, object: &DynamicObject, is_gone: bool) {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let status = object.data.get("status").cloned().unwrap_or_default();
        let found = if is_gone { Vec::new() } else { sealign_reconcile::report::conditions(&status) };
        let now: Shown = found.into_iter().map(|c| (c.type_, c.status)).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, namespace.clone(), name.clone());
        for (condition, status) in shown.remove(&key).unwrap_or_default() {
            let labels = [kind.name(), &namespace, &name, &condition, &status];
            // A series that is not there is as good as removed.
            let _ = self.conditions.remove_label_values(&labels);
        }
        for (condition, status) in &now {
            self.conditions.with_label_values(&[kind.name(), &namespace, &name, condition, status]).set(1);
        }
        if !now.is_empty() {
            shown.insert(key, now);
        }
    }

    /// The text format.
    ///
    /// # Errors
    /// When a metric cannot be written, a fault of ours.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(status: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "demo" },
            "status": { "conditions": [{ "type": "Succeeded", "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_condition_has_one_series_and_none_when_its_object_is_gone() {
        let metrics = Metrics::new().unwrap();
        let lines = || {
            let text = metrics.text().unwrap();
            text.lines()
                .filter(|line| line.starts_with("sealign_resource_condition{"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        metrics.conditions(Kind::Benchmark, &object("Unknown"), false);
        metrics.conditions(Kind::Benchmark, &object("True"), false);
        assert_eq!(lines().len(), 1);
        assert!(lines()[0].contains("status=\"True\"") && lines()[0].contains("kind=\"Benchmark\""));
        metrics.conditions(Kind::Benchmark, &object("True"), true);
        assert!(lines().is_empty());
    }

    #[test]
    fn reconciles_are_counted_under_the_usual_names() {
        let metrics = Metrics::new().unwrap();
        metrics.begun(Kind::TaskSet);
        let outcome = Outcome {
            requeue: Some(Duration::ZERO),
            commands: 3,
            wrote_status: true,
            is_finished: false,
            error: None,
        };
        metrics.ended(Kind::TaskSet, Duration::from_millis(20), &outcome);
        let text = metrics.text().unwrap();
        assert!(text.contains(
            "controller_runtime_reconcile_total{controller=\"tasksets\",result=\"requeue_after\"} 1"
        ));
        assert!(text.contains("controller_runtime_active_workers{controller=\"tasksets\"} 0"));
        assert!(text.contains("sealign_commands_total{controller=\"tasksets\"} 3"));
        assert!(text.contains("process_"));
    }
}
