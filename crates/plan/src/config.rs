//! What a worker is told: one JSON document in the environment of its container, written by the operator.
//!
//! A worker needs nothing else but the store. Specs are carried whole, so that a worker applies the same defaults that the
//! API server showed the user.

use sealign_crds::{BenchmarkSpec, ObjectRef, RolloutCampaignSpec, TaskSetSpec, TrajectoryForestSpec};
use sealign_manifest::train::{ModelSource, TrainStep};
use sealign_manifest::{Digest, ObjectKeys};
use serde::{Deserialize, Serialize};

/// Environment variable that holds a [`WorkerConfig`].
pub const CONFIG_VARIABLE: &str = "SEALIGN_CONFIG";
/// Environment variable that holds the store's URL.
pub const STORE_VARIABLE: &str = "SEALIGN_STORE";
/// Environment variable that holds the UID of the worker's own pod.
pub const POD_UID_VARIABLE: &str = "SEALIGN_POD_UID";
/// Environment variable that names the folder of pods (embedded runs); absent in a cluster.
pub const POD_DIRECTORY_VARIABLE: &str = "SEALIGN_POD_DIRECTORY";
/// Environment variable of Kubernetes' Indexed Jobs: the completion index.
pub const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Environment variable of a trainer's pod: the port of its metrics. Embedded runs take it away, as their pods share one machine.
pub const METRICS_PORT_VARIABLE: &str = "SEALIGN_METRICS_PORT";

/// What a worker is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "worker", rename_all = "camelCase")]
pub enum WorkerConfig {
    /// Read task rows, write the task list and, with health on, the plan of its gradings.
    ResolveTasks(ResolveTasks),
    /// Freeze a campaign's (or a predictions benchmark's) work.
    ResolvePlan(ResolvePlan),
    /// Drive sandboxes until everything has its record.
    Run(Run),
    /// Merge attempts into a forest.
    BuildForest(BuildForest),
    /// Train one step.
    Train(TrainStep),
    /// Serve a model.
    Serve(Serve),
    /// Write a report.
    Report(Report),
}

/// Configuration of the resolver of a TaskSet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolveTasks {
    /// Keys of the TaskSet.
    pub keys: ObjectKeys,
    /// Its spec.
    pub spec: TaskSetSpec,
}

/// Configuration of the resolver of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvePlan {
    /// Keys of the campaign or benchmark.
    pub keys: ObjectKeys,
    /// What is to be planned.
    pub work: Work,
    /// Keys of the TaskSet.
    pub task_keys: ObjectKeys,
}

/// What a runner works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::large_enum_variant, reason = "one lives for as long as a worker; boxes would buy nothing")]
pub enum Work {
    /// Rollouts and the gradings that they need.
    Campaign(RolloutCampaignSpec),
    /// Gradings of gold and empty patches.
    Health(TaskSetSpec),
    /// Gradings of a file of predictions.
    Predictions(BenchmarkSpec),
}

/// Configuration of a runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Keys of the object that owns the work.
    pub keys: ObjectKeys,
    /// That object; the pods it may claim carry its UID as a label.
    pub owner: ObjectRef,
    /// The work.
    pub work: Work,
    /// Keys of the TaskSet.
    pub task_keys: ObjectKeys,
}

/// Configuration of a forest worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildForest {
    /// Keys of the forest.
    pub keys: ObjectKeys,
    /// Its spec.
    pub spec: TrajectoryForestSpec,
    /// The closed campaigns that take part.
    pub campaigns: Vec<ClosedCampaign>,
    /// Keys of the TaskSets that take no part.
    pub excluded: Vec<ObjectKeys>,
}

/// A campaign that is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClosedCampaign {
    /// Its name: the source of its trajectories.
    pub name: String,
    /// Its keys.
    pub keys: ObjectKeys,
    /// Digest of its closed set.
    pub digest: Digest,
}

/// Configuration of a model server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Serve {
    /// The weights.
    pub model: ModelSource,
    /// Longest context in tokens.
    pub context_tokens: i32,
    /// Requests that are decoded together at most.
    pub max_batch: i32,
}

/// Configuration of a report worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// Of one benchmark.
    Benchmark(BenchmarkReport),
    /// Of a whole run.
    Alignment(AlignmentReport),
}

/// Configuration of the report of a Benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkReport {
    /// Keys of the benchmark; the report goes here.
    pub keys: ObjectKeys,
    /// Its name.
    pub name: String,
    /// Keys of its closed campaign (its own keys when it measures predictions).
    pub campaign: ObjectKeys,
    /// Keys of its TaskSet.
    pub task_keys: ObjectKeys,
    /// Baselines by name: keys of their benchmarks, whose `report.json` exists.
    pub baselines: Vec<NamedKeys>,
}

/// Configuration of the report of an AlignmentRun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlignmentReport {
    /// Keys of the run; the report goes here.
    pub keys: ObjectKeys,
    /// Its name.
    pub name: String,
    /// Keys of its forest.
    pub forest: ObjectKeys,
    /// Training steps in order, by name.
    pub steps: Vec<NamedKeys>,
    /// Benchmarks in order: template name, model (`base`, `sft`, `dpo`) and keys.
    pub benchmarks: Vec<MeasuredModel>,
    /// Largest p-value that promotes, the benchmark that decides, where a gate is set.
    pub promotion: Option<PromotionGate>,
}

/// Keys with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedKeys {
    /// Name.
    pub name: String,
    /// Keys.
    pub keys: ObjectKeys,
}

/// One benchmark of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredModel {
    /// Name of the template.
    pub benchmark: String,
    /// `base`, `sft` or `dpo`.
    pub model: String,
    /// Keys of the Benchmark object.
    pub keys: ObjectKeys,
}

/// When a run is promoted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionGate {
    /// Name of the benchmark template that decides.
    pub benchmark: String,
    /// The p-value must be below this.
    pub max_p_value: f64,
}
