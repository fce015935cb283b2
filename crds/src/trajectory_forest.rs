//! TrajectoryForest: attempts merged into trees, and the pairs and examples taken from them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;
use crate::shared::{Artifacts, LocalRef};

/// Attempts merged into one tree a task, each node scored by the success rate below it, and what is taken from them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sealign.dev",
    version = "v1alpha1",
    kind = "TrajectoryForest",
    plural = "trajectoryforests",
    namespaced,
    category = "sealign",
    shortname = "forest",
    status = "TrajectoryForestStatus",
    derive = "PartialEq",
    doc = "Attempts at the same tasks merged into trees: nodes scored by the success rate below them, critical pairs where siblings differ.",
    printcolumn(name = "Trajectories", type_ = "integer", json_path = ".status.afterFiltering"),
    printcolumn(name = "Successful", type_ = "integer", json_path = ".status.successful"),
    printcolumn(name = "Pairs", type_ = "integer", json_path = ".status.criticalPairs"),
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
#[x_kube(validation = Rule::new("size(self.campaignRefs) + size(self.imports) > 0")
    .message("a forest needs campaignRefs or imports"))]
#[x_kube(validation = Rule::new("self == oldSelf").message("a forest cannot change: create another one"))]
pub struct TrajectoryForestSpec {
    /// Campaigns whose attempts take part. The forest waits until each has Succeeded.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub campaign_refs: Vec<LocalRef>,
    /// Files of trajectories that other programs wrote.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub imports: Vec<ImportSource>,
    /// When two actions are the same node.
    #[serde(default)]
    pub node_key: NodeKey,
    /// Which attempts take part.
    #[serde(default)]
    pub filters: Filters,
    /// Which siblings become a pair.
    #[serde(default)]
    pub pairs: PairRule,
    /// Which successes are imitated.
    #[serde(default)]
    pub sft: SftRule,
    /// Share of the tasks, in per cent, whose data is used: the paper's data-scaling ablation. Smaller shares are subsets of
    /// larger ones.
    #[serde(default = "default_data_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub data_percent: i32,
    /// Seed of that order and of sampled pairs.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i32,
    /// Task sets that benchmarks measure on: their tasks, repositories and issue texts take no part.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub exclude_task_sets: Vec<LocalRef>,
    /// Where artifacts go.
    #[serde(default)]
    pub artifacts: Artifacts,
}

fn default_data_percent() -> i32 {
    100
}

/// Files of trajectories that other programs wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportSource {
    /// Name of the set; trajectory ids are unique within it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// `artifact:PREFIX` below the store's root, or `file:PATH` that the worker can read (embedded runs): a file or a folder.
    #[schemars(length(min = 6, max = 500), regex(pattern = r"^(artifact|file):.+$"))]
    pub from: String,
    /// Format of the files; `auto` looks at the content.
    #[serde(default = "default_format")]
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9-]+$"))]
    pub format: String,
}

fn default_format() -> String {
    "auto".into()
}

/// When two actions are the same node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeKey {
    /// Equal tool calls.
    #[default]
    Call,
    /// Equal tool calls and free text.
    FullText,
    /// Equal tool calls after equal observations.
    CallAndObservation,
}

/// Which attempts take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filters {
    /// Drop repetitions of the same attempt with the same result.
    #[serde(default = "yes")]
    pub deduplicate: bool,
    /// Drop attempts that repeat one action this often in a row; 0 keeps them.
    #[serde(default = "default_loop_repeats")]
    #[schemars(range(min = 0, max = 100))]
    pub loop_min_repeats: i32,
    /// Only when the observations repeat as well.
    #[serde(default = "yes")]
    pub loop_require_same_observation: bool,
    /// Drop attempts that share fewer leading actions than this with every other attempt at their task; 0 keeps them.
    #[serde(default = "default_overlap")]
    #[schemars(range(min = 0, max = 100))]
    pub overlap_min_prefix: i32,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            deduplicate: true,
            loop_min_repeats: default_loop_repeats(),
            loop_require_same_observation: true,
            overlap_min_prefix: default_overlap(),
        }
    }
}

fn yes() -> bool {
    true
}
fn default_loop_repeats() -> i32 {
    3
}
fn default_overlap() -> i32 {
    1
}

