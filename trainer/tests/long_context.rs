//! 32k tokens at once: the logits of all of them never exist. One test, as its memory is the process's.
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
use sealign_trainer::model::Recompute;
use sealign_trainer::train::data::Example;
use sealign_trainer::train::step::{Computation, Objective, StepExample, compute};
use sealign_trainer::train::{Stage, StageSettings};
use serde_json::json;

const ROWS: usize = 32 * 1024;
const VOCABULARY: usize = 16 * 1024;

/// Trajectories with loss on every token: one, or three that share two thirds.
fn trajectories(layout: Layout) -> Vec<Example> {
    let mut numbers = Numbers(17);
    let whole = |ids: Vec<u32>| {
        let trained = ids.len() - 1;
        Example::Trajectory(encoded(ids, trained))
    };
    if layout == Layout::Linear {
        return vec![whole(numbers.ids(ROWS))];
    }
    let branch = ROWS / 9;
    let trunk = numbers.ids(ROWS - 3 * branch);
    let grown = |numbers: &mut Numbers| trunk.iter().copied().chain(numbers.ids(branch)).collect();
    (0..3).map(|_| whole(grown(&mut numbers))).collect()
}

#[test]
fn the_logits_of_32k_tokens_never_exist_in_either_layout() {
    tch::set_num_threads(2);
    let model = model(
        &json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
            "max_position_embeddings": 65_536, "initializer_range": 0.1,
        }),
        31,
    );
    let objective = Objective::of(&StageSettings::new(Stage::Sft));
    let logits = (ROWS * VOCABULARY * size_of::<f32>()) as u64;
    for layout in [Layout::Linear, Layout::TreePacked] {
        let examples = trajectories(layout);
        let step: Vec<StepExample<'_>> =
            examples.iter().map(|example| StepExample { example, reference: None }).collect();
        let computation = Computation { layout, recompute: Recompute::Layers, microbatch_tokens: 1_000_000 };
        let (figures, grown) = growth(|| compute(&model, &step, &objective, &computation, true));
        println!("{layout:?}: {} rows, {grown} bytes; all logits would be {logits}", figures.rows);
        assert!(figures.rows.abs_diff(ROWS) < 8, "{} rows", figures.rows);
        assert!(figures.loss.is_finite() && figures.loss > 5.0, "{}", figures.loss);
        assert!(grown < logits / 4, "{layout:?}: {grown} of {logits} bytes");
    }
}
