//! The layer-by-layer forward and backward pass.
//!
//! A layer is two small graphs with attention between them: (norm, fused projection) and (output projection, residual,
//! feed-forward). The forward pass keeps both graphs of every layer, or only the layer's input when it is to recompute them.
//! The backward pass walks the layers from the end; each leaves its parameter gradients in the parameters' own `grad`.

use sealign_batch::PackedBatch;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::attention::{self, Attended, AttentionPlan, Rotation};
use super::config::ModelConfig;
use super::dim;
use super::weights::{LayerWeights, Weights};

/// What a layer keeps between forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Recompute {
    /// All activations: fastest, most memory.
    #[default]
    Nothing,
    /// Only the layer's input, attention output and its log-sum-exp; the two graphs are built again in the backward pass.
    Layers,
}

/// A model that computes.
#[derive(Debug)]
pub struct Decoder {
    /// Shape and constants.
    pub config: ModelConfig,
    /// Parameters.
    pub weights: Weights,
}

/// The inputs of a packed batch as tensors.
#[derive(Debug)]
pub struct Inputs {
    /// Token ids, `[T]`, int64.
    pub tokens_T: Tensor,
    plan: AttentionPlan,
    rotation: Rotation,
}

/// A forward pass that a backward pass can follow.
#[derive(Debug)]
pub struct Pass {
    inputs: Inputs,
    layers: Vec<LayerPass>,
    /// Hidden states after the last layer, before the final norm, `[T, C]`.
    pub hidden_TC: Tensor,
}

#[derive(Debug)]
struct LayerPass {
    input_TC: Tensor,
    attended: Attended,
    graphs: Option<Graphs>,
}

/// The two graphs of a layer with their leaves.
#[derive(Debug)]
struct Graphs {
    input_leaf: Tensor,
    qkv: Tensor,
    attention_leaf: Tensor,
    output: Tensor,
}

impl Inputs {
    /// Uploads a packed batch.
    pub fn new(config: &ModelConfig, batch: &PackedBatch) -> Self {
        let tokens: Vec<i64> = batch.tokens.iter().map(|token| i64::from(*token)).collect();
        Self {
            tokens_T: Tensor::from_slice(&tokens),
            plan: AttentionPlan::new(&batch.segments),
            rotation: Rotation::new(config, &batch.positions),
        }
    }
}

impl LayerWeights {
    /// Norm and fused projection: `[T, C]` to `[T, (H + 2K) D]`.
    pub fn project(&self, config: &ModelConfig, input_TC: &Tensor) -> Tensor {
        input_TC
            .rms_norm([dim(config.hidden)], Some(&self.input_norm), config.norm_epsilon)
            .linear(&self.qkv, self.qkv_bias.as_ref())
    }

    /// Output projection, residual and feed-forward block; `attention` is `[T, H D]`, the rest `[T, C]`.
    pub fn finish(&self, config: &ModelConfig, input_TC: &Tensor, attention: &Tensor) -> Tensor {
        let middle = input_TC + attention.linear::<&Tensor>(&self.attention_out, None);
        let gate_up = middle
            .rms_norm([dim(config.hidden)], Some(&self.post_norm), config.norm_epsilon)
            .linear::<&Tensor>(&self.gate_up, None);
        let halves = gate_up.chunk(2, 1);
        let [gate, up] = halves.as_slice() else { return middle };
        middle + (gate.silu() * up).linear::<&Tensor>(&self.down, None)
    }

    fn graphs(&self, config: &ModelConfig, input_TC: &Tensor) -> (Tensor, Tensor) {
        let leaf = input_TC.detach().set_requires_grad(true);
        let qkv = self.project(config, &leaf);
        (leaf, qkv)
    }
}

impl Decoder {
    /// A decoder whose parameters can be trained.
    pub fn trainable(config: ModelConfig, weights: Weights) -> Self {
        weights.enable_gradients();
        Self { config, weights }
    }

