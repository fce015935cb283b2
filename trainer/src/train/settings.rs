//! What a training run is told. The JSON form is camelCase, unknown fields are refused.

use std::path::PathBuf;

use sealign_batch::order::{Grouping, StepSize};
use sealign_batch::{Layout, MaskMode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::loss::dpo::PreferenceLoss;
use crate::loss::sft::Reduction;
use crate::model::Recompute;
use crate::model::adapter::Lora;
use crate::model::tensors::SaveType;
use crate::optim::ScheduleKind;
use crate::placement::{DeviceChoice, Precision};

/// A setting is out of range.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{field} must be {expected}")]
pub struct SettingError {
    /// Name in the JSON form.
    pub field: &'static str,
    /// What it has to be.
    pub expected: &'static str,
}

/// A whole run: where things are, and the stage's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainConfig {
    /// Model folder in Hugging Face layout; for `dpo` also the reference policy.
    pub model: PathBuf,
    /// Where others find that model: what the configuration of an adapter calls it. The folder itself by default.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Folder with the tokenizer, if it is not the model's.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// JSONL files of SFT rows: the data of stage `sft`, the anchor examples of stage `dpo`.
    #[serde(default)]
    pub sft: Vec<PathBuf>,
    /// JSONL files of preference rows: the data of stage `dpo`.
    #[serde(default)]
    pub preferences: Vec<PathBuf>,
    /// Folder for checkpoints, logs and the model. A run with the same inputs continues there.
    pub output: PathBuf,
    /// The stage.
    pub settings: StageSettings,
}

/// Which objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Supervised fine-tuning on successful trajectories.
    Sft,
    /// Direct preference optimisation on pairs.
    Dpo,
}

/// How messages become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatFormatChoice {
    /// The model's chat template, or ChatML where it has none and knows ChatML's control tokens.
    #[default]
    Auto,
    /// ChatML whatever the model brings.
    Chatml,
}

/// What every process of a run holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sharding {
    /// The whole model; the examples of a step are divided.
    #[default]
    Nothing,
    /// A part of parameters, gradients and optimiser state too. Layers are recomputed.
    Everything,
}

/// SFT examples that are mixed into every DPO step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anchor {
    /// Examples a step, drawn in seeded order without replacement until all were used.
    pub examples: usize,
    /// Weight of their mean loss beside the preference loss.
    #[serde(deserialize_with = "decimal::number")]
    pub weight: f64,
}

/// Hyper-parameters of a stage. Numbers may be written as decimal strings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StageSettings {
    /// Which objective.
    pub stage: Stage,
    /// Seed of the data order and the validation split.
    #[serde(default)]
    pub seed: u64,
    /// Longest example in tokens. SFT trajectories are cut after a complete turn, pairs are left out.
    #[serde(default = "defaults::context")]
    pub context: usize,
    /// Whether shared prefixes are computed once.
    #[serde(default)]
    pub layout: Layout,
    /// What is kept for the backward pass.
    #[serde(default)]
    pub recompute: Recompute,
    /// How messages become text.
    #[serde(default)]
    pub chat_format: ChatFormatChoice,
    /// Which tokens of a trained message carry loss.
    #[serde(default)]
    pub mask: MaskMode,
    /// Passes over the data at most; the checkpoint with the lowest validation loss is kept.
    #[serde(default = "defaults::epochs")]
    pub max_epochs: usize,
    /// Optimiser steps at most.
    #[serde(default)]
    pub max_steps: Option<usize>,
    /// Examples, or tokens before sharing, of one optimiser step.
    #[serde(default = "defaults::batch")]
    pub batch: StepSize,
    /// Whether examples or whole tasks are shuffled.
    #[serde(default)]
    pub grouping: Grouping,
    /// Tokens before sharing that are computed at once; a larger step accumulates gradients.
    #[serde(default = "defaults::microbatch_tokens")]
    pub microbatch_tokens: usize,
    /// Peak learning rate; by default 1e-5 for SFT, 3e-7 for DPO.
    #[serde(default, deserialize_with = "decimal::optional_number")]
    pub learning_rate: Option<f64>,
    /// Shape of the decay.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// Share of all steps that warm up.
    #[serde(default = "defaults::warmup", deserialize_with = "decimal::number")]
    pub warmup_ratio: f64,
    /// Learning rate after the last step as a share of the peak.
    #[serde(default, deserialize_with = "decimal::number")]
    pub floor_share: f64,
    /// AdamW decay of the first moment.
    #[serde(default = "defaults::beta1", deserialize_with = "decimal::number")]
    pub adam_beta1: f64,
    /// AdamW decay of the second moment.
    #[serde(default = "defaults::beta2", deserialize_with = "decimal::number")]
    pub adam_beta2: f64,
    /// AdamW epsilon.
    #[serde(default = "defaults::epsilon", deserialize_with = "decimal::number")]
    pub adam_epsilon: f64,
    /// AdamW weight decay, on matrices only.
    #[serde(default, deserialize_with = "decimal::number")]
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 turns clipping off.
    #[serde(default = "defaults::one", deserialize_with = "decimal::number")]
    pub max_gradient_norm: f64,
    /// Share of the tasks that is kept for validation.
    #[serde(default = "defaults::validation", deserialize_with = "decimal::number")]
    pub validation_share: f64,
    /// SFT: what the sum over tokens is divided by.
    #[serde(default)]
    pub reduction: Reduction,
    /// DPO: strength of the pull towards the reference.
    #[serde(default = "defaults::beta", deserialize_with = "decimal::number")]
    pub beta: f64,
    /// DPO: which loss.
    #[serde(default)]
    pub preference_loss: PreferenceLoss,
    /// DPO: assumed share of swapped labels.
    #[serde(default, deserialize_with = "decimal::number")]
    pub label_smoothing: f64,
    /// DPO: divide log-probabilities by their number of tokens.
    #[serde(default)]
    pub length_normalized: bool,
    /// DPO: SFT examples in every step.
    #[serde(default)]
    pub anchor: Option<Anchor>,
    /// DPO: use pairs whose prefix was condensed by the scaffold.
    #[serde(default)]
    pub include_condensed_prefixes: bool,
    /// Steps between checkpoints; there is always one at the end of an epoch.
    #[serde(default)]
    pub checkpoint_steps: Option<usize>,
    /// Number format of the written model. float32 by default: bfloat16 rounds away what a small learning rate changed.
    #[serde(default = "defaults::save_type")]
    pub save_type: SaveType,
    /// CPU threads of one operation; 0 takes the number of cores, at most 8.
    #[serde(default)]
    pub threads: usize,
    /// What every process holds when there are several. In half precision always [`Sharding::Everything`].
    #[serde(default)]
    pub sharding: Sharding,
    /// Where is computed.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Number format of the computation.
    #[serde(default)]
    pub precision: Precision,
    /// Train low-rank adapters instead of all weights. The model that comes out has them merged; they are also written in
    /// PEFT's layout.
    #[serde(default)]
    pub lora: Option<Lora>,
    /// Steps whose gradient norm exceeds this multiple of the median of the last steps are not applied; by default all are.
    #[serde(default, deserialize_with = "decimal::optional_number")]
    pub spike_factor: Option<f64>,
    /// Seconds that one process waits for another before it gives up.
    #[serde(default = "defaults::timeout")]
    pub collective_timeout_seconds: u64,
}

