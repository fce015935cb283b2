//! A short course of the base model's pretraining: the long one differs in the number of tokens alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

use std::path::Path;

use sealign_trainer::model::directory::{check_vocabulary, read_config, read_tokenizer, read_weights};
use sealign_trainer::pretrain::{PretrainSettings, Pretrained, pretrain};
use serde_json::Value;

/// Ten steps of drills, one of whole attempts, eight of commits.
const TOKENS: usize = 30_000;

fn course(seed: u32, out: &Path) -> (Pretrained, Vec<String>) {
    let settings =
        PretrainSettings { seed, tokens: TOKENS, out: out.to_owned(), command: format!("course {seed}") };
    let mut lines = Vec::new();
    let made = pretrain(&settings, &mut |line| lines.push(line.to_owned())).unwrap();
    (made, lines)
}

/// The loss of the last step of a stage.
fn last_loss(lines: &[String], stage: &str) -> f64 {
    let line = lines.iter().rev().find(|line| line.starts_with(stage)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_course_on_few_tokens_gives_the_same_model_twice_and_says_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let (first, lines) = course(3, &folder.path().join("first"));
    let (second, _) = course(3, &folder.path().join("second"));
    assert_eq!(first, second);

    // Chance is ln 1024 = 6.9; a plainly initialised model is still there after ten steps of drills.
    let copying = last_loss(&lines, "drill");
    assert!(copying < 4.0, "after ten steps of drills the loss of copying is {copying}");

    let made = folder.path().join("first");
    let config = read_config(&made).unwrap();
    assert_eq!(config.parameters(), 936_576);
    check_vocabulary(&made, &read_tokenizer(&made).unwrap(), &config).unwrap();
    read_weights(&made, &config).unwrap();
    let manifest = std::fs::read(made.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["metrics"]["command"], "course 3");
    assert_eq!(manifest["metrics"]["seed"], 3);
    assert_eq!(manifest["files"]["model.safetensors"]["digest"], first.digest.to_string());
}
