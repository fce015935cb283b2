//! Whole training runs on small random models.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::path::{Path, PathBuf};

use common::training_folder;
use sealign_batch::Layout;
use sealign_batch::order::StepSize;
use sealign_manifest::train::TrainProgress;
use sealign_trainer::train::settings::Anchor;
use sealign_trainer::train::{ArtifactSink, RunError, RunSummary, Stage, StageSettings, TrainConfig, run};
use serde_json::{Map, Value};

/// Remembers what it is told, and can stop the run like a crash after a checkpoint.
#[derive(Default)]
struct Recorder {
    steps: Vec<Map<String, Value>>,
    events: Vec<String>,
    stop_after_checkpoint: Option<usize>,
}

impl ArtifactSink for Recorder {
    fn progress(&mut self, _progress: &TrainProgress) -> std::io::Result<()> {
        Ok(())
    }

    fn log(&mut self, record: &Map<String, Value>) -> std::io::Result<()> {
        let event = record["event"].as_str().unwrap().to_owned();
        if event == "step" {
            self.steps.push(record.clone());
        }
        self.events.push(event);
        Ok(())
    }

    fn checkpoint(&mut self, step: usize, _folder: &Path) -> std::io::Result<()> {
        if self.stop_after_checkpoint == Some(step) {
            Err(std::io::Error::other("stopped by the test"))
        } else {
            Ok(())
        }
    }
}

struct Bench {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let (folder, model) = training_folder(true);
        tch::set_num_threads(1);
        Self { folder, model }
    }

    fn settings(stage: Stage) -> StageSettings {
        let mut settings = StageSettings::new(stage);
        settings.max_epochs = 3;
        settings.batch = StepSize::Tokens(700);
        settings.learning_rate = Some(5e-3);
        settings.validation_share = 0.2;
        settings.context = 400;
        settings.seed = 3;
        settings
    }

    fn config(&self, output: &str, settings: StageSettings) -> TrainConfig {
        let path = |name: &str| self.folder.path().join(name);
        TrainConfig {
            model: self.model.clone(),
            model_name: None,
            tokenizer: None,
            sft: vec![path("sft.jsonl")],
            preferences: if settings.stage == Stage::Dpo { vec![path("pairs.jsonl")] } else { Vec::new() },
            output: path(output),
            settings,
        }
    }
}

fn finish(config: &TrainConfig) -> (RunSummary, Recorder) {
    let mut recorder = Recorder::default();
    let summary = run(config, &mut recorder).unwrap();
    (summary, recorder)
}

fn weights(summary: &RunSummary) -> Vec<u8> {
    std::fs::read(summary.model.join("model.safetensors")).unwrap()
}

fn losses(recorder: &Recorder) -> Vec<f64> {
    recorder.steps.iter().map(|step| step["loss"].as_f64().unwrap()).collect()
}

#[test]
fn sft_lowers_the_loss_and_leaves_a_whole_model_folder() {
    let bench = Bench::new();
    let (summary, recorder) = finish(&bench.config("out", Bench::settings(Stage::Sft)));
    let losses = losses(&recorder);
    assert!(losses.last().unwrap() < &(losses[0] * 0.5), "{losses:?}");
    for file in
        ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "manifest.json"]
    {
        assert!(summary.model.join(file).exists(), "{file}");
    }
    let entry = &summary.manifest.files["model.safetensors"];
    let digest =
        sealign_trainer::train::checkpoint::digest_file(&summary.model.join("model.safetensors")).unwrap();
    assert_eq!(entry.digest, digest);
    assert!(summary.manifest.metrics["validationLoss"].as_f64().unwrap().is_finite());

    let (again, recorder) = finish(&bench.config("out", Bench::settings(Stage::Sft)));
    assert!(again.already_complete && recorder.events.is_empty());
}

#[test]
fn dpo_starts_at_ln_two_and_prefers_the_chosen_side() {
    let bench = Bench::new();
    let (summary, recorder) = finish(&bench.config("out", Bench::settings(Stage::Dpo)));
    assert!((losses(&recorder)[0] - std::f64::consts::LN_2).abs() < 1e-5);
    assert!(summary.manifest.metrics["accuracy"].as_f64().unwrap() > 0.9);
    assert!(summary.manifest.metrics["rewardMargin"].as_f64().unwrap() > 0.5);
    let rows = summary.manifest.metrics["rows"].as_u64().unwrap();
    assert!(rows < summary.manifest.metrics["linearRows"].as_u64().unwrap());
}

