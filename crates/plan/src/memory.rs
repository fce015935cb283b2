//! What a training step needs in memory, by arithmetic: what each process holds, and what is there for it.
//!
//! The trainer computes on CPUs in float32; for GPUs the figures are those of bfloat16 weights, gradients and activations with
//! float32 master weights and moments. Everything is an upper bound for steps whose every row carries loss. What it does not
//! know: what an allocator loses between blocks, and how much of a data set's prefixes is shared. Start with [`estimate`].

pub mod shape;

use sealign_crds::alignment_run::{Layout, Optimization, Precision, Recompute, Sharding, TrainerSpec};

pub use shape::{Shape, ShapeError};

/// Tokens before sharing that the trainer computes at once.
pub const MICROBATCH_TOKENS: u64 = 32_768;
/// Rows for which the part of a layer behind attention exists at once while layers are recomputed.
pub const ROWS_AT_ONCE: u64 = 4_096;
/// Logits that exist at once, in numbers.
pub const LOGITS: u64 = 16 * 1024 * 1024;
/// Copies of them: logits, their softmax, and its product with the loss.
const LOGITS_COPIES: u64 = 3;
/// The program and libtorch on a CPU, in bytes; measured 0.3 to 0.4 GB.
const PROGRAM_BYTES: u64 = 400_000_000;
/// A CUDA context with its libraries, in bytes; what is usually reported, not measured by us.
const CONTEXT_BYTES: u64 = 1_000_000_000;
/// Bytes of a float32.
const FLOAT: u64 = 4;
/// Both moments of AdamW, in bytes a parameter.
const MOMENTS: u64 = 8;

/// What an example of a step is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// A trajectory.
    Trajectory,
    /// Two continuations of one prefix; the rejected side adds a turn to the rows of the chosen one, which is left out here.
    CriticalPair,
    /// Two whole trajectories of one task, which share little.
    WholePair,
}

/// What one process of a step holds at its fullest, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Processes of the step.
    pub processes: u64,
    /// Rows that are computed at once.
    pub rows: u64,
    /// Parameters that are trained: all, or the adapter's.
    pub trained: u64,
    /// Weights, or this process's part of them.
    pub weights: u64,
    /// Gradients, likewise.
    pub gradients: u64,
    /// Moments, and on GPUs master weights, likewise.
    pub optimizer: u64,
    /// Weights and gradients of what is gathered for computing: a layer, and all that is outside of the layers.
    pub gathered: u64,
    /// Activations of all layers that are kept for the backward pass.
    pub kept: u64,
    /// What computing one layer needs beside that.
    pub working: u64,
    /// The output head: hidden states of the rows with loss, and the logits of some of them.
    pub head: u64,
    /// The program itself.
    pub program: u64,
    /// Memory of a node's host while models are read and written; 0 where [`Estimate::total`] has it already.
    pub host: u64,
}

impl Estimate {
    /// All that a process holds.
    pub fn total(&self) -> u64 {
        let Self { weights, gradients, optimizer, gathered, kept, working, head, program, .. } = self;
        weights + gradients + optimizer + gathered + kept + working + head + program
    }
}

/// Rows that a stage computes at once at most: a microbatch, or what there is of a step, but at least one example.
pub fn rows(trainer: &TrainerSpec, optimization: &Optimization, example: Example, anchors: u64) -> u64 {
    let context = count(optimization.context_tokens);
    let sides = if example == Example::Trajectory { 1 } else { 2 };
    // A critical pair's prefix is one run of rows where prefixes are shared.
    let shares = example == Example::CriticalPair && trainer.layout == Layout::TreePacked;
    let longest = if shares { context } else { sides * context };
    let own = match optimization.tokens_per_step {
        Some(tokens) => u64::try_from(tokens).unwrap_or(0),
        None => count(optimization.batch_size) * longest,
    };
    MICROBATCH_TOKENS.min(own + anchors * context).max(longest)
}

