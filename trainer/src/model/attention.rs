//! Attention over a packed batch of segments, forward and backward, without an autograd graph.
//!
//! A plan is a list of parts. A part lets a run of query rows see a run of key rows, either causally (a segment on itself) or
//! fully (all descendants on an ancestor segment; they are contiguous because segments are in depth-first order). The parts
//! of a row are merged by their log-sum-exp. The backward pass calls the kernel's own backward per part with the *merged*
//! output and log-sum-exp, which yields exact gradients, so keys are never copied and no mask is ever built.
//!
//! The layout follows tree attention as in arXiv 2511.00413; the merge is the one of flash decoding.

use sealign_batch::Segment;
use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::dim;
use super::kernel::{self, Saved};

/// Query rows that see key rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    query_start: i64,
    query_len: i64,
    key_start: i64,
    key_len: i64,
    causal: bool,
    /// No earlier part has written these query rows.
    first: bool,
}

/// Which rows see which rows, and at which positions they stand.
#[derive(Debug)]
pub struct AttentionPlan {
    parts: Vec<Part>,
    rotation: Rotation,
}

impl AttentionPlan {
    /// The plan of a packed batch's segments, and of its rows' positions.
    pub fn new(config: &ModelConfig, segments: &[Segment], positions: &[usize], device: Device) -> Self {
        let mut parts = Vec::with_capacity(segments.len() * 2);
        for segment in segments {
            let (start, len, end) = (dim(segment.start), dim(segment.len), dim(segment.subtree_end));
            let first = segment.parent.is_none();
            parts.push(Part {
                query_start: start,
                query_len: len,
                key_start: start,
                key_len: len,
                causal: true,
                first,
            });
            let below = start + len;
            if end > below {
                let (query_start, query_len) = (below, end - below);
                parts.push(Part {
                    query_start,
                    query_len,
                    key_start: start,
                    key_len: len,
                    causal: false,
                    first,
                });
            }
        }
        Self { parts, rotation: Rotation::new(config, positions, device) }
    }
}

/// What goes into the kernel, each `[T, H, D]`: rotated queries, rotated keys and values repeated to the query heads.
#[derive(Debug)]
struct Heads {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
}

/// What the backward pass needs of one attention call.
#[derive(Debug)]
pub struct Attended {
    /// `None` when they are to be made again from the fused projection.
    heads: Option<Heads>,
    /// Output, `[T, H, D]`.
    pub out_THD: Tensor,
    /// Log-sum-exp of the scores, `[1, H, T]`.
    lse_1HT: Tensor,
}

impl Attended {
    /// Forgets what the fused projection gives again: three quarters of the memory.
    #[must_use]
    pub fn without_heads(self) -> Self {
        Self { heads: None, ..self }
    }
}

impl Heads {
    fn of(config: &ModelConfig, rotation: &Rotation, qkv: &Tensor) -> Self {
        let (query_THD, key_TKD, value_TKD) = split_heads(config, qkv, rotation);
        Self {
            queries: query_THD,
            keys: repeat_heads(config, &key_TKD),
            values: repeat_heads(config, &value_TKD),
        }
    }
}

/// Cosines and sines of the rotary embedding for each row, both `[T, 1, D / 2]`.
#[derive(Debug)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// The table rows of the given positions, computed in float32 on the CPU as transformers does, then brought to `device`.
    pub fn new(config: &ModelConfig, positions: &[usize], device: Device) -> Self {
        let half = dim(config.head_dim / 2);
        let exponents = Tensor::arange_start_step(0, half * 2, 2, (Kind::Float, Device::Cpu))
            / f64::from(u32::try_from(config.head_dim).unwrap_or(u32::MAX));
        let base = Tensor::from(config.rope_theta).to_kind(Kind::Float);
        let frequencies = base.pow(&exponents).reciprocal();
        let positions: Vec<i64> = positions.iter().map(|position| dim(*position)).collect();
        let positions = Tensor::from_slice(&positions).to_kind(Kind::Float);
        let angles = (positions.unsqueeze(1) * frequencies.unsqueeze(0)).unsqueeze(1);
        Self { cos: angles.cos().to_device(device), sin: angles.sin().to_device(device) }
    }

    /// Rotates `[T, heads, D]`; the halves of a head are the two coordinates.
    pub fn apply(&self, heads_THD: &Tensor) -> Tensor {
        let halves = heads_THD.chunk(2, 2);
        let [first, second] = halves.as_slice() else { return heads_THD.shallow_clone() };
        // The table is float32, so half precision is rounded once, at the end.
        Tensor::cat(&[first * &self.cos - second * &self.sin, second * &self.cos + first * &self.sin], 2)
            .to_kind(heads_THD.kind())
    }

    /// The inverse rotation, which is also the gradient of [`Rotation::apply`].
    pub fn undo(&self, heads_THD: &Tensor) -> Tensor {
        let halves = heads_THD.chunk(2, 2);
        let [first, second] = halves.as_slice() else { return heads_THD.shallow_clone() };
        Tensor::cat(&[first * &self.cos + second * &self.sin, second * &self.cos - first * &self.sin], 2)
            .to_kind(heads_THD.kind())
    }
}

