//! The layer-by-layer forward and backward pass.
//!
//! A layer is two small graphs with attention between them: (norm, fused projection) and (output projection, residual,
//! feed-forward). The forward pass keeps both graphs of every layer, or only the layer's input when it is to recompute them.
//! The backward pass walks the layers from the end; each leaves its parameter gradients in the parameters' own `grad`.

use std::convert::Infallible;

use sealign_batch::PackedBatch;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::adapter::LayerAdapter;
use super::attention::{self, Attended, AttentionPlan};
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
    /// Only the layer's input, attention output and its log-sum-exp; the two graphs are built again in the backward pass,
    /// the wider one for [`ROWS_AT_ONCE`] rows at a time.
    Layers,
}

/// Rows for which the part of a layer behind attention exists at once while layers are recomputed. It is several times as wide
/// as the rest, and no row of it depends on another; with this many, matrix products are as fast as with more.
pub const ROWS_AT_ONCE: usize = 4096;

/// Where the parameters are while they are not computed with.
///
/// The passes announce each layer before they touch it. Root is everything outside of the layers; whoever runs a pass
/// enters it first and leaves it last.
pub trait Residence {
    /// Why parameters cannot be brought.
    type Error;

    /// Makes a layer's parameters usable; with `gradients` also the places where their gradients are added.
    fn enter(&self, layer: usize, gradients: bool) -> Result<(), Self::Error>;

    /// The layer is done with.
    fn leave(&self, layer: usize) -> Result<(), Self::Error>;

    /// Makes the parameters outside of the layers usable.
    fn enter_root(&self, gradients: bool) -> Result<(), Self::Error>;

    /// They are done with.
    fn leave_root(&self) -> Result<(), Self::Error>;

    /// Does what others need of this process while it has nothing to compute itself.
    fn idle(&self, gradients: bool) -> Result<(), Self::Error>;
}

/// All parameters stay in memory.
#[derive(Clone, Copy, Debug)]
pub struct Resident;

impl Residence for Resident {
    type Error = Infallible;

    fn enter(&self, _layer: usize, _gradients: bool) -> Result<(), Infallible> {
        Ok(())
    }

    fn leave(&self, _layer: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn enter_root(&self, _gradients: bool) -> Result<(), Infallible> {
        Ok(())
    }

    fn leave_root(&self) -> Result<(), Infallible> {
        Ok(())
    }

    fn idle(&self, _gradients: bool) -> Result<(), Infallible> {
        Ok(())
    }
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
    /// A packed batch on the CPU.
    pub fn new(config: &ModelConfig, batch: &PackedBatch) -> Self {
        Self::on(Device::Cpu, config, batch)
    }

    /// Uploads a packed batch to where the parameters are.
    pub fn on(device: Device, config: &ModelConfig, batch: &PackedBatch) -> Self {
        let tokens: Vec<i64> = batch.tokens.iter().map(|token| i64::from(*token)).collect();
        Self {
            tokens_T: Tensor::from_slice(&tokens).to_device(device),
            plan: AttentionPlan::new(config, &batch.segments, &batch.positions, device),
        }
    }
}

impl LayerWeights {
    /// Norm and fused projection: `[T, C]` to `[T, (H + 2K) D]`.
    pub fn project(&self, config: &ModelConfig, input_TC: &Tensor) -> Tensor {
        let normed = input_TC.rms_norm([dim(config.hidden)], Some(&self.input_norm), config.norm_epsilon);
        let qkv = normed.linear(&self.qkv, self.qkv_bias.as_ref());
        self.updated(qkv, |adapter| adapter.qkv(&normed))
    }

    /// Output projection, residual and feed-forward block; `attention` is `[T, H D]`, the rest `[T, C]`.
    pub fn finish(&self, config: &ModelConfig, input_TC: &Tensor, attention: &Tensor) -> Tensor {
        let out = attention.linear::<&Tensor>(&self.attention_out, None);
        let middle = input_TC + self.updated(out, |adapter| adapter.attention_out(attention));
        let normed = middle.rms_norm([dim(config.hidden)], Some(&self.post_norm), config.norm_epsilon);
        let gate_up = normed.linear::<&Tensor>(&self.gate_up, None);
        let halves = self.updated(gate_up, |adapter| adapter.gate_up(&normed)).chunk(2, 1);
        let [gate, up] = halves.as_slice() else { return middle };
        let inner = gate.silu() * up;
        let down = inner.linear::<&Tensor>(&self.down, None);
        middle + self.updated(down, |adapter| adapter.down(&inner))
    }

