//! Benchmark: a model measured on a task set.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;
use crate::model::{ModelSpec, Sampling};
use crate::shared::{Artifacts, HarnessSpec, Limits, LocalRef, QueueSpec, Retry, SandboxSpec};

/// One attempt at each task by one model, greedy unless said otherwise, and the rates with their intervals.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sealign.dev",
    version = "v1alpha1",
    kind = "Benchmark",
    plural = "benchmarks",
    namespaced,
    category = "sealign",
    shortname = "bench",
    status = "BenchmarkStatus",
    derive = "PartialEq",
    doc = "A model, or a file of predictions, measured on a TaskSet: resolved, empty, stuck and invalid with Wilson intervals.",
    printcolumn(name = "Tasks", type_ = "integer", json_path = ".status.total"),
    printcolumn(name = "Resolved", type_ = "integer", json_path = ".status.resolved"),
    printcolumn(name = "Rate", type_ = "string", json_path = ".status.resolvedPercent"),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    cel
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.model) != has(self.predictions)")
    .message("a benchmark measures exactly one of model and predictions"))]
pub struct BenchmarkSpec {
    /// The tasks.
    #[x_kube(validation = Rule::new("self == oldSelf").message("taskSetRef cannot change: create another benchmark"))]
    pub task_set_ref: LocalRef,
    /// The model that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSpec>,
    /// A file of predictions that is measured instead: `artifact:KEY`, or `file:PATH` that the worker can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 6, max = 500), regex(pattern = r"^(artifact|file):.+$"))]
    pub predictions: Option<String>,
    /// The scaffold around the model.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("harness cannot change: create another benchmark"))]
    pub harness: HarnessSpec,
    /// How tokens are drawn; greedy by default.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("sampling cannot change: create another benchmark"))]
    pub sampling: Sampling,
    /// How an attempt ends when it does not end by itself.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("limits cannot change: create another benchmark"))]
    pub limits: Limits,
    /// What each sandbox may use.
    #[serde(default)]
    pub sandbox: SandboxSpec,
    /// Sandboxes at once.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: i32,
    /// How failed tries are repeated.
    #[serde(default)]
    pub retry: Retry,
    /// Benchmarks on the same tasks to compare with, task by task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub baseline_refs: Vec<LocalRef>,
    /// Where artifacts go.
    #[serde(default)]
    pub artifacts: Artifacts,
    /// Labels that a queueing system reads on Jobs.
    #[serde(default)]
    pub queue: QueueSpec,
    /// Deletes what runs and starts nothing; what is recorded stays.
    #[serde(default)]
    pub suspend: bool,
}

fn default_parallelism() -> i32 {
    16
}

/// What is known of a Benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Succeeded`, `Finished`, `Suspended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Tasks of the set: the denominator of every rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// Tasks whose tests pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<i64>,
    /// Attempts that left no patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<i64>,
    /// Attempts with three equal actions in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<i64>,
    /// Attempts with a patch that cannot be a solution (HumanEvalFix), else attempts with an unparseable turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<i64>,
    /// Attempts that ran into their own memory, disk or process limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Attempts that infrastructure failed: in no rate of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<i64>,
    /// Resolved over total, in per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_percent: Option<Decimal>,
    /// Lower and upper end of its 95 % Wilson interval, in per cent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub resolved_interval: Vec<Decimal>,
    /// Task by task against each baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub comparisons: Vec<Comparison>,
    /// Digest of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// Folder of the artifacts below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub artifacts: Option<String>,
}

/// Task by task against a baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Name of the baseline.
    #[schemars(length(max = 63))]
    pub baseline: String,
    /// Tasks resolved here and not there.
    pub wins: i64,
    /// Tasks resolved there and not here.
    pub losses: i64,
    /// Two-sided exact McNemar test.
    pub p_value: Decimal,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn benchmark(change: impl FnOnce(&mut Value)) -> Benchmark {
        let mut object = json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "Benchmark", "metadata": { "name": "b" },
            "spec": { "taskSetRef": { "name": "t" }, "predictions": "file:/x.jsonl" },
        });
        change(&mut object["spec"]);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_benchmark_measures_one_thing() {
        benchmark(|_| ()).validate_cel().unwrap();
        let both = benchmark(|spec| spec["model"] = json!({ "checkpoint": { "base": "builtin:mini-base" } }));
        assert!(
            both.validate_cel().unwrap_err().to_string().contains("exactly one of model and predictions")
        );
        let none = benchmark(|spec| spec["predictions"] = Value::Null);
        assert!(none.validate_cel().is_err());
    }
}