#[test]
fn anchored_dpo_reports_the_loss_of_its_anchors() {
    let bench = Bench::new();
    let mut settings = Bench::settings(Stage::Dpo);
    settings.anchor = Some(Anchor { examples: 4, weight: 1.0 });
    settings.max_steps = Some(4);
    let (_, recorder) = finish(&bench.config("out", settings));
    assert_eq!(recorder.steps.len(), 4);
    for step in &recorder.steps {
        let (preference, anchor) =
            (step["preferenceLoss"].as_f64().unwrap(), step["anchorLoss"].as_f64().unwrap());
        assert!((step["loss"].as_f64().unwrap() - preference - anchor).abs() < 1e-9);
    }
}

#[test]
fn both_layouts_train_the_same_model() {
    let bench = Bench::new();
    let train = |output: &str, layout| {
        let mut settings = Bench::settings(Stage::Dpo);
        settings.layout = layout;
        settings.max_steps = Some(6);
        losses(&finish(&bench.config(output, settings)).1)
    };
    let (linear, tree) = (train("linear", Layout::Linear), train("tree", Layout::TreePacked));
    for (left, right) in linear.iter().zip(&tree) {
        assert!((left - right).abs() < 1e-4, "{linear:?} {tree:?}");
    }
}

#[test]
fn two_runs_with_one_seed_are_bitwise_equal() {
    let bench = Bench::new();
    let mut settings = Bench::settings(Stage::Sft);
    settings.max_steps = Some(5);
    let (first, _) = finish(&bench.config("first", settings.clone()));
    let (second, _) = finish(&bench.config("second", settings));
    assert_eq!(weights(&first), weights(&second));
}

#[test]
fn an_interrupted_run_ends_bitwise_like_an_uninterrupted_one() {
    let bench = Bench::new();
    for stage in [Stage::Sft, Stage::Dpo] {
        let mut settings = Bench::settings(stage);
        settings.max_steps = Some(7);
        settings.checkpoint_steps = Some(2);
        let whole = finish(&bench.config(&format!("whole-{stage:?}"), settings.clone())).0;
        let config = bench.config(&format!("broken-{stage:?}"), settings);
        for stop in [2, 4] {
            let mut recorder = Recorder { stop_after_checkpoint: Some(stop), ..Recorder::default() };
            assert!(matches!(run(&config, &mut recorder), Err(RunError::Sink(_))));
        }
        let (resumed, recorder) = finish(&config);
        assert!(recorder.events.contains(&"resumed".to_owned()));
        assert_eq!(recorder.steps.len(), 3);
        assert_eq!(weights(&whole), weights(&resumed));
        assert_eq!(whole.manifest.metrics, resumed.manifest.metrics);
    }
}

#[test]
fn a_torn_checkpoint_is_skipped_for_the_one_before() {
    let bench = Bench::new();
    let mut settings = Bench::settings(Stage::Sft);
    settings.max_steps = Some(6);
    settings.checkpoint_steps = Some(2);
    let whole = finish(&bench.config("whole", settings.clone())).0;
    let config = bench.config("torn", settings);
    let mut recorder = Recorder { stop_after_checkpoint: Some(4), ..Recorder::default() };
    run(&config, &mut recorder).unwrap_err();
    let checkpoints = config.output.join("checkpoints");
    // What a crash can leave: an unfinished folder, and one whose bytes did not reach the disk.
    std::fs::create_dir_all(checkpoints.join("partial-00000006-1")).unwrap();
    let optimizer = checkpoints.join("step-00000004/optimizer.safetensors");
    let bytes = std::fs::read(&optimizer).unwrap();
    std::fs::write(&optimizer, &bytes[..bytes.len() / 2]).unwrap();
    let (resumed, recorder) = finish(&config);
    assert!(recorder.events.contains(&"checkpointSkipped".to_owned()));
    assert_eq!(recorder.steps.len(), 4);
    assert_eq!(weights(&whole), weights(&resumed));
}

