//! What a runner counts: decorators of its ports, and gauges that are read from its standing when somebody asks.
//!
//! Labels are closed sets, the owner and its policies; never an item, a task or a pod.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};
use sealign_agent::{Completion, CompletionRequest, Model, ModelError};
use sealign_crds::ObjectRef;
use sealign_manifest::Task;
use sealign_storage::{ArtifactStore, CreateOutcome, StoreError};

use super::models::Models;
use super::outcome::Seen;
use super::standing::Standing;

/// Bounds of the histogram of model requests in seconds: a word of a small model, a long thought of a large one.
const REQUEST_SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// All metrics of a runner.
pub struct Meters {
    registry: Registry,
    attempts: GaugeVec,
    gradings: Gauge,
    gradings_known: Gauge,
    in_flight: Gauge,
    ready: Gauge,
    pods: GaugeVec,
    tokens: IntCounterVec,
    requests: IntCounterVec,
    seconds: HistogramVec,
    store: IntCounterVec,
    store_errors: IntCounterVec,
}

impl Meters {
    /// Registers everything; each series carries the kind and name of `owner`.
    ///
    /// # Errors
    /// When two metrics have one name, a fault of ours.
    pub fn new(owner: &ObjectRef) -> Result<Self, prometheus::Error> {
        let labels = [("owner_kind", &owner.kind), ("owner_name", &owner.name)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.clone()));
        let registry = Registry::new_custom(None, Some(labels.into_iter().collect()))?;
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let gauges = |name: &str, help: &str, label: &str| {
            let gauges = GaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let options = HistogramOpts::new(
            "sealign_runner_model_request_seconds",
            "Time from a request to a model to its answer, waits included",
        );
        let seconds = HistogramVec::new(options.buckets(REQUEST_SECONDS.to_vec()), &["policy"])?;
        registry.register(Box::new(seconds.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            attempts: gauges("sealign_runner_attempts", "Recorded rollouts by outcome", "outcome")?,
            gradings: gauge("sealign_runner_gradings", "Recorded gradings")?,
            gradings_known: gauge("sealign_runner_gradings_known", "Gradings known to be needed so far")?,
            in_flight: gauge("sealign_runner_in_flight", "Attempts and gradings at work")?,
            ready: gauge("sealign_runner_ready", "Whether sandboxes may be started for this runner")?,
            pods: gauges("sealign_runner_pods", "Pods of the owner that the runner sees", "phase")?,
            tokens: counter(
                "sealign_runner_tokens_total",
                "Tokens of this process's model requests, as servers count them",
                &["policy", "direction"],
            )?,
            requests: counter(
                "sealign_runner_model_requests_total",
                "Model requests of this process by result",
                &["policy", "result"],
            )?,
            seconds,
            store: counter("sealign_runner_store_requests_total", "Requests to the store", &["operation"])?,
            store_errors: counter(
                "sealign_runner_store_errors_total",
                "Requests to the store that failed",
                &["operation"],
            )?,
            registry,
        })
    }

    /// The text format, with the gauges of `standing`.
    ///
    /// # Errors
    /// When a metric cannot be written, a fault of ours.
    pub fn text(&self, standing: &Standing) -> Result<String, prometheus::Error> {
        let progress = &standing.progress;
        self.attempts.reset();
        for (outcome, count) in &progress.outcomes {
            self.attempts.with_label_values(&[&format!("{outcome:?}")]).set(float(*count));
        }
        self.gradings.set(float(progress.gradings));
        self.gradings_known.set(float(progress.gradings_known));
        self.in_flight.set(float(progress.live));
        self.ready.set(if standing.ready().is_ok() { 1.0 } else { 0.0 });
        for (phase, count) in ["waiting", "running", "ended"].iter().zip(standing.pods) {
            self.pods.with_label_values(&[*phase]).set(float(count));
        }
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn asked_store<T>(&self, operation: &str, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        self.store.with_label_values(&[operation]).inc();
        // At nought from the first request on, so that the first failure is a rise.
        self.store_errors.with_label_values(&[operation]).inc_by(u64::from(answer.is_err()));
        answer
    }
}

/// Exact up to 2^53, which no count of ours reaches.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

/// A store whose requests are counted.
pub struct MeteredStore {
    inner: Arc<dyn ArtifactStore>,
    meters: Arc<Meters>,
}

impl MeteredStore {
    /// Counts the requests to `inner`.
    pub fn new(inner: Arc<dyn ArtifactStore>, meters: Arc<Meters>) -> Self {
        Self { inner, meters }
    }
}

#[async_trait]
impl ArtifactStore for MeteredStore {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.meters.asked_store("get", self.inner.get_bounded(key, bytes_max).await)
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        self.meters.asked_store("create", self.inner.create(key, bytes).await)
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.meters.asked_store("overwrite", self.inner.overwrite(key, bytes).await)
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.meters.asked_store("exists", self.inner.exists(key).await)
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.meters.asked_store("list", self.inner.list_names(prefix).await)
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        self.meters.asked_store("delete", self.inner.delete_prefix(prefix).await)
    }
}

