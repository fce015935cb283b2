//! bfloat16 computes nearly what float32 computes, learns, and ends the same wherever it was interrupted. On the CPU: GPUs run
//! the same code but for the attention kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::path::Path;

use common::training_folder;
use sealign_batch::order::StepSize;
use sealign_manifest::train::TrainProgress;
use sealign_trainer::model::adapter::Lora;
use sealign_trainer::placement::{DeviceChoice, Precision};
use sealign_trainer::train::{ArtifactSink, Stage, StageSettings, TrainConfig, run};
use serde_json::{Map, Value};

/// Losses of the steps; fails after the checkpoint of step `stop`, as a crash would.
#[derive(Default)]
struct Losses {
    steps: Vec<f64>,
    stop: Option<usize>,
}

impl ArtifactSink for Losses {
    fn progress(&mut self, _progress: &TrainProgress) -> std::io::Result<()> {
        Ok(())
    }

    fn log(&mut self, record: &Map<String, Value>) -> std::io::Result<()> {
        if record["event"] == "step" {
            self.steps.push(record["loss"].as_f64().unwrap());
        }
        Ok(())
    }

    fn checkpoint(&mut self, step: usize, _folder: &Path) -> std::io::Result<()> {
        if self.stop == Some(step) { Err(std::io::Error::other("stopped by the test")) } else { Ok(()) }
    }
}

fn settings(stage: Stage, precision: Precision) -> StageSettings {
    let mut settings = StageSettings::new(stage);
    settings.max_epochs = 3;
    settings.batch = StepSize::Tokens(700);
    settings.microbatch_tokens = 400;
    settings.learning_rate = Some(5e-3);
    settings.validation_share = 0.2;
    settings.context = 400;
    settings.seed = 3;
    settings.threads = 1;
    settings.device = DeviceChoice::Cpu;
    settings.precision = precision;
    settings
}

fn config(folder: &Path, model: &Path, output: &str, settings: StageSettings) -> TrainConfig {
    TrainConfig {
        model: model.to_owned(),
        model_name: None,
        tokenizer: None,
        sft: vec![folder.join("sft.jsonl")],
        preferences: if settings.stage == Stage::Dpo { vec![folder.join("pairs.jsonl")] } else { Vec::new() },
        output: folder.join(output),
        settings,
    }
}

#[test]
fn bfloat16_starts_where_float32_starts_and_learns_what_it_learns() {
    for (tied, stage) in [(true, Stage::Sft), (false, Stage::Dpo)] {
        let (folder, model) = training_folder(tied);
        let losses = |output: &str, precision| {
            let mut sink = Losses::default();
            run(&config(folder.path(), &model, output, settings(stage, precision)), &mut sink).unwrap();
            sink.steps
        };
        let exact = losses("exact", Precision::Float32);
        let half = losses("half", Precision::Bfloat16);
        let (first, last) = (half[0], half.last().unwrap());
        assert!((first - exact[0]).abs() < 0.01 * exact[0], "{first} and {}", exact[0]);
        assert!((first - exact[0]).abs() > 1e-9, "something was rounded");
        assert!(last < &(first * 0.6), "{half:?}");
        let goal = exact.last().unwrap();
        assert!((last - goal).abs() < 0.1 * first, "{last} and {goal}");
    }
}

#[test]
fn an_interrupted_run_in_bfloat16_ends_with_the_same_bytes() {
    let (folder, model) = training_folder(true);
    let weights =
        |output: &str| std::fs::read(folder.path().join(output).join("model/model.safetensors")).unwrap();
    let config = |output: &str| {
        let mut settings = settings(Stage::Sft, Precision::Bfloat16);
        settings.checkpoint_steps = Some(2);
        config(folder.path(), &model, output, settings)
    };
    run(&config("whole"), &mut Losses::default()).unwrap();
    let mut stopped = Losses { stop: Some(4), ..Losses::default() };
    assert!(run(&config("resumed"), &mut stopped).is_err());
    run(&config("resumed"), &mut Losses::default()).unwrap();
    assert_eq!(weights("whole"), weights("resumed"));
}

#[test]
fn adapters_learn_in_float32_over_a_model_in_bfloat16() {
    let (folder, model) = training_folder(true);
    let mut settings = settings(Stage::Sft, Precision::Bfloat16);
    settings.lora = Some(Lora { rank: 8, alpha: 16.0 });
    settings.learning_rate = Some(2e-2);
    let mut sink = Losses::default();
    run(&config(folder.path(), &model, "out", settings), &mut sink).unwrap();
    assert!(sink.steps.last().unwrap() < &(sink.steps[0] * 0.8), "{:?}", sink.steps);
}

#[test]
fn a_gpu_that_is_not_there_is_refused_before_anything_is_read() {
    // Where there is one, nothing is to be refused.
    if tch::Cuda::is_available() {
        return;
    }
    let (folder, _) = training_folder(true);
    let mut settings = settings(Stage::Sft, Precision::Auto);
    settings.device = DeviceChoice::Cuda;
    let missing = Path::new("no-such-model");
    let error = run(&config(folder.path(), missing, "out", settings), &mut Losses::default()).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("finds no GPU"), "{error:?}");
    assert!(!folder.path().join("out").exists());
}
