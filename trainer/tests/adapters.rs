//! Low-rank adapters: what they train, what comes out, and the run's other outputs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{config, examples, model, model_folder, write_sft};
use sealign_batch::Layout;
use sealign_batch::order::StepSize;
use sealign_trainer::model::adapter::{self, Lora};
use sealign_trainer::model::tensors::{self, SaveType};
use sealign_trainer::model::{Decoder, Recompute};
use sealign_trainer::train::data::Example;
use sealign_trainer::train::step::{Computation, log_probs};
use sealign_trainer::train::{SilentSink, Stage, StageSettings, TrainConfig, checkpoint_model, run};
use serde_json::Value;
use tch::Tensor;

const LORA: Lora = Lora { rank: 4, alpha: 8.0 };

const COMPUTATION: Computation =
    Computation { layout: Layout::TreePacked, recompute: Recompute::Nothing, microbatch_tokens: 100_000 };

fn scores(model: &Decoder, examples: &[Example]) -> Vec<f64> {
    log_probs(model, &examples.iter().collect::<Vec<_>>(), &COMPUTATION)
}

fn worst(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

fn adapted(seed: u64) -> Decoder {
    let document = config("llama", 4, 2, false);
    let mut base = model(&document, 5);
    for (_, tensor) in base.weights.parameters() {
        let _ = tensor.set_requires_grad(false);
    }
    adapter::attach(&base.config, &mut base.weights, LORA, seed);
    Decoder::trainable(base.config, base.weights)
}

#[test]
fn a_fresh_adapter_changes_nothing_and_a_merged_one_computes_the_same() {
    let examples = examples();
    let base = model(&config("llama", 4, 2, false), 5);
    let adapted = adapted(1);
    assert!(worst(&scores(&adapted, &examples), &scores(&base, &examples)) < 1e-12);
    let changed = adapter::to_peft(&adapted.weights)
        .into_iter()
        .enumerate()
        .map(|(index, (name, tensor))| {
            let shift = f64::from(u32::try_from(index).unwrap() % 5) * 0.02 - 0.03;
            (name, tensor + shift)
        })
        .collect();
    adapter::fill(&adapted.weights, &changed).unwrap();
    let with_adapter = scores(&adapted, &examples);
    assert!(worst(&with_adapter, &scores(&base, &examples)) > 1e-3, "the adapter has no effect");
    let merged = Decoder { config: adapted.config.clone(), weights: adapter::merged(&adapted.weights) };
    assert!(worst(&scores(&merged, &examples), &with_adapter) < 1e-5);
}

fn settings() -> StageSettings {
    let mut settings = StageSettings::new(Stage::Sft);
    (settings.max_epochs, settings.seed, settings.validation_share) = (6, 3, 0.2);
    settings.batch = StepSize::Tokens(700);
    settings.learning_rate = Some(2e-2);
    settings.context = 400;
    settings.lora = Some(LORA);
    settings.checkpoint_steps = Some(2);
    settings
}

fn run_config(folder: &Path, output: &str) -> TrainConfig {
    TrainConfig {
        model: folder.join("base"),
        model_name: None,
        tokenizer: None,
        sft: vec![folder.join("sft.jsonl")],
        preferences: Vec::new(),
        output: folder.join(output),
        settings: settings(),
    }
}

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model_folder(folder.path(), "base", &config("qwen2", 4, 2, true), 11);
    write_sft(&folder.path().join("sft.jsonl"), 24);
    tch::set_num_threads(1);
    folder
}

fn difference(left: &Tensor, right: &Tensor) -> f64 {
    (left - right).abs().max().double_value(&[])
}

