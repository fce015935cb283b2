//! Metrics, under the names that controller-runtime gives them, so that stock dashboards work. Labels are closed sets and
//! object names; series of an object go with it. What cannot be measured truly (the depth of kube's queue) is left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::core::DynamicObject;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use sealign_reconcile::Outcome;
use sealign_reconcile::port::Kind;

use crate::figures::Figures;
use crate::requests::Access;

/// Conditions of an object as last shown: type and status.
type Shown = Vec<(String, String)>;

/// Bounds of histograms in seconds.
const SECONDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A reconcile at work.
pub struct Active(IntGauge);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Makes and registers a counter.
fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// Makes and registers a gauge.
fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// Makes and registers a histogram of seconds.
fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    let histogram = HistogramVec::new(options, labels)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

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
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    accesses: IntCounterVec,
    figures: Figures,
    shown: Mutex<BTreeMap<(Kind, String, String), Shown>>,
}

/// What is known of the process without asking it anything.
fn describe_process(registry: &Registry) -> Result<(), prometheus::Error> {
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    let build = gauge(registry, "sealign_build_info", "Always 1; the version is a label", &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(())
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics have one name, a fault of ours.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name, help, labels: &[&str]| counter(&registry, name, help, labels);
        let gauge = |name, help, labels: &[&str]| gauge(&registry, name, help, labels);
        let histogram = |name, help, labels: &[&str]| histogram(&registry, name, help, labels);
        describe_process(&registry)?;
        Ok(Self {
            total: counter(
                "controller_runtime_reconcile_total",
                "Total number of reconciliations per controller",
                &["controller", "result"],
            )?,
            errors: counter(
                "controller_runtime_reconcile_errors_total",
                "Total number of reconciliation errors per controller",
                &["controller"],
            )?,
            seconds: histogram(
                "controller_runtime_reconcile_time_seconds",
                "Length of time per reconciliation per controller",
                &["controller"],
            )?,
            active: gauge(
                "controller_runtime_active_workers",
                "Number of currently used workers per controller",
                &["controller"],
            )?,
            concurrency: gauge(
                "controller_runtime_max_concurrent_reconciles",
                "Maximum number of concurrent reconciles per controller",
                &["controller"],
            )?,
            requests: counter(
                "rest_client_requests_total",
                "Number of HTTP requests, partitioned by status code, method, and host",
                &["code", "method", "host"],
            )?,
            request_seconds: histogram(
                "rest_client_request_duration_seconds",
                "Request latency in seconds until the head of the answer, by verb and host",
                &["verb", "host"],
            )?,
            accesses: counter(
                "sealign_api_requests_total",
                "Requests to the API server by verb and resource, as roles name them",
                &["verb", "resource"],
            )?,
            figures: Figures::new(&registry)?,
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
            registry,
            shown: Mutex::default(),
        })
    }

    /// A reconcile begins; it is over when what is returned is dropped.
    pub fn begun(&self, kind: Kind) -> Active {
        let gauge = self.active.with_label_values(&[kind.plural()]);
        gauge.inc();
        Active(gauge)
    }

    /// A reconcile has ended.
    pub fn ended(&self, kind: Kind, took: Duration, outcome: &Outcome) {
        let controller = kind.plural();
        let result = match (&outcome.error, outcome.requeue) {
            (Some(_), _) => "error",
            (None, Some(_)) => "requeue_after",
            (None, None) => "success",
        };
        self.total.with_label_values(&[controller, result]).inc();
        self.seconds.with_label_values(&[controller]).observe(took.as_secs_f64());
        self.commands.with_label_values(&[controller]).inc_by(outcome.commands as u64);
        self.status_writes.with_label_values(&[controller]).inc_by(u64::from(outcome.wrote_status));
        if outcome.error.is_some() {
            self.errors.with_label_values(&[controller]).inc();
        }
    }

    /// A controller begins, with the bound of its concurrency. What it counts is there from now on, at nought: the first failure
    /// is a rise then, which a series that begins at 1 does not show.
    pub fn controller(&self, kind: Kind, concurrency: u16) {
        for counter in [&self.errors, &self.commands, &self.status_writes] {
            counter.with_label_values(&[kind.plural()]).inc_by(0);
        }
        self.concurrency.with_label_values(&[kind.plural()]).set(i64::from(concurrency));
    }

    /// A request to the API server was answered, or failed with `code` `<error>`.
    pub fn request(&self, method: &str, code: &str, host: &str, access: Option<&Access>, took: Duration) {
        self.requests.with_label_values(&[code, method, host]).inc();
        self.request_seconds.with_label_values(&[method, host]).observe(took.as_secs_f64());
        if let Some(Access { verb, group, resource }) = access {
            let resource = match (group.as_str(), resource.split_once('/')) {
                ("", _) => resource.clone(),
                (group, Some((resource, sub))) => format!("{resource}.{group}/{sub}"),
                (group, None) => format!("{resource}.{group}"),
            };
            self.accesses.with_label_values(&[*verb, &resource]).inc();
        }
    }

    /// Requests so far by verb and resource, as [`crate::access`] names them.
    pub fn accesses(&self) -> BTreeMap<(String, String), u64> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "sealign_api_requests_total");
        let series = family.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        let read = |metric: &prometheus::proto::Metric| {
            let label = |name: &str| {
                let pair = metric.get_label().iter().find(|pair| pair.name() == name);
                pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
            };
            // Counts of ours are whole and far below 2^53.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a whole, positive count"
            )]
            let count = metric.get_counter().value() as u64;
            ((label("verb"), label("resource")), count)
        };
        series.iter().map(read).collect()
    }

    /// Whether we hold the lease.
    pub fn leader(&self, name: &str, is_leader: bool) {
        self.leader.with_label_values(&[name]).set(i64::from(is_leader));
    }

    /// Shows conditions and figures of an object in place of those that it had, or none when it is gone.
    pub fn show(&self, kind: Kind, object: &DynamicObject, is_gone: bool) {
        self.figures.show(kind, object, is_gone);
        self.conditions(kind, object, is_gone);
    }

    fn conditions(&self, kind: Kind, object: &DynamicObject, is_gone: bool) {
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
        metrics.controller(Kind::TaskSet, 4);
        let errors = "controller_runtime_reconcile_errors_total{controller=\"tasksets\"} 0";
        assert!(metrics.text().unwrap().contains(errors));
        let active = metrics.begun(Kind::TaskSet);
        drop(active);
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
