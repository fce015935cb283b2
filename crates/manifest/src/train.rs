//! What a training step is told and what it leaves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::group::OutputRef;
use crate::{Digest, ObjectKeys};

/// Where model weights are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ModelSource {
    /// Shipped with the programs, for example `mini-base`.
    Builtin(String),
    /// A directory in Hugging Face layout.
    Directory(String),
    /// A model manifest in the store, by key.
    Manifest(String),
}

/// One training step of an AlignmentRun, complete: a trainer pod needs nothing else but the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainStep {
    /// Keys of the step; checkpoints and the model lie below.
    pub keys: ObjectKeys,
    /// Name of the step, for example `sft` or `dpo-0`.
    pub name: String,
    /// The model to start from; for `dpo` also the reference policy.
    pub model: ModelSource,
    /// Key of the [`ForestManifest`](crate::group::ForestManifest) that holds the data.
    pub forest: String,
    /// The stage's settings, in the trainer's own configuration format, without paths.
    pub settings: Value,
    /// Round of the step's Job, from 0; a later one resumes from the newest valid checkpoint.
    pub round: u32,
}

/// A model that a step produced, in Hugging Face layout below the step's `model/`. Create-only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelManifest {
    /// Files by name relative to the layout's root.
    pub files: BTreeMap<String, OutputRef>,
    /// Digests of what went in: `forest`, `settings`, and each file of the model that training began with.
    pub inputs: BTreeMap<String, Digest>,
    /// Optimiser step of the checkpoint that was kept.
    pub step: u64,
    /// Steps that were run.
    pub steps: u64,
    /// Final figures by name: losses, margins, accuracies, tokens, counts of examples used and dropped by reason.
    pub metrics: BTreeMap<String, Value>,
    /// Digest of the [`AdapterManifest`], for a step that trained an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Digest>,
}

/// The low-rank adapter that a step trained, in PEFT's layout below the step's `adapter/`. The step's model has it merged, so
/// nothing of ours reads it. Create-only, written before the [`ModelManifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterManifest {
    /// Files by name: `adapter_config.json` and `adapter_model.safetensors`.
    pub files: BTreeMap<String, OutputRef>,
    /// Digests of the files of the model that it is an update of, by the names of [`ModelManifest::inputs`].
    pub inputs: BTreeMap<String, Digest>,
}

/// Where a training step stands; overwritten, a hint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainProgress {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps planned.
    pub steps: u64,
    /// Loss of the last step, in nats.
    pub loss: Option<f64>,
    /// Lowest validation loss so far, in nats.
    pub best_validation_loss: Option<f64>,
    /// Mean reward margin of the last step (DPO).
    pub reward_margin: Option<f64>,
    /// Share of pairs whose chosen side has the higher reward in the last step (DPO).
    pub accuracy: Option<f64>,
    /// Tokens computed a second, shared prefixes once.
    pub tokens_per_second: Option<f64>,
}