mod defaults {
    use super::{SaveType, StepSize};

    pub fn context() -> usize {
        32_768
    }
    pub fn epochs() -> usize {
        10
    }
    pub fn batch() -> StepSize {
        StepSize::Examples(8)
    }
    pub fn microbatch_tokens() -> usize {
        32_768
    }
    pub fn warmup() -> f64 {
        0.1
    }
    pub fn beta1() -> f64 {
        0.9
    }
    pub fn beta2() -> f64 {
        0.999
    }
    pub fn epsilon() -> f64 {
        1e-8
    }
    pub fn one() -> f64 {
        1.0
    }
    pub fn validation() -> f64 {
        0.05
    }
    pub fn beta() -> f64 {
        0.1
    }
    pub fn save_type() -> SaveType {
        SaveType::F32
    }
    pub fn timeout() -> u64 {
        600
    }
}

impl StageSettings {
    /// The defaults of a stage.
    pub fn new(stage: Stage) -> Self {
        Self {
            stage,
            seed: 0,
            context: defaults::context(),
            layout: Layout::default(),
            recompute: Recompute::default(),
            chat_format: ChatFormatChoice::default(),
            mask: MaskMode::default(),
            max_epochs: defaults::epochs(),
            max_steps: None,
            batch: defaults::batch(),
            grouping: Grouping::default(),
            microbatch_tokens: defaults::microbatch_tokens(),
            learning_rate: None,
            schedule: ScheduleKind::default(),
            warmup_ratio: defaults::warmup(),
            floor_share: 0.0,
            adam_beta1: defaults::beta1(),
            adam_beta2: defaults::beta2(),
            adam_epsilon: defaults::epsilon(),
            weight_decay: 0.0,
            max_gradient_norm: defaults::one(),
            validation_share: defaults::validation(),
            reduction: Reduction::default(),
            beta: defaults::beta(),
            preference_loss: PreferenceLoss::default(),
            label_smoothing: 0.0,
            length_normalized: false,
            anchor: None,
            include_condensed_prefixes: false,
            checkpoint_steps: None,
            save_type: defaults::save_type(),
            threads: 0,
            sharding: Sharding::default(),
            device: DeviceChoice::default(),
            precision: Precision::default(),
            lora: None,
            spike_factor: None,
            collective_timeout_seconds: defaults::timeout(),
        }
    }