/// Models whose requests are counted.
pub struct MeteredModels {
    inner: Arc<dyn Models>,
    meters: Arc<Meters>,
}

impl MeteredModels {
    /// Counts the requests to the models of `inner`.
    pub fn new(inner: Arc<dyn Models>, meters: Arc<Meters>) -> Self {
        Self { inner, meters }
    }
}

#[async_trait]
impl Models for MeteredModels {
    fn model(&self, policy: &str, task: &Task) -> Result<Arc<dyn Model>, String> {
        let inner = self.inner.model(policy, task)?;
        Ok(Arc::new(MeteredModel { inner, policy: policy.to_owned(), meters: self.meters.clone() }))
    }

    async fn check(&self, pods: Seen) -> std::collections::BTreeMap<String, Result<(), String>> {
        self.inner.check(pods).await
    }
}

struct MeteredModel {
    inner: Arc<dyn Model>,
    policy: String,
    meters: Arc<Meters>,
}

#[async_trait]
impl Model for MeteredModel {
    async fn complete(&self, request: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
        let begun = Instant::now();
        let answer = self.inner.complete(request).await;
        let policy = self.policy.as_str();
        self.meters.seconds.with_label_values(&[policy]).observe(begun.elapsed().as_secs_f64());
        let result = match &answer {
            Ok(completion) => {
                let tokens = &self.meters.tokens;
                let usage = &completion.usage;
                tokens.with_label_values(&[policy, "prompt"]).inc_by(usage.prompt_tokens);
                tokens.with_label_values(&[policy, "completion"]).inc_by(usage.completion_tokens);
                "ok"
            }
            Err(ModelError::ContextExceeded) => "context_exceeded",
            Err(ModelError::Unavailable { .. }) => "unavailable",
            Err(ModelError::Throttled { .. }) => "throttled",
            Err(ModelError::Configuration { .. }) => "refused",
        };
        self.meters.requests.with_label_values(&[policy, result]).inc();
        answer
    }

    async fn ready(&self) -> Result<(), ModelError> {
        self.inner.ready().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_storage::Store;

    fn meters() -> Arc<Meters> {
        let owner =
            ObjectRef { kind: "Benchmark".into(), namespace: "n".into(), name: "b".into(), uid: "u".into() };
        Arc::new(Meters::new(&owner).unwrap())
    }

    /// Whether there is a series of this name with this label, the owner's labels and this value; labels have no order.
    fn has(text: &str, name: &str, label: &str, value: &str) -> bool {
        let wanted = [label, "owner_kind=\"Benchmark\"", "owner_name=\"b\""];
        text.lines().any(|line| {
            line.starts_with(&format!("{name}{{"))
                && wanted.iter().all(|wanted| line.contains(wanted))
                && line.ends_with(&format!(" {value}"))
        })
    }

    #[tokio::test]
    async fn requests_to_the_store_are_counted_and_failures_apart() {
        let meters = meters();
        let store = MeteredStore::new(Arc::new(Store::memory()), meters.clone());
        store.create("a/b", Bytes::from_static(b"x")).await.unwrap();
        assert!(store.get_bounded("../b", 10).await.is_err());
        let text = meters.text(&Standing::default()).unwrap();
        assert!(has(&text, "sealign_runner_store_requests_total", "operation=\"create\"", "1"), "{text}");
        assert!(has(&text, "sealign_runner_store_errors_total", "operation=\"get\"", "1"), "{text}");
        assert!(has(&text, "sealign_runner_store_errors_total", "operation=\"create\"", "0"), "{text}");
    }

    #[test]
    fn the_page_of_metrics_lists_what_a_runner_registers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap();
        let section = page.split("\n## Runner\n").nth(1).unwrap();
        let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let meters = meters();
        for counter in [&meters.store, &meters.store_errors] {
            counter.with_label_values(&["get"]).inc();
        }
        meters.tokens.with_label_values(&["p", "prompt"]).inc();
        meters.requests.with_label_values(&["p", "ok"]).inc();
        meters.seconds.with_label_values(&["p"]).observe(1.0);
        let mut standing = Standing::default();
        standing.progress.outcomes.insert(sealign_manifest::record::Outcome::Resolved, 1);
        let text = meters.text(&standing).unwrap();
        let row = |line: &str| {
            let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
            (!name.starts_with("process_")).then(|| format!("| `{name}` | {help} |"))
        };
        let mut registered: Vec<String> = text.lines().filter_map(row).collect();
        registered.sort();
        let mut listed: Vec<String> = listed.into_iter().map(str::to_owned).collect();
        listed.sort();
        assert_eq!(registered, listed);
    }

    #[test]
    fn outcomes_that_are_gone_have_no_series() {
        let meters = meters();
        let mut standing = Standing::default();
        standing.progress.outcomes.insert(sealign_manifest::record::Outcome::Resolved, 7);
        assert!(meters.text(&standing).unwrap().contains("outcome=\"Resolved\""));
        standing.progress.outcomes.clear();
        assert!(!meters.text(&standing).unwrap().contains("outcome=\"Resolved\""));
    }
}