/// What each process of a step needs that trains a model of `shape`, `rows` rows at once, as `trainer` says.
pub fn estimate(shape: &Shape, trainer: &TrainerSpec, rows: u64) -> Estimate {
    let on_gpu = trainer.gpus_per_node > 0;
    let local = count(trainer.gpus_per_node).max(1);
    let processes = count(trainer.nodes).max(1) * local;
    let is_half = match trainer.precision {
        Precision::Auto => on_gpu,
        Precision::Float32 => false,
        Precision::Bfloat16 => true,
    };
    // Bytes of a number that is computed with.
    let width = if is_half { 2 } else { FLOAT };
    let parameters = shape.parameters();
    // What is computed with is gathered from the processes' parts, or is another copy than what the optimiser updates.
    let is_gathered = trainer.lora.is_none()
        && (is_half || on_gpu || (trainer.sharding == Sharding::Everything && processes > 1));
    let recomputes = is_gathered || trainer.recompute == Recompute::Layers;
    let parts = if is_gathered { processes } else { 1 };
    let divided = |bytes: u64| bytes.div_ceil(parts);
    let (learnt, weights, gradients, optimizer) = if let Some(lora) = &trainer.lora {
        let adapter = shape.adapter_parameters(count(lora.rank));
        (adapter, width * parameters + FLOAT * adapter, FLOAT * adapter, MOMENTS * adapter)
    } else {
        let floats = divided(FLOAT * parameters);
        (parameters, floats, floats, divided(MOMENTS * parameters))
    };
    let gathered =
        if is_gathered { 2 * width * (shape.outer_parameters() + shape.layer_parameters()) } else { 0 };
    let (kept, working) = activations(shape, rows, width, recomputes);
    let estimate = Estimate {
        processes,
        rows,
        trained: learnt,
        weights,
        gradients,
        optimizer,
        gathered,
        kept,
        working,
        // Selected and normed hidden states, their gradient, and the gradient of all rows.
        head: 4 * rows * shape.hidden * width + LOGITS_COPIES * LOGITS * FLOAT,
        program: if on_gpu { CONTEXT_BYTES } else { PROGRAM_BYTES },
        host: 0,
    };
    Estimate { host: host(&estimate, parameters, local, on_gpu || parts > 1), ..estimate }
}

/// Bytes of the activations of all layers that are kept, and of what one layer's passes need beside them.
fn activations(shape: &Shape, rows: u64, width: u64, recomputes: bool) -> (u64, u64) {
    let (hidden, inner) = (shape.hidden, shape.feed_forward);
    let (queries, fused) = (shape.heads * shape.head_dim, shape.fused_rows());
    // Norms, middle and output; the feed-forward block's fused projection, its activation and product.
    let behind = 3 * hidden + 4 * inner;
    let behind_gradients = 2 * hidden + 4 * inner;
    let log_sums = shape.layers * rows * shape.heads * FLOAT;
    if recomputes {
        let kept = shape.layers * rows * (hidden + queries) * width + log_sums;
        // Rotated heads with their gradients, the fused projection with its own and a copy, and the ways through the layer.
        // What parts of attention are merged in stays float32: the output or the three gradients, and one of them cast.
        let merged = 4 * queries * (FLOAT - width);
        let whole = rows * ((7 * queries + 3 * fused + 4 * hidden) * width + merged);
        return (kept, whole + rows.min(ROWS_AT_ONCE) * (behind + behind_gradients) * width);
    }
    let layer = hidden + fused + 4 * queries + behind;
    let kept = shape.layers * rows * layer * width + log_sums;
    (kept, rows * behind_gradients.max(4 * queries + 2 * fused + 2 * hidden) * width)
}

/// Memory of a node's host while every process reads the whole model, and rank 0 writes it with its moments.
fn host(estimate: &Estimate, parameters: u64, local: u64, is_apart: bool) -> u64 {
    if !is_apart {
        return 0;
    }
    let reading = local * FLOAT * parameters;
    let writing = FLOAT * parameters + MOMENTS * estimate.trained;
    reading.max(writing)
}

