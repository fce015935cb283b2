//! The settings of a step as the control plane writes them, read into those of a stage.

use sealign_batch::Layout;
use sealign_batch::order::StepSize;
use serde::Deserialize;
use serde_json::Value;

use super::JobError;
use crate::model::Recompute;
use crate::model::adapter::Lora;
use crate::optim::ScheduleKind;
use crate::placement::{DeviceChoice, Precision};
use crate::train::settings::{Anchor, Sharding, Stage, StageSettings};

/// A step's settings; the control plane documents their form.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepSettings {
    stage: Stage,
    seed: u64,
    layout: Layout,
    #[serde(default)]
    lora: Option<Lora>,
    #[serde(default)]
    sharding: Sharding,
    #[serde(default)]
    recompute: Recompute,
    #[serde(default)]
    device: DeviceChoice,
    #[serde(default)]
    precision: Precision,
    learning_rate: f64,
    optimization: Optimization,
    #[serde(default)]
    mask_invalid_turns: Option<bool>,
    #[serde(default)]
    beta: Option<f64>,
    #[serde(default)]
    sft_examples_per_step: Option<usize>,
    #[serde(default)]
    sft_weight: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Optimization {
    max_epochs: usize,
    max_steps: Option<usize>,
    batch_size: usize,
    tokens_per_step: Option<usize>,
    context_tokens: usize,
    schedule: ScheduleKind,
    warmup_ratio: f64,
    final_ratio: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    weight_decay: f64,
    clip_norm: f64,
    validation_percent: f64,
    checkpoint_steps: usize,
}

impl StepSettings {
    /// Reads the settings of a step.
    pub fn read(settings: &Value) -> Result<Self, JobError> {
        serde_json::from_value(settings.clone())
            .map_err(|error| JobError::Input(format!("the step's settings cannot be read: {error}")))
    }

    /// Which objective.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether unparseable turns stay out of the loss.
    pub fn masks_invalid_turns(&self) -> bool {
        self.mask_invalid_turns.unwrap_or(true)
    }

    /// Whether the step needs SFT examples.
    pub fn wants_sft(&self) -> bool {
        self.stage == Stage::Sft || self.sft_examples_per_step.unwrap_or(0) > 0
    }

    /// As the training loop takes them.
    pub fn to_stage(&self) -> StageSettings {
        let optimization = &self.optimization;
        let mut settings = StageSettings::new(self.stage);
        settings.seed = self.seed;
        settings.layout = self.layout;
        (settings.lora, settings.sharding, settings.recompute) = (self.lora, self.sharding, self.recompute);
        (settings.device, settings.precision) = (self.device, self.precision);
        settings.learning_rate = Some(self.learning_rate);
        settings.context = optimization.context_tokens;
        settings.max_epochs = optimization.max_epochs;
        settings.max_steps = optimization.max_steps;
        settings.batch = match optimization.tokens_per_step {
            Some(tokens) => StepSize::Tokens(tokens),
            None => StepSize::Examples(optimization.batch_size),
        };
        settings.schedule = optimization.schedule;
        settings.warmup_ratio = optimization.warmup_ratio;
        settings.floor_share = optimization.final_ratio;
        settings.adam_beta1 = optimization.adam_beta1;
        settings.adam_beta2 = optimization.adam_beta2;
        settings.weight_decay = optimization.weight_decay;
        settings.max_gradient_norm = optimization.clip_norm;
        settings.validation_share = optimization.validation_percent / 100.0;
        settings.checkpoint_steps = Some(optimization.checkpoint_steps);
        if let Some(beta) = self.beta {
            settings.beta = beta;
        }
        let examples = self.sft_examples_per_step.unwrap_or(0);
        if self.stage == Stage::Dpo && examples > 0 {
            settings.anchor = Some(Anchor { examples, weight: self.sft_weight.unwrap_or(1.0) });
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_crds::alignment_run::{DpoStage, Optimization as OptimizationSpec, SftStage, TrainerSpec};
    use serde_json::json;

    #[test]
    fn what_the_control_plane_writes_is_what_the_trainer_reads() {
        let dpo: DpoStage = serde_json::from_value(json!({
            "beta": "0.25", "learningRate": "2e-4", "sftExamplesPerStep": 8, "sftWeight": "0.5",
            "optimization": { "tokensPerStep": 3000, "maxSteps": 7, "schedule": "Cosine", "validationPercent": 10 },
        }))
        .unwrap();
        let written = sealign_plan::settings::dpo(&dpo, &TrainerSpec::default(), 3);
        let settings = StepSettings::read(&written).unwrap();
        assert!(settings.wants_sft());
        let stage = settings.to_stage();
        assert_eq!(stage.stage, Stage::Dpo);
        assert_eq!((stage.seed, stage.max_steps, stage.batch), (3, Some(7), StepSize::Tokens(3000)));
        assert_eq!((stage.beta, stage.learning_rate, stage.validation_share), (0.25, Some(2e-4), 0.1));
        assert_eq!(stage.anchor, Some(Anchor { examples: 8, weight: 0.5 }));
        assert_eq!(stage.schedule, ScheduleKind::Cosine);
        assert_eq!((stage.device, stage.precision), (DeviceChoice::Cpu, Precision::Auto));
        let gpus = TrainerSpec { gpus_per_node: 8, ..TrainerSpec::default() };
        let written = sealign_plan::settings::dpo(&dpo, &gpus, 3);
        assert_eq!(StepSettings::read(&written).unwrap().to_stage().device, DeviceChoice::Cuda);
    }

    #[test]
    fn sft_defaults_pass_through() {
        let stage: SftStage = serde_json::from_value(json!({})).unwrap();
        let written = sealign_plan::settings::sft(&stage, &TrainerSpec::default(), 0);
        let settings = StepSettings::read(&written).unwrap();
        assert!(settings.masks_invalid_turns());
        let stage = settings.to_stage();
        assert_eq!(
            stage.batch,
            StepSize::Examples(usize::try_from(OptimizationSpec::default().batch_size).unwrap())
        );
        assert_eq!(stage.anchor, None);
    }

    #[test]
    fn adapter_sharding_and_recomputation_pass_through() {
        let stage: SftStage = serde_json::from_value(json!({})).unwrap();
        let read = |trainer| {
            let trainer: TrainerSpec = serde_json::from_value(trainer).unwrap();
            StepSettings::read(&sealign_plan::settings::sft(&stage, &trainer, 0)).unwrap().to_stage()
        };
        let plain = read(json!({}));
        assert_eq!((plain.lora, plain.sharding), (None, Sharding::Nothing));
        let adapted = read(json!({ "lora": { "rank": 8, "alpha": 16 }, "recompute": "Layers" }));
        assert_eq!(adapted.lora, Some(Lora { rank: 8, alpha: 16.0 }));
        assert_eq!(adapted.recompute, Recompute::Layers);
        adapted.check().unwrap();
        assert_eq!(read(json!({ "sharding": "Everything" })).sharding, Sharding::Everything);
    }
}
