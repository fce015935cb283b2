//! Shared prefixes, recomputation and microbatches change what is computed when, never what comes out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]
#![allow(non_snake_case, reason = "tensor names carry their shape")]

mod common;

use std::collections::BTreeMap;

use common::{config, examples, model};
use sealign_batch::{Layout, PackedBatch, SequenceInput};
use sealign_trainer::loss::dpo::{Preference, PreferenceLoss};
use sealign_trainer::loss::sft::Reduction;
use sealign_trainer::model::decoder::Inputs;
use sealign_trainer::model::{Decoder, Recompute};
use sealign_trainer::train::data::Example;
use sealign_trainer::train::step::{
    Computation, Figures, Objective, ReferencePair, StepExample, compute, log_probs,
};
use tch::{Kind, Tensor};

const LINEAR: Computation =
    Computation { layout: Layout::Linear, recompute: Recompute::Nothing, microbatch_tokens: 100_000 };

fn objective() -> Objective {
    Objective {
        reduction: Reduction::TokenMean,
        trajectory_weight: 0.7,
        preference: Preference {
            loss: PreferenceLoss::Sigmoid,
            beta: 0.3,
            label_smoothing: 0.0,
            length_normalized: false,
        },
    }
}

/// Loss figures and all gradients of one step.
fn gradients(model: &Decoder, computation: &Computation) -> (Figures, BTreeMap<String, Tensor>) {
    let examples = examples();
    let step: Vec<StepExample<'_>> = examples
        .iter()
        .enumerate()
        .map(|(index, example)| {
            let shift = f64::from(u32::try_from(index).unwrap());
            let reference = ReferencePair { chosen: -40.0 - shift, rejected: -41.0 + shift };
            StepExample { example, reference: Some(reference) }
        })
        .collect();
    model.weights.zero_gradients();
    let figures = compute(model, &step, &objective(), computation, true);
    let copies =
        model.weights.gradients_to_hub(&model.config).into_iter().map(|(name, grad)| (name, grad.copy()));
    (figures, copies.collect())
}

fn assert_close(left: &BTreeMap<String, Tensor>, right: &BTreeMap<String, Tensor>, bound: f64) {
    assert_eq!(left.len(), right.len());
    for (name, expected) in left {
        let scale = expected.abs().max().double_value(&[]);
        let difference = (expected - &right[name]).abs().max().double_value(&[]);
        assert!(scale > 0.0, "{name} has no gradient");
        assert!(difference <= bound * scale, "{name}: {difference:e} of {scale:e}");
    }
}

fn models() -> Vec<Decoder> {
    vec![
        model(&config("qwen2", 4, 2, true), 1),
        model(&config("qwen2", 4, 4, false), 2),
        model(&config("llama", 4, 1, true), 3),
        model(&config("llama", 2, 2, false), 4),
    ]
}

#[test]
fn tree_packed_recomputed_and_split_steps_have_the_gradients_of_the_linear_layout() {
    for model in models() {
        let (expected, reference) = gradients(&model, &LINEAR);
        for (layout, recompute, microbatch_tokens) in [
            (Layout::TreePacked, Recompute::Nothing, 100_000),
            (Layout::TreePacked, Recompute::Layers, 100_000),
            (Layout::Linear, Recompute::Layers, 90),
            (Layout::TreePacked, Recompute::Nothing, 150),
        ] {
            let (figures, found) = gradients(&model, &Computation { layout, recompute, microbatch_tokens });
            assert!((figures.loss - expected.loss).abs() < 1e-5 * expected.loss.abs());
            assert_eq!(figures.correct, expected.correct);
            assert_close(&reference, &found, 1e-5);
            assert_eq!(figures.rows < expected.rows, layout == Layout::TreePacked);
        }
    }
}

