//! The arithmetic that `sealign plan` prints, held to what a step takes. One test, as its memory is the process's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use common::{Numbers, encoded, growth, model};
use sealign_batch::Layout;
use sealign_crds::alignment_run::TrainerSpec;
use sealign_plan::memory::{self, Shape, estimate};
use sealign_trainer::model::decoder::ROWS_AT_ONCE;
use sealign_trainer::model::{ModelConfig, Recompute};
use sealign_trainer::train::data::Example;
use sealign_trainer::train::step::{Computation, Objective, StepExample, compute};
use sealign_trainer::train::{Stage, StageSettings};
use serde_json::{Value, json};

const ROWS: usize = 5 * 1024;

fn document() -> Value {
    json!({
        "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "max_position_embeddings": 65_536,
        "initializer_range": 0.05,
    })
}

/// What the arithmetic takes for granted is what the trainer does.
fn check_constants(shape: &Shape) {
    let config = ModelConfig::from_value(&document()).unwrap();
    assert_eq!(shape.parameters(), config.parameters() as u64);
    assert_eq!(memory::ROWS_AT_ONCE, ROWS_AT_ONCE as u64);
    assert_eq!(memory::MICROBATCH_TOKENS, StageSettings::new(Stage::Sft).microbatch_tokens as u64);
    let built_in: Value = serde_json::from_str(include_str!("../models/mini-base/config.json")).unwrap();
    assert_eq!(Shape::known("mini-base"), Some(Shape::from_config(&built_in).unwrap()));
}

#[test]
fn a_step_takes_about_the_memory_that_the_arithmetic_says() {
    tch::set_num_threads(2);
    let shape = Shape::from_config(&document()).unwrap();
    check_constants(&shape);
    let model = model(&document(), 32);
    let example = Example::Trajectory(encoded(Numbers(3).ids(ROWS), ROWS - 1));
    let step = [StepExample { example: &example, reference: None }];
    let objective = Objective::of(&StageSettings::new(Stage::Sft));
    for (name, recompute) in [("Layers", Recompute::Layers), ("Nothing", Recompute::Nothing)] {
        let trainer: TrainerSpec = serde_json::from_value(json!({ "recompute": name })).unwrap();
        let estimate = estimate(&shape, &trainer, ROWS as u64);
        let said = estimate.kept + estimate.working + estimate.head;
        let computation = Computation { layout: Layout::TreePacked, recompute, microbatch_tokens: 1_000_000 };
        let (_, taken) = growth(|| compute(&model, &step, &objective, &computation, true));
        println!("recompute {name}: {taken} bytes taken, {said} said");
        assert!(taken < said + said / 5, "recompute {name}: {taken} bytes taken, {said} said");
        assert!(taken > said / 2, "recompute {name}: {taken} bytes taken, {said} said");
    }
}
