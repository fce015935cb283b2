//! Initial weights that can copy: a two-layer induction circuit written into an ordinary Qwen2 model.
//!
//! A small model spends most of its pretraining on learning to copy names and lines, and an agent that cannot quote a line
//! cannot edit it. So the circuit that copying needs is written down instead of being waited for. In all heads but the
//! last, layer 0 looks at the previous token and adds a rotated image of its embedding; layer 1 looks for the place whose
//! *previous* token is the present one and adds the embedding found there, which the tied output matrix reads as "repeat
//! it". Every tensor stays an ordinary trainable one, and the last head, the feed-forward parts and all later layers start
//! at random.
//!
//! The construction needs one key-value head a query head, at least two layers, biases, and a tied output matrix.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::model::config::ModelConfig;
use crate::model::init;
use crate::model::weights::{Weights, WeightsError};

/// Size of the bias vectors of layer 0 in each rotary pair: the score of the previous token over its neighbours is then
/// about 9 nats in the fastest pair alone, a hard choice at any distance of the context.
const PREVIOUS_TOKEN_BIAS: f64 = 10.6;
/// Scale that keeps the content of layer 0 out of that choice.
const CONTENT_SCALE: f64 = 0.1;
/// First rotary pair used for matching in layer 1: the pairs before it turn too fast to match over a distance.
const FIRST_SLOW_PAIR: usize = 6;
/// Scale of the queries of layer 1.
const QUERY_SCALE: f64 = 2.0;
/// Scale of its keys.
const KEY_SCALE: f64 = 2.8;
/// How many times the size of an embedding a copied token gets.
const COPY_SCALE: f64 = 3.0;

/// Standard deviation of the embeddings: several times what the untrained feed-forward parts add to the residual stream, so
/// that they do not drown what the circuit writes.
const EMBEDDING_DEVIATION: f64 = 0.08;