    /// Hidden states of a packed batch, with what the backward pass needs.
    pub fn forward(&self, inputs: Inputs, recompute: Recompute) -> Pass {
        let mut hidden_TC = tch::no_grad(|| self.weights.embedding.index_select(0, &inputs.tokens_T));
        let mut layers = Vec::with_capacity(self.weights.layers.len());
        for weights in &self.weights.layers {
            let (pass, output) = match recompute {
                Recompute::Nothing => self.layer_with_graphs(weights, &inputs, hidden_TC),
                Recompute::Layers => tch::no_grad(|| {
                    let qkv = weights.project(&self.config, &hidden_TC);
                    let attended = attention::forward(&self.config, &inputs.plan, &inputs.rotation, &qkv);
                    let output = weights.finish(&self.config, &hidden_TC, &attended.out_THD.flatten(1, 2));
                    (LayerPass { input_TC: hidden_TC, attended, graphs: None }, output)
                }),
            };
            layers.push(pass);
            hidden_TC = output;
        }
        Pass { inputs, layers, hidden_TC }
    }

    /// Hidden states without anything for a backward pass, `[T, C]`.
    pub fn infer(&self, inputs: &Inputs) -> Tensor {
        let _guard = tch::no_grad_guard();
        let mut hidden_TC = self.weights.embedding.index_select(0, &inputs.tokens_T);
        for weights in &self.weights.layers {
            let qkv = weights.project(&self.config, &hidden_TC);
            let attended = attention::forward(&self.config, &inputs.plan, &inputs.rotation, &qkv);
            hidden_TC = weights.finish(&self.config, &hidden_TC, &attended.out_THD.flatten(1, 2));
        }
        hidden_TC
    }

    fn layer_with_graphs(
        &self,
        weights: &LayerWeights,
        inputs: &Inputs,
        hidden_TC: Tensor,
    ) -> (LayerPass, Tensor) {
        let (input_leaf, qkv) = weights.graphs(&self.config, &hidden_TC);
        let attended =
            tch::no_grad(|| attention::forward(&self.config, &inputs.plan, &inputs.rotation, &qkv.detach()));
        let attention_leaf = attended.out_THD.flatten(1, 2).set_requires_grad(true);
        let output = weights.finish(&self.config, &input_leaf, &attention_leaf);
        let next = output.detach();
        let graphs = Some(Graphs { input_leaf, qkv, attention_leaf, output });
        (LayerPass { input_TC: hidden_TC, attended, graphs }, next)
    }

    /// Adds the parameter gradients of everything below `hidden_TC`, whose gradient is given, `[T, C]`.
    pub fn backward(&self, pass: Pass, grad_TC: Tensor) {
        let Pass { inputs, layers, hidden_TC: _ } = pass;
        let mut grad_TC = grad_TC;
        for (weights, layer) in self.weights.layers.iter().zip(layers).rev() {
            let LayerPass { input_TC, attended, graphs } = layer;
            let graphs = graphs.unwrap_or_else(|| {
                let (input_leaf, qkv) = weights.graphs(&self.config, &input_TC);
                let attention_leaf = attended.out_THD.flatten(1, 2).set_requires_grad(true);
                let output = weights.finish(&self.config, &input_leaf, &attention_leaf);
                Graphs { input_leaf, qkv, attention_leaf, output }
            });
            backward_with(&graphs.output, &grad_TC);
            let grad_out = graphs.attention_leaf.grad().view_as(&attended.out_THD);
            let grad_qkv = tch::no_grad(|| {
                attention::backward(&self.config, &inputs.plan, &inputs.rotation, &attended, &grad_out)
            });
            backward_with(&graphs.qkv, &grad_qkv);
            // Both graphs start at the same leaf, so this is the sum of the two ways through the layer.
            grad_TC = graphs.input_leaf.grad();
        }
        let _guard = tch::no_grad_guard();
        let _ = self.weights.embedding.grad().index_add_(0, &inputs.tokens_T, &grad_TC);
    }
}

/// Runs the backward pass of `output` with a given gradient. tch has no such call; the inner product with a constant has
/// exactly that gradient.
pub(super) fn backward_with(output: &Tensor, gradient: &Tensor) {
    output.reshape([-1]).dot(&gradient.to_kind(Kind::Float).reshape([-1])).backward();
}
