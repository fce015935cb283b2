//! TaskSet: where tasks come from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;
use crate::shared::{Artifacts, SandboxSpec};

/// Where tasks come from, which of them take part and how their health is checked.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sealign.dev",
    version = "v1alpha1",
    kind = "TaskSet",
    plural = "tasksets",
    namespaced,
    category = "sealign",
    shortname = "tset",
    status = "TaskSetStatus",
    derive = "PartialEq",
    doc = "A set of software-engineering tasks: where they come from, which take part, and whether their tests can be trusted.",
    printcolumn(name = "Tasks", type_ = "integer", json_path = ".status.taskCount"),
    printcolumn(name = "Healthy", type_ = "integer", json_path = ".status.healthy"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    cel
)]
#[serde(rename_all = "camelCase")]
pub struct TaskSetSpec {
    /// Where tasks come from.
    #[x_kube(validation = Rule::new("self == oldSelf").message("source cannot change: create another TaskSet"))]
    pub source: TaskSource,
    /// Which tasks of the source take part.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("selection cannot change: create another TaskSet"))]
    pub selection: Selection,
    /// Image of each task's sandbox.
    #[serde(default)]
    pub image: ImageTemplate,
    /// Whether and how the tests themselves are checked before the set is Ready.
    #[serde(default)]
    pub health: HealthPolicy,
    /// What each health sandbox may use.
    #[serde(default)]
    pub sandbox: SandboxSpec,
    /// Where artifacts go.
    #[serde(default)]
    pub artifacts: Artifacts,
    /// Deletes what runs and starts nothing; what is recorded stays.
    #[serde(default)]
    pub suspend: bool,
}

/// Where tasks come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.mini), has(self.humanEvalFix), has(self.sweBench)].filter(x, x).size() == 1")
    .message("source is exactly one of mini, humanEvalFix and sweBench"))]
pub struct TaskSource {
    /// Generated bug-fix tasks in small Python repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mini: Option<MiniSource>,
    /// HumanEvalPack rows (Python), one JSON object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human_eval_fix: Option<RowSource>,
    /// SWE-bench or SWE-Gym rows, one JSON object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swe_bench: Option<RowSource>,
}

/// The built-in generator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MiniSource {
    /// Tasks of different splits never share a name, a text or a bug site.
    pub split: MiniSplit,
    /// Tasks to generate.
    #[schemars(range(min = 1, max = 100_000))]
    pub count: i32,
    /// Another seed gives other tasks.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i32,
    /// Bug families that take part; all trained families when empty. `method` and `bool` are never trained on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 20), regex(pattern = r"^[a-z]+$")))]
    pub families: Vec<String>,
    /// Share of issues, in per cent, that say what is wrong without saying what is right.
    #[serde(default = "default_vague_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub vague_percent: i32,
    /// Share of tasks, in per cent, whose bug lies in an imported file.
    #[serde(default = "default_two_file_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub two_file_percent: i32,
    /// Share of issues, in per cent, that name the file.
    #[serde(default = "default_name_file_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub name_file_percent: i32,
}

fn default_vague_percent() -> i32 {
    50
}
fn default_two_file_percent() -> i32 {
    35
}
fn default_name_file_percent() -> i32 {
    70
}

/// A split of the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MiniSplit {
    /// For training.
    Train,
    /// For measuring.
    Eval,
}

/// Rows in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowSource {
    /// `artifact:KEY` below the store's root, or `file:PATH` that the worker can read (embedded runs).
    #[schemars(length(min = 6, max = 500), regex(pattern = r"^(artifact|file):.+$"))]
    pub rows: String,
}

/// Which tasks take part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// Only these task ids, when not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 200)))]
    pub include: Vec<String>,
    /// Not these task ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 200)))]
    pub exclude: Vec<String>,
    /// Not tasks of these repositories (`owner/name`, case ignored).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 200)))]
    pub exclude_repositories: Vec<String>,
    /// At most this many, by an order that `seed` gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<i32>,
    /// Seed of the order.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i32,
}

/// Image of each task's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageTemplate {
    /// Image reference with `{id}` for the task id as the suite writes it; the suite's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub template: Option<String>,
}

/// How tests are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthPolicy {
    /// Gradings of the gold patch and of the empty patch of every task; 0 trusts the source.
    #[serde(default = "default_repeats")]
    #[schemars(range(min = 0, max = 10))]
    pub repeats: i32,
    /// Gradings at once.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: i32,
    /// Share of tasks, in per cent, that may be put aside before the set is not Ready.
    #[serde(default = "default_quarantine_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub max_quarantined_percent: i32,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            repeats: default_repeats(),
            parallelism: default_parallelism(),
            max_quarantined_percent: default_quarantine_percent(),
        }
    }
}

fn default_repeats() -> i32 {
    1
}
fn default_parallelism() -> i32 {
    16
}
fn default_quarantine_percent() -> i32 {
    10
}

/// What is known of a TaskSet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskSetStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Suspended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Tasks that take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_count: Option<i64>,
    /// Tasks whose tests proved trustworthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<i64>,
    /// Tasks put aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<i64>,
    /// Share of gradings that disagreed with a repeat of theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flake_rate: Option<Decimal>,
    /// Digest of the task list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// Folder of the artifacts below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub artifacts: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn task_set(source: &Value) -> TaskSet {
        let spec = json!({ "source": source });
        serde_json::from_value(json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet", "metadata": { "name": "t" }, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_task_set_needs_exactly_one_source() {
        let mini = json!({ "mini": { "split": "Train", "count": 3 } });
        task_set(&mini).validate_cel().unwrap();
        let error = task_set(&json!({})).validate_cel().unwrap_err().to_string();
        assert!(error.contains("exactly one of mini"), "{error}");
    }

    #[test]
    fn the_source_of_a_task_set_is_frozen() {
        let old = task_set(&json!({ "mini": { "split": "Train", "count": 3 } }));
        let new = task_set(&json!({ "mini": { "split": "Train", "count": 4 } }));
        let error = new.validate_cel_update(&old).unwrap_err().to_string();
        assert!(error.contains("create another TaskSet"), "{error}");
        old.validate_cel_update(&old).unwrap();
    }
}