fn count(number: i32) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trainer(fields: serde_json::Value) -> TrainerSpec {
        serde_json::from_value(fields).unwrap()
    }

    /// Tenths of a GB.
    fn tenths(bytes: u64) -> u64 {
        (bytes + 50_000_000) / 100_000_000
    }

    #[test]
    fn fourteen_billion_parameters_fit_eight_gpus_of_80_gb_and_not_four() {
        let shape = Shape::known("Qwen2.5-Coder-14B-Instruct").unwrap();
        let divided = trainer(json!({ "gpusPerNode": 8, "sharding": "Everything" }));
        let estimate = estimate(&shape, &divided, 32_768);
        // 16 bytes a parameter over 8, 4 (U + L), 48 x 32,768 x (5,120 + 5,120) x 2.
        assert_eq!(tenths(estimate.weights + estimate.gradients + estimate.optimizer), 295);
        assert_eq!(tenths(estimate.gathered), 73);
        assert_eq!(tenths(estimate.kept), 325);
        assert_eq!(tenths(estimate.total()), 794);
        let fewer = super::estimate(&shape, &trainer(json!({ "gpusPerNode": 4 })), 32_768);
        assert!(fewer.total() > 100_000_000_000);
    }

    #[test]
    fn an_adapter_leaves_the_frozen_weights_and_little_else() {
        let shape = Shape::known("Qwen2.5-14B").unwrap();
        let lora =
            trainer(json!({ "gpusPerNode": 1, "recompute": "Layers", "lora": { "rank": 16, "alpha": 32 } }));
        let estimate = estimate(&shape, &lora, 4_096);
        assert_eq!(estimate.trained, 68_812_800);
        assert_eq!(tenths(estimate.weights), 298);
        assert_eq!(tenths(estimate.gradients + estimate.optimizer), 8);
    }

    #[test]
    fn a_cpu_holds_everything_in_float32() {
        let shape = Shape::known("SmolLM2-135M").unwrap();
        let estimate = estimate(&shape, &TrainerSpec::default(), 2_048);
        let bytes = estimate.weights + estimate.gradients + estimate.optimizer;
        assert_eq!(bytes, 16 * 134_515_008);
        assert_eq!((estimate.processes, estimate.gathered, estimate.host), (1, 0, 0));
    }

    #[test]
    fn recomputing_keeps_less_and_dividing_recomputes() {
        let shape = Shape::known("Qwen2.5-7B").unwrap();
        let of = |fields| estimate(&shape, &trainer(fields), 8_192);
        let all = of(json!({ "nodes": 2 }));
        let layers = of(json!({ "nodes": 2, "recompute": "Layers" }));
        let divided = of(json!({ "nodes": 2, "sharding": "Everything" }));
        assert!(layers.kept * 8 < all.kept, "{layers:?} {all:?}");
        assert_eq!((divided.kept, divided.weights * 2), (layers.kept, layers.weights));
        assert_eq!(of(json!({ "sharding": "Everything" })).gathered, 0, "one process has nothing to divide");
    }

    #[test]
    fn half_precision_halves_what_is_kept_and_not_what_is_trained() {
        let shape = Shape::known("Qwen2.5-7B").unwrap();
        let of = |fields| estimate(&shape, &trainer(fields), 8_192);
        let exact = of(json!({ "recompute": "Layers" }));
        let half = of(json!({ "precision": "Bfloat16" }));
        assert_eq!(
            (half.weights, half.gradients, half.optimizer),
            (exact.weights, exact.gradients, exact.optimizer)
        );
        assert!(half.kept * 9 < exact.kept * 5, "{half:?} {exact:?}");
        assert_eq!(half.gathered, 4 * (shape.outer_parameters() + shape.layer_parameters()));
    }

    #[test]
    fn a_step_computes_a_microbatch_at_once_but_no_less_than_an_example() {
        let optimization = |fields| serde_json::from_value::<Optimization>(fields).unwrap();
        let tree = TrainerSpec::default();
        let small = optimization(json!({ "tokensPerStep": 3000, "contextTokens": 1024 }));
        assert_eq!(rows(&tree, &small, Example::Trajectory, 0), 3_000);
        assert_eq!(rows(&tree, &small, Example::CriticalPair, 8), 3_000 + 8 * 1_024);
        let long = optimization(json!({ "contextTokens": 65_536 }));
        assert_eq!(rows(&tree, &long, Example::Trajectory, 0), 65_536);
        assert_eq!(rows(&tree, &long, Example::CriticalPair, 0), 65_536);
        assert_eq!(rows(&tree, &long, Example::WholePair, 0), 131_072);
        let linear = trainer(json!({ "layout": "Linear" }));
        assert_eq!(rows(&linear, &long, Example::CriticalPair, 0), 131_072);
        let many = optimization(json!({ "contextTokens": 4096, "batchSize": 64 }));
        assert_eq!(rows(&tree, &many, Example::Trajectory, 0), MICROBATCH_TOKENS);
    }
}
