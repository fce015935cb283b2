//! The settings of a step as the control plane writes them, read into those of a stage.

use sealign_batch::Layout;
use sealign_batch::order::StepSize;
use serde::Deserialize;
use serde_json::Value;

use super::JobError;
use crate::optim::ScheduleKind;
use crate::train::settings::{Anchor, Stage, StageSettings};

/// A step's settings; the control plane documents their form.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepSettings {
    stage: Stage,
    seed: u64,
    layout: Layout,
    #[serde(default)]
    lora: Option<Value>,
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
        let read: Self = serde_json::from_value(settings.clone())
            .map_err(|error| JobError::Input(format!("the step's settings cannot be read: {error}")))?;
        if read.lora.is_some() {
            return Err(JobError::Input(
                "spec.trainer.lora is not supported by this version; leave it out to train all weights"
                    .to_owned(),
            ));
        }
        Ok(read)
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
        let stage: DpoStage = serde_json::from_value(json!({
            "beta": "0.25", "learningRate": "2e-4", "sftExamplesPerStep": 8, "sftWeight": "0.5",
            "optimization": { "tokensPerStep": 3000, "maxSteps": 7, "schedule": "Cosine", "validationPercent": 10 },
        }))
        .unwrap();
        let written = sealign_plan::settings::dpo(&stage, &TrainerSpec::default(), 3);
        let settings = StepSettings::read(&written).unwrap();
        assert!(settings.wants_sft());
        let stage = settings.to_stage();
        assert_eq!(stage.stage, Stage::Dpo);
        assert_eq!((stage.seed, stage.max_steps, stage.batch), (3, Some(7), StepSize::Tokens(3000)));
        assert_eq!((stage.beta, stage.learning_rate, stage.validation_share), (0.25, Some(2e-4), 0.1));
        assert_eq!(stage.anchor, Some(Anchor { examples: 8, weight: 0.5 }));
        assert_eq!(stage.schedule, ScheduleKind::Cosine);
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
    fn an_adapter_is_refused_with_the_remedy() {
        let stage: SftStage = serde_json::from_value(json!({})).unwrap();
        let trainer: TrainerSpec =
            serde_json::from_value(json!({ "lora": { "rank": 8, "alpha": 16 } })).unwrap();
        let error = StepSettings::read(&sealign_plan::settings::sft(&stage, &trainer, 0)).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("spec.trainer.lora"));
    }
}