/// Splits the fused projection `[T, (H + 2K) D]` and rotates queries and keys. Returns `[T, H, D]` and twice `[T, K, D]`.
pub fn split_heads(config: &ModelConfig, qkv: &Tensor, rotation: &Rotation) -> (Tensor, Tensor, Tensor) {
    let (heads, kv_heads, size) = (dim(config.heads), dim(config.kv_heads), dim(config.head_dim));
    let all = qkv.view([-1, heads + 2 * kv_heads, size]);
    let rotated = rotation.apply(&all.narrow(1, 0, heads + kv_heads));
    (
        rotated.narrow(1, 0, heads),
        rotated.narrow(1, heads, kv_heads),
        all.narrow(1, heads + kv_heads, kv_heads),
    )
}

/// Repeats key or value heads so that each query head has its own; no copy when the counts are equal.
pub fn repeat_heads(config: &ModelConfig, heads_TKD: &Tensor) -> Tensor {
    let group = dim(config.heads / config.kv_heads);
    if group == 1 {
        return heads_TKD.shallow_clone();
    }
    let (kv_heads, size) = (dim(config.kv_heads), dim(config.head_dim));
    heads_TKD.unsqueeze(2).expand([-1, kv_heads, group, size], false).reshape([-1, kv_heads * group, size])
}

/// `[T, H, D]` rows as the kernel wants them, `[1, H, rows, D]`; a view.
fn kernel_view(tensor_THD: &Tensor, start: i64, len: i64) -> Tensor {
    tensor_THD.narrow(0, start, len).transpose(0, 1).unsqueeze(0)
}

/// Attention of a packed batch. `qkv` is the fused projection before rotation, `[T, (H + 2K) D]`. Call without gradients.
pub fn forward(config: &ModelConfig, plan: &AttentionPlan, qkv: &Tensor) -> Attended {
    let inputs = Heads::of(config, &plan.rotation, qkv);
    let Heads { queries: query_THD, keys: key_THD, values: value_THD } = &inputs;
    // Parts are merged in float32; one rounding at the end.
    let out_THD = Tensor::empty(query_THD.size(), (Kind::Float, query_THD.device()));
    let (rows, heads, _) = out_THD.size3().unwrap_or_default();
    let lse_1HT = Tensor::empty([1, heads, rows], (Kind::Float, out_THD.device()));
    for part in &plan.parts {
        let (out, lse) = kernel::forward(
            &kernel_view(query_THD, part.query_start, part.query_len),
            &kernel_view(key_THD, part.key_start, part.key_len),
            &kernel_view(value_THD, part.key_start, part.key_len),
            part.causal,
        );
        let mut merged_out = kernel_view(&out_THD, part.query_start, part.query_len);
        let mut merged_lse = lse_1HT.narrow(2, part.query_start, part.query_len);
        if part.first {
            merged_out.copy_(&out);
            merged_lse.copy_(&lse);
            continue;
        }
        let total = merged_lse.logaddexp(&lse);
        let old_share = (&merged_lse - &total).exp_().unsqueeze(-1);
        let new_share = (&lse - &total).exp_().unsqueeze(-1);
        let _ = merged_out.multiply_(&old_share).addcmul_(&out, &new_share);
        merged_lse.copy_(&total);
    }
    let out_THD = out_THD.to_kind(query_THD.kind());
    Attended { heads: Some(inputs), out_THD, lse_1HT }
}

/// Gradient of the fused projection `qkv`, `[T, (H + 2K) D]`, from the gradient of the output, `[T, H, D]`.
pub fn backward(
    config: &ModelConfig,
    plan: &AttentionPlan,
    qkv: &Tensor,
    attended: Attended,
    grad_out_THD: &Tensor,
) -> Tensor {
    let Attended { heads, out_THD, lse_1HT } = attended;
    let Heads { queries: query_THD, keys: key_THD, values: value_THD } =
        &heads.unwrap_or_else(|| Heads::of(config, &plan.rotation, qkv));
    let zeros = |like: &Tensor| Tensor::zeros(like.size(), (Kind::Float, like.device()));
    let (grad_query, grad_key, grad_value) = (zeros(query_THD), zeros(key_THD), zeros(value_THD));
    for part in &plan.parts {
        let query = |tensor: &Tensor| kernel_view(tensor, part.query_start, part.query_len);
        let key = |tensor: &Tensor| kernel_view(tensor, part.key_start, part.key_len);
        let (query_part, key_part, value_part) = kernel::backward(&Saved {
            grad_out: &query(grad_out_THD),
            query: &query(query_THD),
            key: &key(key_THD),
            value: &key(value_THD),
            out: &query(&out_THD),
            lse: &lse_1HT.narrow(2, part.query_start, part.query_len).contiguous(),
            causal: part.causal,
        });
        let _ = query(&grad_query).g_add_(&query_part);
        let _ = key(&grad_key).g_add_(&key_part);
        let _ = key(&grad_value).g_add_(&value_part);
    }
    let grad_key = sum_groups(config, &grad_key);
    let grad_value = sum_groups(config, &grad_value);
    let rotated = plan.rotation.undo(&Tensor::cat(&[grad_query, grad_key], 1));
    Tensor::cat(&[rotated, grad_value], 1).flatten(1, 2).to_kind(qkv.kind())
}

/// Adds up the gradients of repeated heads: `[T, H, D]` to `[T, K, D]`.
fn sum_groups(config: &ModelConfig, grad_THD: &Tensor) -> Tensor {
    let group = dim(config.heads / config.kv_heads);
    if group == 1 {
        return grad_THD.shallow_clone();
    }
    let (kv_heads, size) = (dim(config.kv_heads), dim(config.head_dim));
    grad_THD.view([-1, kv_heads, group, size]).sum_dim_intlist(&[2_i64][..], false, Kind::Float)
}
