//! One forward pass for many sequences, each with new tokens behind its cached ones.
//!
//! What a row computes must not depend on the other rows. Measured on libtorch 2.11's CPU kernels: a matrix product's row is
//! bitwise independent of the number of rows when that is a multiple of 16; an attention row is, when there are at least 4
//! contiguous query rows, the keys come in whole blocks of 512 and a mask is always given. So rows are padded to 16, query
//! rows to 4, keys to blocks, and each sequence has its own attention call. Then prefill, decoding, any chunking and any
//! cached prefix give the same bits.

use tch::{Kind, Tensor};

use super::cache::{BLOCK, Sequence};
use crate::model::attention::{Rotation, split_heads};
use crate::model::{Decoder, ModelConfig, dim};

/// Rows of a matrix product are padded to a multiple of this.
const ROWS: usize = 16;

/// Query rows of an attention call are repeated to at least this many.
const QUERY_ROWS_MIN: usize = 4;

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Extension<'step> {
    /// The sequence; the tokens are added to it.
    pub sequence: &'step mut Sequence,
    /// At least one token.
    pub tokens: Vec<u32>,
}

/// Rows of one extension in the packed batch, and its mask.
struct Rows {
    start: usize,
    len: usize,
    past: usize,
    /// Key rows that attention runs over, a multiple of [`BLOCK`].
    keys: usize,
    /// How often the query rows are repeated.
    repeat: usize,
    /// `[1, 1, repeat * len * H / K, keys]`.
    mask: Tensor,
}

/// Computes all extensions and returns the logits behind the last token of each, `[extensions, V]`.
pub fn extend(model: &Decoder, extensions: &mut [Extension<'_>]) -> Tensor {
    let _guard = tch::no_grad_guard();
    let config = &model.config;
    let (mut tokens, mut positions, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for extension in extensions.iter_mut() {
        let (past, len) = (extension.sequence.tokens.len(), extension.tokens.len());
        extension.sequence.reserve(config, past + len);
        rows.push(Rows::new(config, tokens.len(), len, past));
        tokens.extend(extension.tokens.iter().map(|token| i64::from(*token)));
        positions.extend(past..past + len);
    }
    let padded = tokens.len().next_multiple_of(ROWS);
    tokens.resize(padded, 0);
    positions.resize(padded, 0);

    let rotation = Rotation::new(config, &positions, tch::Device::Cpu);
    let mut hidden_TC = model.weights.embedding.index_select(0, &Tensor::from_slice(&tokens));
    for (layer, weights) in model.weights.layers.iter().enumerate() {
        let qkv = weights.project(config, &hidden_TC);
        let (query_THD, key_TKD, value_TKD) = split_heads(config, &qkv, &rotation);
        let stored_T2KD = Tensor::stack(&[key_TKD, value_TKD], 1);
        let out_THD = query_THD.zeros_like();
        for (extension, rows) in extensions.iter().zip(&rows) {
            let Some(memory) = extension.sequence.layers.get(layer) else { continue };
            let (start, len) = (dim(rows.start), dim(rows.len));
            memory.narrow(0, dim(rows.past), len).copy_(&stored_T2KD.narrow(0, start, len));
            let out = attend(config, &query_THD.narrow(0, start, len), memory, rows);
            out_THD.narrow(0, start, len).copy_(&out);
        }
        hidden_TC = weights.finish(config, &hidden_TC, &out_THD.flatten(1, 2));
    }
    for extension in extensions.iter_mut() {
        let added = std::mem::take(&mut extension.tokens);
        extension.sequence.tokens.extend(added);
    }
    let mut last: Vec<i64> = rows.iter().map(|rows| dim(rows.start + rows.len) - 1).collect();
    let count = dim(last.len());
    last.resize(last.len().next_multiple_of(ROWS), 0);
    model.logits(&hidden_TC.index_select(0, &Tensor::from_slice(&last))).narrow(0, 0, count)
}

impl Rows {
    fn new(config: &ModelConfig, start: usize, len: usize, past: usize) -> Self {
        let group = config.heads / config.kv_heads;
        let keys = (past + len).next_multiple_of(BLOCK);
        let repeat = QUERY_ROWS_MIN.div_ceil(len * group);
        // Row i of the extension sees key rows up to past + i.
        let mask = Tensor::full([dim(len), dim(keys)], f64::NEG_INFINITY, (Kind::Float, tch::Device::Cpu))
            .triu_(dim(past) + 1)
            .unsqueeze(1)
            .expand([dim(len), dim(group), dim(keys)], false)
            .reshape([1, 1, dim(len * group), dim(keys)])
            .repeat([1, 1, dim(repeat), 1]);
        Self { start, len, past, keys, repeat, mask }
    }
}

/// Attention of `[len, H, D]` queries over the stored keys and values; returns `[len, H, D]`.
///
/// The query heads that share a key head become query rows of it, so keys are never repeated.
fn attend(config: &ModelConfig, query: &Tensor, memory: &Tensor, rows: &Rows) -> Tensor {
    let (heads, kv_heads, size) = (dim(config.heads), dim(config.kv_heads), dim(config.head_dim));
    let (len, group) = (dim(rows.len), heads / kv_heads);
    let query = query
        .reshape([len, kv_heads, group, size])
        .transpose(0, 1)
        .reshape([1, kv_heads, len * group, size])
        .repeat([1, 1, dim(rows.repeat), 1]);
    let stored = memory.narrow(0, 0, dim(rows.keys));
    let part = |index: i64| stored.select(1, index).transpose(0, 1).unsqueeze(0);
    let (out, _) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
        &query,
        &part(0),
        &part(1),
        0.0,
        false,
        Some(&rows.mask),
        None,
    );
    out.narrow(2, 0, len * group)
        .reshape([kv_heads, len, group, size])
        .transpose(0, 1)
        .reshape([len, heads, size])
}