/// The same model as one ordinary autograd graph with an explicit mask, written apart from the engine.
fn plain_logits(model: &Decoder, ids: &[u32]) -> Tensor {
    let config = &model.config;
    let length = i64::try_from(ids.len()).unwrap();
    let (heads, kv_heads, size) = (
        i64::try_from(config.heads).unwrap(),
        i64::try_from(config.kv_heads).unwrap(),
        i64::try_from(config.head_dim).unwrap(),
    );
    let tokens = Tensor::from_slice(&ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>());
    let half = size / 2;
    let norm = |x: &Tensor, weight: &Tensor| {
        let variance = x.square().mean_dim(&[-1_i64][..], true, Kind::Float);
        x * (variance + config.norm_epsilon).rsqrt() * weight
    };
    let angles: Vec<f32> = (0..length)
        .flat_map(|position| {
            (0..half).map(move |pair| {
                #[allow(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "small numbers"
                )]
                let angle = position as f64 / 10_000_f64.powf(2.0 * pair as f64 / size as f64);
                #[allow(clippy::cast_possible_truncation, reason = "single precision")]
                let angle = angle as f32;
                angle
            })
        })
        .collect();
    let angles = Tensor::from_slice(&angles).view([length, 1, half]);
    let rotate = |x: &Tensor| {
        let (first, second) = (x.narrow(2, 0, half), x.narrow(2, half, half));
        let (cos, sin) = (angles.cos(), angles.sin());
        Tensor::cat(&[&first * &cos - &second * &sin, &second * &cos + &first * &sin], 2)
    };
    let mask = Tensor::full([length, length], f64::NEG_INFINITY, (Kind::Float, tch::Device::Cpu)).triu(1);
    let mut hidden = model.weights.embedding.index_select(0, &tokens);
    for layer in &model.weights.layers {
        let qkv = norm(&hidden, &layer.input_norm).linear(&layer.qkv, layer.qkv_bias.as_ref());
        let parts = qkv.split_with_sizes([heads * size, kv_heads * size, kv_heads * size], 1);
        let view = |part: &Tensor, count: i64| part.view([length, count, size]);
        let (query, key, value) =
            (rotate(&view(&parts[0], heads)), rotate(&view(&parts[1], kv_heads)), view(&parts[2], kv_heads));
        let (key, value) = (
            key.repeat_interleave_self_int(heads / kv_heads, 1, None),
            value.repeat_interleave_self_int(heads / kv_heads, 1, None),
        );
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let scale = 1.0 / (size as f64).sqrt();
        let scores = query.transpose(0, 1).matmul(&key.permute([1, 2, 0])) * scale + &mask;
        let attention = scores
            .softmax(-1, Kind::Float)
            .matmul(&value.transpose(0, 1))
            .transpose(0, 1)
            .reshape([length, -1]);
        let middle = hidden + attention.linear::<&Tensor>(&layer.attention_out, None);
        let gate_up = norm(&middle, &layer.post_norm).linear::<&Tensor>(&layer.gate_up, None).chunk(2, 1);
        hidden = middle + (gate_up[0].silu() * &gate_up[1]).linear::<&Tensor>(&layer.down, None);
    }
    norm(&hidden, &model.weights.final_norm).linear::<&Tensor>(model.weights.output_head(), None)
}

#[test]
fn the_engine_has_the_logits_and_gradients_of_an_ordinary_graph() {
    for model in models() {
        let Some(Example::Trajectory(encoded)) = examples().pop() else { panic!("no trajectory") };
        let batch = PackedBatch::pack(
            &[SequenceInput { ids: &encoded.ids, weights: &encoded.weights }],
            Layout::TreePacked,
        );
        let hidden = model.infer(&Inputs::new(&model.config, &batch));
        let logits = tch::no_grad(|| model.logits(&hidden));
        let plain = plain_logits(&model, &batch.tokens);
        assert!((&logits - &plain).abs().max().double_value(&[]) < 1e-4);

        let example = Example::Trajectory(encoded.clone());
        let step = [StepExample { example: &example, reference: None }];
        let objective = Objective { trajectory_weight: 1.0, ..objective() };
        model.weights.zero_gradients();
        let figures = compute(&model, &step, &objective, &LINEAR, true);
        let found: BTreeMap<String, Tensor> = model
            .weights
            .gradients_to_hub(&model.config)
            .into_iter()
            .map(|(name, grad)| (name, grad.copy()))
            .collect();
        model.weights.zero_gradients();
        let first = encoded.weights.iter().position(|weight| *weight > 0.0).unwrap();
        let targets =
            Tensor::from_slice(&encoded.ids[first..].iter().map(|id| i64::from(*id)).collect::<Vec<_>>());
        let rows = plain.narrow(0, i64::try_from(first).unwrap() - 1, targets.size()[0]);
        let loss = rows.cross_entropy_for_logits(&targets);
        loss.backward();
        assert!((loss.double_value(&[]) - figures.loss).abs() < 1e-5);
        assert_close(&model.weights.gradients_to_hub(&model.config), &found, 1e-4);
    }
}

#[test]
fn log_probs_do_not_depend_on_the_layout() {
    let model = model(&config("qwen2", 4, 2, true), 5);
    let examples = examples();
    let all: Vec<&Example> = examples.iter().collect();
    let linear = log_probs(&model, &all, &LINEAR);
    let tree = log_probs(&model, &all, &Computation { layout: Layout::TreePacked, ..LINEAR });
    assert_eq!(linear.len(), 4 * 2 + 3);
    for (left, right) in linear.iter().zip(&tree) {
        assert!((left - right).abs() < 1e-5 * left.abs(), "{left} {right}");
    }
}

#[test]
fn a_policy_that_is_its_reference_has_a_loss_of_ln_two() {
    let model = model(&config("llama", 4, 2, false), 6);
    let pairs: Vec<Example> =
        examples().into_iter().filter(|example| matches!(example, Example::Pair(_))).collect();
    let tree = Computation { layout: Layout::TreePacked, ..LINEAR };
    let sums = log_probs(&model, &pairs.iter().collect::<Vec<_>>(), &LINEAR);
    let step: Vec<StepExample<'_>> = pairs
        .iter()
        .zip(sums.chunks_exact(2))
        .map(|(example, sides)| StepExample {
            example,
            reference: Some(ReferencePair { chosen: sides[0], rejected: sides[1] }),
        })
        .collect();
    let figures = compute(&model, &step, &objective(), &tree, false);
    assert!((figures.loss - std::f64::consts::LN_2).abs() < 1e-5, "{}", figures.loss);
}