#[test]
fn checkpoints_of_another_run_are_refused_with_the_remedy() {
    let bench = Bench::new();
    let mut settings = Bench::settings(Stage::Sft);
    settings.max_steps = Some(2);
    finish(&bench.config("out", settings.clone()));
    settings.seed = 4;
    let error = run(&bench.config("out", settings), &mut Recorder::default()).unwrap_err();
    assert!(chain(&error).contains("another output folder"), "{}", chain(&error));
}

/// The error with all its causes, as the program prints it.
fn chain(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Runs with a change to the inputs; the error must contain the words, and nothing may have been written.
fn check_refused(change: impl FnOnce(&mut TrainConfig, &Path), words: &[&str]) {
    let bench = Bench::new();
    let mut config = bench.config("out", Bench::settings(Stage::Sft));
    change(&mut config, bench.folder.path());
    let error = run(&config, &mut Recorder::default()).unwrap_err();
    let text = chain(&error);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(error.is_input(), "{text}");
    assert!(!config.output.join("model").exists());
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn unusable_data_is_refused_before_training() {
    check_refused(|config, _| config.sft.clear(), &["sft is empty"]);
    check_refused(|_, folder| write(&folder.join("sft.jsonl"), ""), &["no example is left", "0 rows"]);
    check_refused(
        |_, folder| write(&folder.join("sft.jsonl"), "\n{\"messages\": [}\n"),
        &["sft.jsonl, line 2", "not JSON"],
    );
    check_refused(
        |_, folder| write(&folder.join("sft.jsonl"), "{\"messages\": [{\"content\": \"x\"}]}"),
        &["line 1", "messages[0]: role is missing"],
    );
    check_refused(|config, _| config.settings.context = 20, &["tooLong: 48", "raise context"]);
    check_refused(|config, _| config.settings.validation_share = 1e-6, &["raise validationShare"]);
    check_refused(|config, _| config.settings.beta = f64::NAN, &["beta must be above 0"]);
    check_refused(
        |config, folder| config.sft = vec![folder.join("missing.jsonl")],
        &["missing.jsonl cannot be read"],
    );
}

#[test]
fn unusable_models_are_refused_before_training() {
    let edit_config = |folder: &Path, field: &str, value: Value| {
        let path = folder.join("base/config.json");
        let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        document[field] = value;
        write(&path, &document.to_string());
    };
    check_refused(
        |_, folder| {
            let path = folder.join("base/model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        },
        &["model.safetensors", "not a complete safetensors file"],
    );
    check_refused(
        |_, folder| edit_config(folder, "intermediate_size", 40.into()),
        &["has shape [48, 32]", "asks for [40, 32]"],
    );
    check_refused(
        |_, folder| edit_config(folder, "tie_word_embeddings", false.into()),
        &["no tensor \"lm_head.weight\""],
    );
    check_refused(
        |_, folder| edit_config(folder, "num_hidden_layers", 2.into()),
        &["no place for", "layers.2"],
    );
    check_refused(
        |_, folder| edit_config(folder, "model_type", "gpt2".into()),
        &["model_type is gpt2", "qwen2 or llama"],
    );
    check_refused(|_, folder| edit_config(folder, "hidden_size", "x".into()), &["hidden_size must be"]);
    check_refused(
        |_, folder| std::fs::remove_file(folder.join("base/tokenizer.json")).unwrap(),
        &["tokenizer.json cannot be read"],
    );
    check_refused(
        |_, folder| write(&folder.join("base/tokenizer.json"), "{}"),
        &["tokenizer.json cannot be read"],
    );
}

#[test]
fn a_diverging_run_stops_and_says_where() {
    let bench = Bench::new();
    let mut settings = Bench::settings(Stage::Sft);
    settings.learning_rate = Some(1e30);
    settings.warmup_ratio = 0.0;
    settings.max_gradient_norm = 0.0;
    let error = run(&bench.config("out", settings), &mut Recorder::default()).unwrap_err();
    assert!(matches!(error, RunError::Diverged { .. }), "{error}");
}
