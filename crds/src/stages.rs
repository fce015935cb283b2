//! The training stages of an AlignmentRun and how their losses are minimised.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;

/// What is trained, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stages {
    /// Imitate successful attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftStage>,
    /// Prefer the better side of pairs. Starts from the SFT model, or from the base without that stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoStage>,
}

/// Imitate successful attempts (paper eq. 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SftStage {
    /// Peak learning rate. The paper prints one rate for both stages with its exponent lost; 3e-7 is its literal reading.
    #[serde(default = "default_sft_rate")]
    pub learning_rate: Decimal,
    /// Everything else.
    #[serde(default)]
    pub optimization: Optimization,
    /// Leave unparseable turns of successful attempts out of the loss.
    #[serde(default = "yes")]
    pub mask_invalid_turns: bool,
}

/// Prefer the better side of pairs (paper eqs. 4 and 5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DpoStage {
    /// Peak learning rate.
    #[serde(default = "default_dpo_rate")]
    pub learning_rate: Decimal,
    /// Strength of the tie to the reference policy.
    #[serde(default = "default_beta")]
    pub beta: Decimal,
    /// SFT examples mixed into every optimiser step as an anchor.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4096))]
    pub sft_examples_per_step: i32,
    /// Weight of their loss.
    #[serde(default = "default_sft_weight")]
    pub sft_weight: Decimal,
    /// Everything else.
    #[serde(default)]
    pub optimization: Optimization,
}

fn default_sft_rate() -> Decimal {
    Decimal::constant("1e-5")
}
fn default_dpo_rate() -> Decimal {
    Decimal::constant("3e-7")
}
fn default_beta() -> Decimal {
    Decimal::constant("0.1")
}
fn default_sft_weight() -> Decimal {
    Decimal::constant("1")
}
fn yes() -> bool {
    true
}

/// How a stage's loss is minimised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Optimization {
    /// Passes over the data at most; the checkpoint with the lowest validation loss is kept.
    #[serde(default = "default_epochs")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_epochs: i32,
    /// Optimiser steps at most; no bound when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_steps: Option<i64>,
    /// Examples (pairs) of one optimiser step; not used when `tokensPerStep` is given.
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_size: i32,
    /// Tokens of one optimiser step instead of a fixed number of examples. Lengths are mixed at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_per_step: Option<i64>,
    /// Longest example; longer SFT examples are cut after a whole turn, longer pairs are dropped and counted.
    #[serde(default = "default_context")]
    #[schemars(range(min = 64, max = 4_194_304))]
    pub context_tokens: i32,
    /// How the learning rate falls.
    #[serde(default)]
    pub schedule: Schedule,
    /// Share of the steps over which it rises, of 1.
    #[serde(default = "default_warmup")]
    pub warmup_ratio: Decimal,
    /// Share of the peak at which it ends, of 1.
    #[serde(default = "zero")]
    pub final_ratio: Decimal,
    /// AdamW's first beta.
    #[serde(default = "default_beta1")]
    pub adam_beta1: Decimal,
    /// AdamW's second beta.
    #[serde(default = "default_beta2")]
    pub adam_beta2: Decimal,
    /// Decoupled weight decay.
    #[serde(default = "zero")]
    pub weight_decay: Decimal,
    /// Global gradient norm at most.
    #[serde(default = "default_clip")]
    pub clip_norm: Decimal,
    /// Share of the tasks held out for validation, in per cent; at least one task.
    #[serde(default = "default_validation")]
    #[schemars(range(min = 1, max = 50))]
    pub validation_percent: i32,
    /// Optimiser steps between checkpoints that a crash resumes from.
    #[serde(default = "default_checkpoint_steps")]
    #[schemars(range(min = 1))]
    pub checkpoint_steps: i32,
}

impl Default for Optimization {
    fn default() -> Self {
        Self {
            max_epochs: default_epochs(),
            max_steps: None,
            batch_size: default_batch(),
            tokens_per_step: None,
            context_tokens: default_context(),
            schedule: Schedule::default(),
            warmup_ratio: default_warmup(),
            final_ratio: zero(),
            adam_beta1: default_beta1(),
            adam_beta2: default_beta2(),
            weight_decay: zero(),
            clip_norm: default_clip(),
            validation_percent: default_validation(),
            checkpoint_steps: default_checkpoint_steps(),
        }
    }
}

fn default_epochs() -> i32 {
    10
}
fn default_batch() -> i32 {
    8
}
fn default_context() -> i32 {
    32_768
}
fn default_warmup() -> Decimal {
    Decimal::constant("0.1")
}
fn zero() -> Decimal {
    Decimal::constant("0")
}
fn default_beta1() -> Decimal {
    Decimal::constant("0.9")
}
fn default_beta2() -> Decimal {
    Decimal::constant("0.999")
}
fn default_clip() -> Decimal {
    Decimal::constant("1")
}
fn default_validation() -> i32 {
    5
}
fn default_checkpoint_steps() -> i32 {
    100
}

/// How the learning rate falls after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Schedule {
    /// In a straight line.
    #[default]
    Linear,
    /// Along half a cosine.
    Cosine,
}
