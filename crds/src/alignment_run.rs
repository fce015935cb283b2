//! AlignmentRun: the whole loop as one object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;
use crate::model::{Checkpoint, Sampling};
use crate::rollout_campaign::RolloutCampaignSpec;
use crate::shared::{Artifacts, HarnessSpec, Limits, LocalRef, QueueSpec, Retry, SandboxSpec};
pub use crate::stages::{DpoStage, Optimization, Schedule, SftStage, Stages};
use crate::trajectory_forest::{Filters, NodeKey, PairRule, SftRule};

/// From a base model to an aligned one: collect, merge, SFT, DPO, measure.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sealign.dev",
    version = "v1alpha1",
    kind = "AlignmentRun",
    plural = "alignmentruns",
    namespaced,
    category = "sealign",
    shortname = "align",
    status = "AlignmentRunStatus",
    derive = "PartialEq",
    doc = "The alignment loop: attempts are collected and merged, the model is trained on successes and on critical pairs, and measured.",
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.stage"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.loss"),
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
    printcolumn(
        name = "Promoted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Promoted\")].status",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    cel
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.forestRef) != has(self.campaign)")
    .message("give either forestRef, or campaign (and forest) to make one"))]
#[x_kube(validation = Rule::new("!has(self.forest) || has(self.campaign)")
    .message("forest is a template for the campaign's forest: with forestRef the named forest is used as it is"))]
#[x_kube(validation = Rule::new("has(self.stages.sft) || has(self.stages.dpo)")
    .message("stages needs sft, dpo or both"))]
pub struct AlignmentRunSpec {
    /// The model to align.
    #[x_kube(validation = Rule::new("self == oldSelf").message("model cannot change: create another run"))]
    pub model: Checkpoint,
    /// A forest that exists, or will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forest_ref: Option<LocalRef>,
    /// The campaign to run for this run's own forest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<RolloutCampaignSpec>,
    /// How that forest is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forest: Option<ForestTemplate>,
    /// What is trained; either stage may be absent (ablations).
    #[x_kube(validation = Rule::new("self == oldSelf").message("stages cannot change: create another run"))]
    pub stages: Stages,
    /// Where training runs.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.layout == oldSelf.layout && has(self.lora) == has(oldSelf.lora) && (!has(self.lora) || self.lora == oldSelf.lora)")
        .message("trainer.layout and trainer.lora cannot change: create another run"))]
    pub trainer: TrainerSpec,
    /// Seed of initialisation, order and splits.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i32,
    /// What is measured, before and after.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub benchmarks: Vec<BenchmarkTemplate>,
    /// When the result counts as better than the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
    /// Where artifacts go.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("artifacts cannot change: create another run"))]
    pub artifacts: Artifacts,
    /// Labels that a queueing system reads on Jobs.
    #[serde(default)]
    pub queue: QueueSpec,
    /// Deletes what runs and starts nothing; training resumes from its newest checkpoint.
    #[serde(default)]
    pub suspend: bool,
}

/// How the run's own forest is built: a TrajectoryForest without its inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForestTemplate {
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
    /// Share of the tasks, in per cent, whose data is used.
    #[serde(default = "default_data_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub data_percent: i32,
    /// Seed of that order and of sampled pairs.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i32,
}

fn default_data_percent() -> i32 {
    100
}

/// Where training runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainerSpec {
    /// Pods, one a node.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 512))]
    pub nodes: i32,
    /// GPUs of each pod; 0 trains on the CPU.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16))]
    pub gpus_per_node: i32,
    /// CPU in thousandths of a core.
    #[serde(default = "default_trainer_cpu")]
    #[schemars(range(min = 100, max = 512_000))]
    pub cpu_millis: i32,
    /// Memory in MiB.
    #[serde(default = "default_trainer_memory")]
    #[schemars(range(min = 256, max = 8_388_608))]
    pub memory_mib: i32,
    /// Image; the installation's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,
    /// Whether shared prefixes are computed once.
    #[serde(default)]
    pub layout: Layout,
    /// Train an adapter instead of all weights. The model of a stage has it merged; it also lies beside that, in PEFT's layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// What each process holds where there are several.
    #[serde(default)]
    pub sharding: Sharding,
    /// What is kept of a forward pass for its backward pass.
    #[serde(default)]
    pub recompute: Recompute,
    /// Number format of the computation; what is trained keeps a float32 original.
    #[serde(default)]
    pub precision: Precision,
    /// Rounds in a row without a new checkpoint before the run waits for help; raising it resumes.
    #[serde(default = "default_rounds")]
    #[schemars(range(min = 1, max = 100))]
    pub max_rounds: i32,
}

impl Default for TrainerSpec {
    fn default() -> Self {
        Self {
            nodes: one(),
            gpus_per_node: 0,
            cpu_millis: default_trainer_cpu(),
            memory_mib: default_trainer_memory(),
            image: None,
            layout: Layout::default(),
            lora: None,
            sharding: Sharding::default(),
            recompute: Recompute::default(),
            precision: Precision::default(),
            max_rounds: default_rounds(),
        }
    }
}

fn one() -> i32 {
    1
}
fn default_trainer_cpu() -> i32 {
    2_000
}
fn default_trainer_memory() -> i32 {
    8_192
}
fn default_rounds() -> i32 {
    5
}

