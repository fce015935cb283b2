//! Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on every projection of a layer, in PEFT's layout.
//!
//! A projection `W x` becomes `W x + scale * B (A x)` with `A` `[rank, in]`, `B` `[out, rank]` and `scale` = alpha / rank; `B`
//! starts at zero, so that training starts at the model itself. Only the adapters are trained. There is no dropout.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::config::ModelConfig;
use super::dim;
use super::weights::{LayerWeights, Weights};

/// Size and strength of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lora {
    /// Rank of the update, at least 1.
    pub rank: usize,
    /// The update counts alpha / rank.
    pub alpha: f64,
}

/// The update of one projection.
#[derive(Debug)]
pub struct LowRank {
    /// `A`, `[rank, in]`.
    pub down: Tensor,
    /// `B`, `[out, rank]`.
    pub up: Tensor,
}

/// The updates of one layer.
#[derive(Debug)]
pub struct LayerAdapter {
    /// In the order of [`PROJECTIONS`].
    projections: [LowRank; 7],
    scale: f64,
}

/// Hub names of the projections of a layer, in the order in which adapters hold them.
pub const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Rows and columns of each projection.
fn sizes(config: &ModelConfig) -> [(usize, usize); 7] {
    let (hidden, feed_forward) = (config.hidden, config.feed_forward);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    [
        (queries, hidden),
        (keys, hidden),
        (keys, hidden),
        (hidden, queries),
        (feed_forward, hidden),
        (feed_forward, hidden),
        (hidden, feed_forward),
    ]
}

impl LowRank {
    fn fresh(rows: usize, columns: usize, rank: usize, generator: &mut ChaCha8Rng) -> Self {
        // PEFT's start: uniform within 1 / sqrt(columns).
        let bound = 1.0 / f64::from(u32::try_from(columns).unwrap_or(u32::MAX)).sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "weights are single precision")]
        let values: Vec<f32> =
            (0..rank * columns).map(|_| ((2.0 * generator.random::<f64>() - 1.0) * bound) as f32).collect();
        Self {
            down: Tensor::from_slice(&values).reshape([dim(rank), dim(columns)]),
            up: Tensor::zeros([dim(rows), dim(rank)], (tch::Kind::Float, Device::Cpu)),
        }
    }

    /// Adapters stay in float32: what they learn is smaller than what half precision keeps of a weight.
    fn apply(&self, input: &Tensor) -> Tensor {
        let update = input.to_kind(self.down.kind()).linear::<&Tensor>(&self.down, None);
        update.linear::<&Tensor>(&self.up, None).to_kind(input.kind())
    }

    /// `B A`, `[out, in]`.
    fn product(&self) -> Tensor {
        self.up.detach().matmul(&self.down.detach())
    }

    fn to_device(&self, device: Device) -> Self {
        Self { down: self.down.to_device(device), up: self.up.to_device(device) }
    }
}

impl LayerAdapter {
    /// The same adapters somewhere else.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        Self {
            projections: self.projections.each_ref().map(|part| part.to_device(device)),
            scale: self.scale,
        }
    }

    fn sum(&self, input: &Tensor, projections: &[usize]) -> Tensor {
        let parts: Vec<Tensor> = projections
            .iter()
            .filter_map(|index| self.projections.get(*index))
            .map(|projection| projection.apply(input))
            .collect();
        Tensor::cat(&parts, 1) * self.scale
    }

    /// Update of the fused query, key and value projection.
    pub fn qkv(&self, input: &Tensor) -> Tensor {
        self.sum(input, &[0, 1, 2])
    }

    /// Update of the attention output projection.
    pub fn attention_out(&self, input: &Tensor) -> Tensor {
        self.sum(input, &[3])
    }

    /// Update of the fused gate and up projection.
    pub fn gate_up(&self, input: &Tensor) -> Tensor {
        self.sum(input, &[4, 5])
    }

    /// Update of the down projection.
    pub fn down(&self, input: &Tensor) -> Tensor {
        self.sum(input, &[6])
    }

    fn product(&self, projections: &[usize]) -> Tensor {
        let parts: Vec<Tensor> = projections
            .iter()
            .filter_map(|index| self.projections.get(*index))
            .map(LowRank::product)
            .collect();
        Tensor::cat(&parts, 0) * self.scale
    }

    /// The adapter's tensors with their names, as [`Weights::trained`] lists them.
    pub fn tensors(&self, layer: usize) -> Vec<(String, &Tensor)> {
        let name = |part: &str, side: &str| {
            format!("base_model.model.model.layers.{layer}.{part}.lora_{side}.weight")
        };
        PROJECTIONS
            .iter()
            .zip(&self.projections)
            .flat_map(|(part, low_rank)| [(name(part, "A"), &low_rank.down), (name(part, "B"), &low_rank.up)])
            .collect()
    }
}

/// Gives every layer a fresh adapter.
pub fn attach(config: &ModelConfig, weights: &mut Weights, lora: Lora, seed: u64) {
    let mut generator = ChaCha8Rng::seed_from_u64(seed ^ 0x6c6f_7261);
    let rank = u32::try_from(lora.rank).unwrap_or(u32::MAX);
    for layer in &mut weights.layers {
        let projections =
            sizes(config).map(|(rows, columns)| LowRank::fresh(rows, columns, lora.rank, &mut generator));
        layer.adapter = Some(LayerAdapter { projections, scale: lora.alpha / f64::from(rank) });
    }
}

/// The weights with the adapters added into them.
pub fn merged(weights: &Weights) -> Weights {
    let _guard = tch::no_grad_guard();
    let mut merged = weights.with_values(|_| None);
    for (layer, source) in merged.layers.iter_mut().zip(&weights.layers) {
        let Some(adapter) = &source.adapter else { continue };
        let LayerWeights { qkv, attention_out, gate_up, down, adapter: none, .. } = layer;
        for (tensor, projections) in
            [(qkv, &[0, 1, 2][..]), (attention_out, &[3][..]), (gate_up, &[4, 5][..]), (down, &[6][..])]
        {
            *tensor = tensor.detach() + adapter.product(projections);
        }
        *none = None;
    }
    merged
}

/// The adapters' tensors under PEFT's names; empty without adapters.
pub fn to_peft(weights: &Weights) -> BTreeMap<String, Tensor> {
    let layers = weights.layers.iter().enumerate();
    layers
        .filter_map(|(index, layer)| Some(layer.adapter.as_ref()?.tensors(index)))
        .flatten()
        .map(|(name, tensor)| (name, tensor.detach()))
        .collect()
}

/// Fills the adapters in place. Returns the name of a tensor that is missing or has another shape.
pub fn fill(weights: &Weights, named: &BTreeMap<String, Tensor>) -> Result<(), String> {
    let _guard = tch::no_grad_guard();
    for (name, tensor) in to_peft(weights) {
        let Some(stored) = named.get(&name).filter(|stored| stored.size() == tensor.size()) else {
            return Err(name);
        };
        tensor.shallow_clone().copy_(stored);
    }
    Ok(())
}

/// `adapter_config.json` as PEFT reads it.
pub fn peft_config(lora: Lora, base: &str) -> Value {
    let modules: Vec<&str> = PROJECTIONS.iter().map(|part| part.rsplit('.').next().unwrap_or(part)).collect();
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": lora.rank,
        "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": modules,
        "fan_in_fan_out": false, "init_lora_weights": true, "inference_mode": true, "use_rslora": false,
    })
}