/// Which siblings become a pair. The defaults are the paper's rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairRule {
    /// What a pair compares.
    #[serde(default)]
    pub mode: PairMode,
    /// Scores must differ by more than this.
    #[serde(default = "default_threshold")]
    pub threshold: Decimal,
    /// How a node's score is estimated from its paths.
    #[serde(default)]
    pub score_estimator: ScoreEstimator,
    /// Paths through either side at least.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min_support: i32,
    /// Only pairs whose sides are of different kinds (look, test, edit, finish, ...).
    #[serde(default)]
    pub require_different_kind: bool,
    /// Which of the pairs of one decision are taken.
    #[serde(default)]
    pub selection: PairSelection,
    /// Pairs of one decision at most, those with the largest difference first.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_pairs_per_decision: i32,
    /// Leave out pairs whose rejected side saw other observations before.
    #[serde(default)]
    pub drop_divergent: bool,
}

impl Default for PairRule {
    fn default() -> Self {
        Self {
            mode: PairMode::default(),
            threshold: default_threshold(),
            score_estimator: ScoreEstimator::default(),
            min_support: one(),
            require_different_kind: false,
            selection: PairSelection::default(),
            max_pairs_per_decision: one(),
            drop_divergent: false,
        }
    }
}

fn default_threshold() -> Decimal {
    Decimal::constant("0.5")
}
fn one() -> i32 {
    1
}

/// What a pair compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PairMode {
    /// Sibling actions after a shared prefix.
    #[default]
    Critical,
    /// Whole successful against whole failed attempts, as many a task as the critical rule gives: an ablation.
    WholeTrajectory,
}

/// How a node's score is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScoreEstimator {
    /// Successes over paths.
    #[default]
    Raw,
    /// Successes plus one over paths plus two: nodes with few paths count for less.
    Laplace,
}

/// Which of the pairs of one decision are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PairSelection {
    /// The best child against the worst.
    #[default]
    BestAgainstWorst,
    /// The best child against every child that it beats.
    BestAgainstEach,
    /// Every pair that differs enough.
    All,
}

/// Which successes are imitated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SftRule {
    /// Successes of one task at most; no bound when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_per_task: Option<i32>,
    /// Imitate equal attempts once. Off keeps the frequencies with which teachers act.
    #[serde(default = "yes")]
    pub deduplicate: bool,
}

impl Default for SftRule {
    fn default() -> Self {
        Self { max_per_task: None, deduplicate: true }
    }
}

/// What is known of a TrajectoryForest: the paper's Table 1 and where the rest lies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrajectoryForestStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Succeeded`, `Finished`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Tasks with at least one kept attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<i64>,
    /// Attempts that were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected: Option<i64>,
    /// Attempts that were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_filtering: Option<i64>,
    /// Kept attempts that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successful: Option<i64>,
    /// Kept attempts that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<i64>,
    /// Action nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i64>,
    /// Decisions at which siblings differ enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical_decision_points: Option<i64>,
    /// Pairs taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical_pairs: Option<i64>,
    /// Pairs one of whose sides rests on a single path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub single_path_pairs: Option<i64>,
    /// Examples to imitate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft_examples: Option<i64>,
    /// Digest of the forest manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// Key of the viewer page below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub viewer: Option<String>,
    /// Folder of the artifacts below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub artifacts: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn forest(spec: &Value) -> TrajectoryForest {
        serde_json::from_value(json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "TrajectoryForest", "metadata": { "name": "f" }, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn defaults_are_the_papers_rule() {
        let spec = forest(&json!({ "campaignRefs": [{ "name": "c" }] })).spec;
        assert_eq!(spec.pairs.threshold.as_str(), "0.5");
        assert_eq!(spec.pairs.score_estimator, ScoreEstimator::Raw);
        assert_eq!((spec.filters.loop_min_repeats, spec.filters.overlap_min_prefix), (3, 1));
    }

    #[test]
    fn a_forest_of_nothing_is_refused() {
        let error = forest(&json!({})).validate_cel().unwrap_err().to_string();
        assert!(error.contains("campaignRefs or imports"), "{error}");
        forest(&json!({ "campaignRefs": [{ "name": "c" }] })).validate_cel().unwrap();
    }

    #[test]
    fn a_forest_is_frozen() {
        let old = forest(&json!({ "campaignRefs": [{ "name": "c" }] }));
        let new = forest(&json!({ "campaignRefs": [{ "name": "c" }], "seed": 2 }));
        assert!(new.validate_cel_update(&old).unwrap_err().to_string().contains("create another one"));
    }
}