/// Why the circuit cannot be written into a model.
#[derive(Debug, thiserror::Error)]
pub enum StructureError {
    /// The shape has no room for it.
    #[error("structured weights need {0}")]
    Shape(&'static str),
    /// The weights do not fit the configuration.
    #[error("structured weights do not fit the configuration")]
    Weights(#[from] WeightsError),
    /// libtorch refused an operation.
    #[error("structured weights could not be computed")]
    Torch(#[from] tch::TchError),
}

/// Random weights with the induction circuit in all heads but the last.
pub fn induction(config: &ModelConfig, seed: u64) -> Result<Weights, StructureError> {
    check(config)?;
    let mut named = init::random_named(config, seed);
    let mut generator = ChaCha8Rng::seed_from_u64(seed ^ 0x5EA1);
    let copied = (config.heads - 1) * config.head_dim;
    let read_CC = orthonormal(&mut generator, config.hidden, config.hidden)?;
    let image_CC = orthonormal(&mut generator, config.hidden, config.hidden)?;
    let read_NC = read_CC.f_narrow(0, 0, size(copied))?;
    let image_CN = image_CC.f_narrow(1, 0, size(copied))?;
    let circuit = Circuit { config, copied, read_NC, image_CN };
    let no_grad = tch::no_grad_guard();
    let embeddings = tensor(&named, EMBEDDINGS)?;
    let _ = embeddings.shallow_clone().f_mul_scalar_(EMBEDDING_DEVIATION / config.initializer_range)?;
    circuit.look_back(&mut named)?;
    circuit.match_and_copy(&mut named, &mut generator)?;
    drop(no_grad);
    Ok(Weights::from_hub(config, named)?)
}

const EMBEDDINGS: &str = "model.embed_tokens.weight";

type Named = std::collections::BTreeMap<String, Tensor>;

fn check(config: &ModelConfig) -> Result<(), StructureError> {
    let pairs = config.head_dim / 2;
    for (holds, what) in [
        (config.kv_heads == config.heads, "as many key-value heads as query heads"),
        (config.heads >= 2, "two heads at least"),
        (config.layers >= 2, "two layers at least"),
        (config.tied, "tie_word_embeddings"),
        (config.qkv_bias(), "a qwen2 model: the circuit lives in the biases"),
        (pairs > FIRST_SLOW_PAIR, "heads of size 14 at least"),
        (config.heads * config.head_dim == config.hidden, "heads that together are as wide as the model"),
    ] {
        if !holds {
            return Err(StructureError::Shape(what));
        }
    }
    Ok(())
}

struct Circuit<'config> {
    config: &'config ModelConfig,
    /// `N`: width of the heads that carry the circuit.
    copied: usize,
    /// `[N, C]`: what of an embedding is carried.
    read_NC: Tensor,
    /// `[C, N]`: where layer 0 puts it.
    image_CN: Tensor,
}

#[expect(non_snake_case, reason = "shape suffixes: C hidden, N width of the carrying heads, D head size")]
impl Circuit<'_> {
    /// Layer 0: every position adds the image of the previous token's embedding.
    fn look_back(&self, named: &mut Named) -> Result<(), StructureError> {
        let (pairs, head) = (self.config.head_dim / 2, self.config.head_dim);
        let mut queries = vec![0.0_f32; self.copied];
        let mut keys = vec![0.0_f32; self.copied];
        for (index, (query, key)) in queries.iter_mut().zip(keys.iter_mut()).enumerate() {
            let within = index % head;
            let pair = within % pairs;
            let turn = frequency(self.config, pair);
            // The second half of a head holds the second coordinate of each pair.
            let is_first = within < pairs;
            let query_value = if is_first { turn.cos() } else { -turn.sin() };
            *query = single(PREVIOUS_TOKEN_BIAS * query_value);
            *key = single(if is_first { PREVIOUS_TOKEN_BIAS } else { 0.0 });
        }
        for (part, bias) in [("q", queries), ("k", keys)] {
            let weight = tensor(named, &name(0, part, "weight"))?;
            let _ = weight.f_narrow(0, 0, size(self.copied))?.f_mul_scalar_(CONTENT_SCALE)?;
            let target = tensor(named, &name(0, part, "bias"))?;
            target.f_narrow(0, 0, size(self.copied))?.f_copy_(&Tensor::from_slice(&bias))?;
        }
        let values = tensor(named, &name(0, "v", "weight"))?;
        values.f_narrow(0, 0, size(self.copied))?.f_copy_(&self.read_NC)?;
        let outputs = tensor(named, &name(0, "o", "weight"))?;
        outputs
            .f_narrow(1, 0, size(self.copied))?
            .f_copy_(&self.image_CN.f_mul_scalar(EMBEDDING_DEVIATION)?)?;
        Ok(())
    }

    /// Layer 1: every position adds the embedding at the place whose previous token is its own.
    fn match_and_copy(&self, named: &mut Named, generator: &mut ChaCha8Rng) -> Result<(), StructureError> {
        let (pairs, head) = (self.config.head_dim / 2, self.config.head_dim);
        let slow = pairs - FIRST_SLOW_PAIR;
        // Undoes layer 0: from the image back to the previous token's embedding.
        let back_CC = self.image_CN.f_matmul(&self.read_NC)?.f_transpose(0, 1)?;
        for index in 0..self.config.heads - 1 {
            let rows = orthonormal(generator, self.config.hidden, self.config.hidden)?;
            let rows = rows.f_narrow(0, 0, size(2 * slow))?;
            let keys = rows.f_matmul(&back_CC)?;
            for (part, matrix, scale) in [("q", &rows, QUERY_SCALE), ("k", &keys, KEY_SCALE)] {
                let weight = tensor(named, &name(1, part, "weight"))?;
                let target = weight.f_narrow(0, size(index * head), size(head))?;
                let _ = target.shallow_clone().f_zero_()?;
                for half in 0..2 {
                    let from = matrix.f_narrow(0, size(half * slow), size(slow))?.f_mul_scalar(scale)?;
                    let start = size(half * pairs + FIRST_SLOW_PAIR);
                    target.f_narrow(0, start, size(slow))?.f_copy_(&from)?;
                }
            }
        }
        let values = tensor(named, &name(1, "v", "weight"))?;
        values.f_narrow(0, 0, size(self.copied))?.f_copy_(&self.read_NC)?;
        let outputs = tensor(named, &name(1, "o", "weight"))?;
        let copy = self.read_NC.f_transpose(0, 1)?.f_mul_scalar(COPY_SCALE * EMBEDDING_DEVIATION)?;
        outputs.f_narrow(1, 0, size(self.copied))?.f_copy_(&copy)?;
        Ok(())
    }
}

fn name(layer: usize, part: &str, kind: &str) -> String {
    format!("model.layers.{layer}.self_attn.{part}_proj.{kind}")
}

fn tensor<'named>(named: &'named Named, key: &str) -> Result<&'named Tensor, StructureError> {
    named.get(key).ok_or(StructureError::Shape("every tensor of a qwen2 model"))
}