#[test]
fn a_run_with_adapters_leaves_the_merged_model_and_the_adapters_in_pefts_layout() {
    let folder = prepared();
    let config = run_config(folder.path(), "out");
    let summary = run(&config, &mut SilentSink).unwrap();
    let metrics = &summary.manifest.metrics;
    let (first, last) = (metrics["firstLoss"].as_f64().unwrap(), metrics["lastLoss"].as_f64().unwrap());
    assert!(last < 0.7 * first, "{first} -> {last}");

    let adapter = config.output.join("adapter");
    let document: Value =
        serde_json::from_slice(&std::fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((document["r"].as_u64(), document["lora_alpha"].as_f64()), (Some(4), Some(8.0)));
    let update = tensors::read(&adapter.join("adapter_model.safetensors")).unwrap();
    assert_eq!(update.len(), 3 * 7 * 2);
    let base = tensors::read(&folder.path().join("base/model.safetensors")).unwrap();
    let merged = tensors::read(&summary.model.join("model.safetensors")).unwrap();
    assert_eq!(base.len(), merged.len());
    for (name, tensor) in &merged {
        let part = name.strip_suffix(".weight").map(|part| format!("base_model.model.{part}"));
        let low_rank = part.and_then(|part| {
            let side = |side: &str| update.get(&format!("{part}.lora_{side}.weight"));
            Some(side("B")?.matmul(side("A")?) * 2.0)
        });
        match low_rank {
            Some(product) => {
                assert!(difference(tensor, &base[name]) > 1e-4, "{name} was not trained");
                assert!(difference(tensor, &(&base[name] + product)) < 1e-6, "{name}");
            }
            None => assert!(difference(tensor, &base[name]) < 1e-12, "{name} is frozen"),
        }
    }
}

#[test]
fn a_checkpoint_of_adapters_can_be_exported_by_itself() {
    let folder = prepared();
    let config = run_config(folder.path(), "out");
    let summary = run(&config, &mut SilentSink).unwrap();
    let out = folder.path().join("exported");
    let manifest = checkpoint_model(&config, Some(summary.manifest.step), SaveType::F32, &out).unwrap();
    assert_eq!(manifest.step, summary.manifest.step);
    let read = |path: PathBuf| std::fs::read(path.join("model.safetensors")).unwrap();
    assert_eq!(read(out), read(summary.model.clone()));
    let error = checkpoint_model(&config, Some(9999), SaveType::F32, &folder.path().join("x")).unwrap_err();
    assert!(error.to_string().contains("no whole checkpoint after 9999 steps"), "{error}");
}

#[test]
fn the_program_shows_its_figures_to_prometheus_and_tensorboard() {
    let folder = prepared();
    let mut config = run_config(folder.path(), "out");
    config.settings.max_epochs = 200;
    std::fs::write(folder.path().join("run.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut program = Command::new(env!("CARGO_BIN_EXE_sealign-trainer"))
        .args(["train", "--quiet", "--metrics", &address, "--config"])
        .arg(folder.path().join("run.json"))
        .env("OMP_WAIT_POLICY", "passive")
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    let page = loop {
        let page = get(&address).unwrap_or_default();
        let has_step =
            page.lines().any(|line| line.starts_with("sealign_trainer_step ") && !line.ends_with(" 0"));
        // The last one that a step shows.
        if has_step && page.lines().any(|line| line.starts_with("sealign_trainer_peak_memory_bytes ")) {
            break page;
        }
        assert!(std::time::Instant::now() < deadline, "no figures: {page}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    program.kill().unwrap();
    program.wait().unwrap();
    for name in ["loss", "gradient_norm", "learning_rate", "tokens_per_second", "peak_memory_bytes"] {
        let line = page.lines().find(|line| line.starts_with(&format!("sealign_trainer_{name} "))).unwrap();
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value > 0.0, "{line}");
    }
    let events = std::fs::read_dir(config.output.join("tensorboard")).unwrap().next().unwrap().unwrap();
    let bytes = std::fs::read(events.path()).unwrap();
    assert!(bytes.windows(13).any(|window| window == b"brain.Event:2"));
    assert!(bytes.windows(12).any(|window| window == b"gradientNorm"));
}

/// The body of `/metrics`.
fn get(address: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