    /// As [`LayerWeights::finish`] without gradients, some rows at a time; `attention` is `[T, H, D]`.
    fn finish_by_rows(&self, config: &ModelConfig, input_TC: &Tensor, attention: &Tensor) -> Tensor {
        let parts: Vec<Tensor> = row_runs(input_TC)
            .map(|(start, len)| {
                let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
                self.finish(config, &rows(input_TC), &rows(attention).flatten(1, 2))
            })
            .collect();
        match parts.as_slice() {
            [whole] => whole.shallow_clone(),
            parts => Tensor::cat(parts, 0),
        }
    }

    /// A projection's output with the adapter's update, if there is one.
    fn updated(&self, output: Tensor, update: impl FnOnce(&LayerAdapter) -> Tensor) -> Tensor {
        match &self.adapter {
            Some(adapter) => output + update(adapter),
            None => output,
        }
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

    /// Where the parameters are computed with.
    pub fn device(&self) -> Device {
        self.weights.embedding.device()
    }

    /// Hidden states of a packed batch, with what the backward pass needs.
    pub fn forward(&self, inputs: Inputs, recompute: Recompute) -> Pass {
        let Ok(pass) = self.forward_in(&Resident, inputs, recompute);
        pass
    }

    /// As [`Decoder::forward`], with parameters that come and go; these need [`Recompute::Layers`].
    pub fn forward_in<R: Residence>(
        &self,
        residence: &R,
        inputs: Inputs,
        recompute: Recompute,
    ) -> Result<Pass, R::Error> {
        let mut hidden_TC = tch::no_grad(|| self.weights.embedding.index_select(0, &inputs.tokens_T));
        let mut layers = Vec::with_capacity(self.weights.layers.len());
        for (index, weights) in self.weights.layers.iter().enumerate() {
            residence.enter(index, false)?;
            let (pass, output) = match recompute {
                Recompute::Nothing => self.layer_with_graphs(weights, &inputs, hidden_TC),
                Recompute::Layers => tch::no_grad(|| {
                    let qkv = weights.project(&self.config, &hidden_TC);
                    let attended = attention::forward(&self.config, &inputs.plan, &qkv).without_heads();
                    drop(qkv);
                    let output = weights.finish_by_rows(&self.config, &hidden_TC, &attended.out_THD);
                    (LayerPass { input_TC: hidden_TC, attended, graphs: None }, output)
                }),
            };
            residence.leave(index)?;
            layers.push(pass);
            hidden_TC = output;
        }
        Ok(Pass { inputs, layers, hidden_TC })
    }

    /// Hidden states without anything for a backward pass, `[T, C]`.
    pub fn infer(&self, inputs: &Inputs) -> Tensor {
        let Ok(hidden_TC) = self.infer_in(&Resident, inputs);
        hidden_TC
    }

    /// As [`Decoder::infer`], with parameters that come and go.
    pub fn infer_in<R: Residence>(&self, residence: &R, inputs: &Inputs) -> Result<Tensor, R::Error> {
        let _guard = tch::no_grad_guard();
        let mut hidden_TC = self.weights.embedding.index_select(0, &inputs.tokens_T);
        for (index, weights) in self.weights.layers.iter().enumerate() {
            residence.enter(index, false)?;
            let qkv = weights.project(&self.config, &hidden_TC);
            let out_THD = attention::forward(&self.config, &inputs.plan, &qkv).out_THD;
            drop(qkv);
            hidden_TC = weights.finish_by_rows(&self.config, &hidden_TC, &out_THD);
            residence.leave(index)?;
        }
        Ok(hidden_TC)
    }

    fn layer_with_graphs(
        &self,
        weights: &LayerWeights,
        inputs: &Inputs,
        hidden_TC: Tensor,
    ) -> (LayerPass, Tensor) {
        let (input_leaf, qkv) = weights.graphs(&self.config, &hidden_TC);
        let attended = tch::no_grad(|| attention::forward(&self.config, &inputs.plan, &qkv.detach()));
        let attention_leaf = attended.out_THD.flatten(1, 2).set_requires_grad(true);
        let output = weights.finish(&self.config, &input_leaf, &attention_leaf);
        let next = output.detach();
        let graphs = Some(Graphs { input_leaf, qkv, attention_leaf, output });
        (LayerPass { input_TC: hidden_TC, attended, graphs }, next)
    }

    /// Backward through the kept graphs of a layer; returns the gradient of its input.
    fn backward_through(
        &self,
        plan: &AttentionPlan,
        graphs: Graphs,
        attended: Attended,
        grad_TC: &Tensor,
    ) -> Tensor {
        let Graphs { input_leaf, qkv, attention_leaf, output } = graphs;
        backward_with(&output, grad_TC);
        let grad_out = attention_leaf.grad().view_as(&attended.out_THD);
        let grad_qkv =
            tch::no_grad(|| attention::backward(&self.config, plan, &qkv.detach(), attended, &grad_out));
        backward_with(&qkv, &grad_qkv);
        // Both graphs start at the same leaf, so this is the sum of the two ways through the layer.
        input_leaf.grad()
    }

    /// As [`Decoder::backward_through`], with the graphs built again.
    fn backward_again(
        &self,
        weights: &LayerWeights,
        plan: &AttentionPlan,
        layer: LayerPass,
        grad_TC: &Tensor,
    ) -> Tensor {
        let LayerPass { input_TC, attended, graphs: _ } = layer;
        let (mut grad_input, grad_out) = (input_TC.empty_like(), attended.out_THD.empty_like());
        for (start, len) in row_runs(&input_TC) {
            let leaf = |tensor: &Tensor| tensor.narrow(0, start, len).detach().set_requires_grad(true);
            let (input_leaf, attention_leaf) = (leaf(&input_TC), leaf(&attended.out_THD));
            let output = weights.finish(&self.config, &input_leaf, &attention_leaf.flatten(1, 2));
            backward_with(&output, &grad_TC.narrow(0, start, len));
            grad_input.narrow(0, start, len).copy_(&input_leaf.grad());
            grad_out.narrow(0, start, len).copy_(&attention_leaf.grad());
        }
        let (input_leaf, qkv) = weights.graphs(&self.config, &input_TC);
        let grad_qkv =
            tch::no_grad(|| attention::backward(&self.config, plan, &qkv.detach(), attended, &grad_out));
        drop(grad_out);
        backward_with(&qkv, &grad_qkv);
        // The two ways through the layer.
        grad_input.g_add_(&input_leaf.grad())
    }

    /// Adds the parameter gradients of everything below `hidden_TC`, whose gradient is given, `[T, C]`.
    pub fn backward(&self, pass: Pass, grad_TC: Tensor) {
        let Ok(()) = self.backward_in(&Resident, pass, grad_TC);
    }

    /// As [`Decoder::backward`], with parameters that come and go.
    pub fn backward_in<R: Residence>(
        &self,
        residence: &R,
        pass: Pass,
        grad_TC: Tensor,
    ) -> Result<(), R::Error> {
        let Pass { inputs, layers, hidden_TC: _ } = pass;
        let mut grad_TC = grad_TC;
        for (index, (weights, layer)) in self.weights.layers.iter().zip(layers).enumerate().rev() {
            residence.enter(index, true)?;
            grad_TC = match layer.graphs {
                Some(graphs) => self.backward_through(&inputs.plan, graphs, layer.attended, &grad_TC),
                None => self.backward_again(weights, &inputs.plan, layer, &grad_TC),
            };
            residence.leave(index)?;
        }
        let _guard = tch::no_grad_guard();
        let embedding = &self.weights.embedding;
        if embedding.requires_grad() {
            add_rows(&embedding.grad(), &inputs.tokens_T, &grad_TC);
        }
        Ok(())
    }
}

/// The rows of a tensor in runs of at most [`ROWS_AT_ONCE`]: first row and number.
fn row_runs(tensor: &Tensor) -> impl Iterator<Item = (i64, i64)> + use<> {
    let (rows, run) = (tensor.size().first().copied().unwrap_or(0), dim(ROWS_AT_ONCE));
    (0..)
        .map(move |index| index * run)
        .take_while(move |start| *start < rows)
        .map(move |start| (start, run.min(rows - start)))
}

/// Adds rows to the gradient of the embedding. A frequent token has thousands of rows, which half precision cannot add up one by
/// one, so they are summed in float32 first.
fn add_rows(gradient: &Tensor, tokens_T: &Tensor, rows_TC: &Tensor) {
    if gradient.kind() == Kind::Float {
        let _ = gradient.shallow_clone().index_add_(0, tokens_T, rows_TC);
        return;
    }
    let sum = Tensor::zeros(gradient.size(), (Kind::Float, gradient.device()));
    let _ = gradient.shallow_clone().g_add_(&sum.index_add(0, tokens_T, &rows_TC.to_kind(Kind::Float)));
}

/// Runs the backward pass of `output` with a given gradient. tch has no such call; the inner product with a constant has
/// exactly that gradient.
pub(super) fn backward_with(output: &Tensor, gradient: &Tensor) {
    output.reshape([-1]).dot(&gradient.to_kind(output.kind()).reshape([-1])).backward();
}