/// How examples are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Layout {
    /// Token tries: what examples share is computed once, forward and backward.
    #[default]
    TreePacked,
    /// One sequence an example: the reference path.
    Linear,
}

/// What each process of a training step holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sharding {
    /// The whole model; the examples of a step are divided.
    #[default]
    Nothing,
    /// A part of parameters, gradients and optimiser state too (ZeRO-3). Layers are recomputed.
    Everything,
}

/// What is kept of a forward pass for its backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Recompute {
    /// Every activation: fastest, most memory.
    #[default]
    Nothing,
    /// What enters each layer and what leaves its attention; the rest is computed again. For long contexts.
    Layers,
}

/// Number format of a computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// bfloat16 on GPUs, float32 on the CPU.
    #[default]
    Auto,
    /// float32: exact, and slow on GPUs.
    Float32,
    /// bfloat16. Layers are recomputed, and several processes divide what is trained.
    Bfloat16,
}

/// A low-rank adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lora {
    /// Rank of the update of each weight matrix.
    #[schemars(range(min = 1, max = 512))]
    pub rank: i32,
    /// Scale of the update, divided by the rank.
    #[schemars(range(min = 1, max = 4096))]
    pub alpha: i32,
}

/// A measurement that is repeated for the base model and after each stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkTemplate {
    /// Name within the run.
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The tasks.
    pub task_set_ref: LocalRef,
    /// The scaffold around the model.
    #[serde(default)]
    pub harness: HarnessSpec,
    /// How tokens are drawn; greedy by default.
    #[serde(default)]
    pub sampling: Sampling,
    /// How an attempt ends when it does not end by itself.
    #[serde(default)]
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
}

fn default_parallelism() -> i32 {
    16
}

/// When the result counts as better than the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// Name of the benchmark that decides.
    #[schemars(length(min = 1, max = 20))]
    pub benchmark: String,
    /// The two-sided exact McNemar test against the base must give less than this, with more wins than losses.
    #[serde(default = "default_p_value")]
    pub max_p_value: Decimal,
}

fn default_p_value() -> Decimal {
    Decimal::constant("0.05")
}

/// What is known of an AlignmentRun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlignmentRunStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Succeeded`, `Finished`, `Suspended`, `Promoted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// When work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the report was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Names of the steps that are under way, joined by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub stage: Option<String>,
    /// Optimiser steps done and planned of the stage that trains, as `12/84`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub progress: Option<String>,
    /// Loss of its last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Decimal>,
    /// Reward margin of its last step (DPO).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_margin: Option<Decimal>,
    /// Tokens computed a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<Decimal>,
    /// Every step of the run in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub steps: Vec<StepStatus>,
    /// Key of the aligned model's manifest below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub model: Option<String>,
    /// Measurements, before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub results: Vec<BenchmarkResult>,
    /// Key of the report page below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub report: Option<String>,
    /// Folder of the artifacts below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub artifacts: Option<String>,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Name, for example `rollout-0`, `sft` or `bench-fresh-base`.
    #[schemars(length(max = 63))]
    pub name: String,
    /// `Waiting`, `Running`, `Done`, `Blocked` or `Failed`.
    #[schemars(length(max = 10))]
    pub state: String,
    /// Digest of what it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
}

/// One measurement of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkResult {
    /// Name of the benchmark template.
    #[schemars(length(max = 20))]
    pub benchmark: String,
    /// `base`, `sft` or `dpo`.
    #[schemars(length(max = 20))]
    pub model: String,
    /// Tasks resolved.
    pub resolved: i64,
    /// Tasks in all.
    pub total: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(change: impl FnOnce(&mut Value)) -> AlignmentRun {
        let mut object = json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "AlignmentRun", "metadata": { "name": "a" },
            "spec": {
                "model": { "base": "builtin:mini-base" },
                "forestRef": { "name": "f" },
                "stages": { "sft": {}, "dpo": {} },
            },
        });
        change(&mut object["spec"]);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn defaults_are_the_papers_where_it_gives_them() {
        let stages = run(|_| ()).spec.stages;
        let (sft, dpo) = (stages.sft.unwrap(), stages.dpo.unwrap());
        assert_eq!(sft.optimization.max_epochs, 10);
        assert_eq!(sft.optimization.schedule, Schedule::Linear);
        assert_eq!((sft.learning_rate.as_str(), dpo.learning_rate.as_str()), ("1e-5", "3e-7"));
        assert_eq!(dpo.beta.as_str(), "0.1");
    }

    #[test]
    fn a_run_uses_a_forest_or_makes_one() {
        run(|_| ()).validate_cel().unwrap();
        let neither = run(|spec| spec["forestRef"] = Value::Null);
        assert!(neither.validate_cel().unwrap_err().to_string().contains("either forestRef"));
        let template_for_nothing = run(|spec| spec["forest"] = json!({}));
        assert!(
            template_for_nothing.validate_cel().unwrap_err().to_string().contains("forest is a template")
        );
    }

    #[test]
    fn a_run_without_stages_is_refused() {
        let error = run(|spec| spec["stages"] = json!({})).validate_cel().unwrap_err().to_string();
        assert!(error.contains("sft, dpo or both"), "{error}");
    }
}