/// Radians by which rotary pair `pair` turns from one position to the next.
#[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
fn frequency(config: &ModelConfig, pair: usize) -> f64 {
    config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64)
}

/// A random matrix with orthonormal rows and columns.
fn orthonormal(generator: &mut ChaCha8Rng, rows: usize, columns: usize) -> Result<Tensor, StructureError> {
    let values = init::normal(generator, rows * columns, 1.0);
    let matrix =
        Tensor::from_slice(&values).f_reshape([size(rows), size(columns)])?.f_to_kind(Kind::Double)?;
    let (orthogonal, _) = Tensor::f_linalg_qr(&matrix, "reduced")?;
    Ok(orthogonal.f_to_kind(Kind::Float)?)
}

fn size(count: usize) -> i64 {
    crate::model::dim(count)
}

#[expect(clippy::cast_possible_truncation, reason = "weights are single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use sealign_batch::{Layout, PackedBatch, SequenceInput};
    use serde_json::json;

    use super::*;
    use crate::model::decoder::{Decoder, Inputs};

    fn config() -> ModelConfig {
        ModelConfig::from_value(&json!({
            "model_type": "qwen2", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1024, "tie_word_embeddings": true,
            "rope_theta": 1_000_000.0, "max_position_embeddings": 768, "initializer_range": 0.02,
        }))
        .unwrap()
    }

    /// Share of the second half of a random sequence, repeated twice, that is predicted.
    fn repeat_accuracy(weights: Weights) -> f64 {
        let config = config();
        let decoder = Decoder { config: config.clone(), weights };
        let mut generator = ChaCha8Rng::seed_from_u64(5);
        let (mut hits, mut total) = (0_u32, 0_u32);
        for _ in 0..8 {
            let half: Vec<u32> = (0..40).map(|_| generator.random_range(3..1024)).collect();
            let ids = [&half[..], &half[..]].concat();
            let loss_weights = vec![1.0_f32; ids.len()];
            let batch =
                PackedBatch::pack(&[SequenceInput { ids: &ids, weights: &loss_weights }], Layout::Linear);
            let hidden = decoder.infer(&Inputs::new(&config, &batch));
            let best = decoder.logits(&hidden).argmax(1, false);
            for row in 40..79 {
                total += 1;
                hits +=
                    u32::from(best.int64_value(&[row]) == i64::from(ids[usize::try_from(row).unwrap() + 1]));
            }
        }
        f64::from(hits) / f64::from(total)
    }

    #[test]
    fn structured_weights_repeat_what_they_saw_before_any_training() {
        let plain = repeat_accuracy(init::random(&config(), 1).unwrap());
        let structured = repeat_accuracy(induction(&config(), 1).unwrap());
        println!("repeat accuracy: random {plain:.3}, structured {structured:.3}");
        assert!(plain < 0.02, "random weights repeat {plain}");
        assert!(structured > 0.15, "structured weights repeat only {structured}");
    }

    #[test]
    fn a_shape_without_room_for_the_circuit_is_refused() {
        let mut grouped = config();
        grouped.kv_heads = 2;
        let error = induction(&grouped, 1).unwrap_err().to_string();
        assert!(error.contains("key-value heads"), "{error}");
    }
}
