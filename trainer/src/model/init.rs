//! Seeded random weights.
//!
//! Values come from a counter-based generator of our own dependency tree, not from libtorch, so that a seed means the same
//! weights on every machine and version.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::config::ModelConfig;
use super::dim;
use super::weights::{Weights, WeightsError};

/// Normal weights with the configuration's `initializer_range`, zero biases, unit norms.
pub fn random(config: &ModelConfig, seed: u64) -> Result<Weights, WeightsError> {
    Weights::from_hub(config, random_named(config, seed))
}

/// The tensors of [`random`] by their Hub names, for initialisations that change some of them.
pub fn random_named(config: &ModelConfig, seed: u64) -> BTreeMap<String, Tensor> {
    let mut named = BTreeMap::new();
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    for (name, shape) in hub_shapes(config) {
        let count = shape.iter().product::<usize>();
        let values = if name.ends_with("norm.weight") {
            vec![1.0; count]
        } else if name.ends_with("_proj.bias") {
            vec![0.0; count]
        } else {
            normal(&mut generator, count, config.initializer_range)
        };
        let sizes: Vec<i64> = shape.iter().map(|size| dim(*size)).collect();
        named.insert(name, Tensor::from_slice(&values).reshape(sizes.as_slice()));
    }
    named
}

/// Hub name and shape of every tensor of a model, in a fixed order.
pub fn hub_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, feed_forward) = (config.hidden, config.feed_forward);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !config.tied {
        shapes.push(("lm_head.weight".to_owned(), vec![config.vocab, hidden]));
    }
    for layer in 0..config.layers {
        let mut put =
            |name: &str, shape: Vec<usize>| shapes.push((format!("model.layers.{layer}.{name}"), shape));
        put("input_layernorm.weight", vec![hidden]);
        for (part, rows) in [("q", queries), ("k", keys), ("v", keys)] {
            put(&format!("self_attn.{part}_proj.weight"), vec![rows, hidden]);
            if config.qkv_bias() {
                put(&format!("self_attn.{part}_proj.bias"), vec![rows]);
            }
        }
        put("self_attn.o_proj.weight", vec![hidden, queries]);
        put("post_attention_layernorm.weight", vec![hidden]);
        put("mlp.gate_proj.weight", vec![feed_forward, hidden]);
        put("mlp.up_proj.weight", vec![feed_forward, hidden]);
        put("mlp.down_proj.weight", vec![hidden, feed_forward]);
    }
    shapes
}

/// Box-Muller from uniform doubles.
pub(crate) fn normal(generator: &mut ChaCha8Rng, count: usize, deviation: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt() * deviation;
        let angle = std::f64::consts::TAU * generator.random::<f64>();
        #[expect(clippy::cast_possible_truncation, reason = "weights are single precision")]
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}
