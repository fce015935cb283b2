//! Inputs that cannot be used: one clear error, exit code 64, nothing written.
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

use common::{config, model_folder, write_sft};
use sealign_trainer::model::tensors::{self, SaveType};
use sealign_trainer::train::{Stage, StageSettings, TrainConfig};
use serde_json::Value;

/// Runs the program on inputs that `spoil` has changed and returns what it says.
fn refused(name: &str, spoil: impl FnOnce(&Path, &mut TrainConfig)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = model_folder(folder.path(), "base", &config("qwen2", 4, 2, true), 11);
    write_sft(&at("sft.jsonl"), 12);
    let mut settings = StageSettings::new(Stage::Sft);
    (settings.validation_share, settings.max_steps, settings.threads) = (0.3, Some(2), 1);
    settings.context = 400;
    let mut run = TrainConfig {
        model,
        model_name: None,
        tokenizer: None,
        sft: vec![at("sft.jsonl")],
        preferences: Vec::new(),
        output: at("out"),
        settings,
    };
    spoil(folder.path(), &mut run);
    std::fs::write(at("run.json"), serde_json::to_vec(&run).unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sealign-trainer"))
        .args(["train", "--config"])
        .arg(at("run.json"))
        .env("OMP_WAIT_POLICY", "passive")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{name}: {text}");
    assert_eq!(text.trim().lines().count(), 1, "{name}: {text}");
    assert!(!at("out").exists(), "{name}: something was written");
    text
}

fn edit_config(folder: &Path, field: &str, value: Value) {
    let path = folder.join("base/config.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    document[field] = value;
    std::fs::write(path, document.to_string()).unwrap();
}

fn weights(folder: &Path) -> PathBuf {
    folder.join("base/model.safetensors")
}

fn spoil_tensor(folder: &Path, value: f64) {
    let mut named = tensors::read(&weights(folder)).unwrap();
    let tensor = named.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
    let _ = tensor.get(3).get(5).fill_(value);
    tensors::write(&weights(folder), &named, SaveType::F32).unwrap();
}

/// A case: its name, what is spoilt, and a word that the message must have.
type Case = (&'static str, fn(&Path, &mut TrainConfig), &'static str);

const CASES: [Case; 10] = [
    (
        "truncated safetensors",
        |folder, _| {
            let bytes = std::fs::read(weights(folder)).unwrap();
            std::fs::write(weights(folder), &bytes[..bytes.len() / 2]).unwrap();
        },
        "not a complete safetensors file",
    ),
    ("wrong shape", |folder, _| edit_config(folder, "hidden_size", 64.into()), "asks for"),
    ("layers missing", |folder, _| edit_config(folder, "num_hidden_layers", 9.into()), "layers.3"),
    ("NaN weight", |folder, _| spoil_tensor(folder, f64::NAN), "not finite"),
    ("infinite weight", |folder, _| spoil_tensor(folder, f64::INFINITY), "not finite"),
    (
        "NaN in a row",
        |folder, _| {
            let row = "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\", \"weight\": NaN}]}";
            std::fs::write(folder.join("sft.jsonl"), row).unwrap();
        },
        "sft.jsonl, line 1",
    ),
    (
        "negative weight in a row",
        |folder, _| {
            let row = "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\", \"weight\": -1}]}";
            std::fs::write(folder.join("sft.jsonl"), row).unwrap();
        },
        "weight",
    ),
    ("empty data", |folder, _| std::fs::write(folder.join("sft.jsonl"), "").unwrap(), "no example is left"),
    ("samples beyond the context", |_, run| run.settings.context = 10, "raise context"),
    (
        "tokenizer without a template",
        |folder, _| {
            let path = folder.join("base/tokenizer.json");
            let text = std::fs::read_to_string(&path).unwrap().replace("<|im_", "<|other_");
            std::fs::write(path, text).unwrap();
        },
        "chat",
    ),
];

#[test]
fn unusable_inputs_give_one_clear_error_and_nothing_is_written() {
    for (name, spoil, word) in CASES {
        let text = refused(name, spoil);
        println!("{name}: {}", text.trim());
        assert!(text.contains(word), "{name}: {word:?} is not in {text}");
    }
}