    /// The peak learning rate after the default.
    pub fn peak_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(match self.stage {
            Stage::Sft => 1e-5,
            Stage::Dpo => 3e-7,
        })
    }

    /// Refuses values outside of their range.
    pub fn check(&self) -> Result<(), SettingError> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let share = |value: f64| (0.0..1.0).contains(&value);
        let at_least_one = |value: Option<usize>| value != Some(0);
        let (batch_field, batch_size) = match self.batch {
            StepSize::Examples(count) => ("batch.examples", count),
            StepSize::Tokens(count) => ("batch.tokens", count),
        };
        for (field, expected, holds) in [
            ("context", "at least 2", self.context >= 2),
            ("maxEpochs", "at least 1", self.max_epochs >= 1),
            ("maxSteps", "at least 1", at_least_one(self.max_steps)),
            ("checkpointSteps", "at least 1", at_least_one(self.checkpoint_steps)),
            (batch_field, "at least 1", batch_size >= 1),
            ("microbatchTokens", "at least 1", self.microbatch_tokens >= 1),
            ("learningRate", "above 0", positive(self.peak_rate())),
            ("lora.rank", "at least 1", self.lora.is_none_or(|lora| lora.rank >= 1)),
            ("lora.alpha", "above 0", self.lora.is_none_or(|lora| positive(lora.alpha))),
            (
                "sharding",
                "nothing when lora is set: adapters leave nothing worth dividing",
                self.lora.is_none() || self.sharding == Sharding::Nothing,
            ),
            ("spikeFactor", "above 1", self.spike_factor.is_none_or(|factor| factor > 1.0)),
            (
                "collectiveTimeoutSeconds",
                "between 1 and 86400",
                (1..=86_400).contains(&self.collective_timeout_seconds),
            ),
            ("warmupRatio", "at least 0 and below 1", share(self.warmup_ratio)),
            ("floorShare", "at least 0 and below 1", share(self.floor_share)),
            ("adamBeta1", "at least 0 and below 1", share(self.adam_beta1)),
            ("adamBeta2", "at least 0 and below 1", share(self.adam_beta2)),
            ("adamEpsilon", "above 0", positive(self.adam_epsilon)),
            ("weightDecay", "at least 0", self.weight_decay >= 0.0 && self.weight_decay.is_finite()),
            (
                "maxGradientNorm",
                "at least 0",
                self.max_gradient_norm >= 0.0 && self.max_gradient_norm.is_finite(),
            ),
            (
                "validationShare",
                "above 0 and below 1",
                self.validation_share > 0.0 && self.validation_share < 1.0,
            ),
            ("beta", "above 0", positive(self.beta)),
            ("labelSmoothing", "at least 0 and below 0.5", (0.0..0.5).contains(&self.label_smoothing)),
            (
                "anchor.weight",
                "at least 0",
                self.anchor.is_none_or(|anchor| anchor.weight >= 0.0 && anchor.weight.is_finite()),
            ),
            (
                "anchor.examples",
                "at least 1 (or leave anchor out)",
                self.anchor.is_none_or(|anchor| anchor.examples >= 1),
            ),
        ] {
            if !holds {
                return Err(SettingError { field, expected });
            }
        }
        Ok(())
    }
}

/// Numbers that may also be written as decimal strings, as Kubernetes objects do.
mod decimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(f64),
        Text(String),
    }

    fn parse<E: Error>(value: NumberOrText) -> Result<f64, E> {
        match value {
            NumberOrText::Number(number) => Ok(number),
            NumberOrText::Text(text) => {
                text.trim().parse().map_err(|_| E::custom(format!("{text:?} is not a decimal number")))
            }
        }
    }

    pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        parse(NumberOrText::deserialize(deserializer)?)
    }

    pub fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Option::<NumberOrText>::deserialize(deserializer)?.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StageSettings, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn the_defaults_are_the_papers() {
        let settings = parse(r#"{"stage": "dpo"}"#).unwrap();
        assert_eq!(
            serde_json::to_value(&settings).unwrap(),
            serde_json::to_value(StageSettings::new(Stage::Dpo)).unwrap()
        );
        assert!((settings.peak_rate() - 3e-7).abs() < 1e-20);
        assert_eq!((settings.max_epochs, settings.batch, settings.beta), (10, StepSize::Examples(8), 0.1));
        settings.check().unwrap();
    }

    #[test]
    fn decimals_may_be_strings_and_unknown_fields_are_refused() {
        let settings =
            parse(r#"{"stage": "sft", "learningRate": "2e-4", "batch": {"tokens": 3000}}"#).unwrap();
        assert!((settings.peak_rate() - 2e-4).abs() < 1e-12);
        assert!(
            parse(r#"{"stage": "sft", "learning_rate": 1}"#)
                .unwrap_err()
                .to_string()
                .contains("unknown field")
        );
        assert!(
            parse(r#"{"stage": "sft", "beta": "ten"}"#)
                .unwrap_err()
                .to_string()
                .contains("not a decimal number")
        );
    }

    #[test]
    fn values_out_of_range_name_the_field() {
        let mut settings = StageSettings::new(Stage::Sft);
        settings.validation_share = 0.0;
        assert_eq!(settings.check().unwrap_err().field, "validationShare");
        settings.validation_share = 0.05;
        settings.batch = StepSize::Tokens(0);
        assert_eq!(settings.check().unwrap_err().to_string(), "batch.tokens must be at least 1");
    }
}
