//! Computes on given token ids, so that another program can check the numbers (see `tests/parity`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sealign_batch::{Encoded, EncodedPair, Layout, PackedBatch, SequenceInput};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::loss::dpo::{Preference, PreferenceLoss};
use crate::loss::sft::Reduction;
use crate::model::decoder::Inputs;
use crate::model::tensors::{self, SaveType};
use crate::model::{Decoder, Recompute, directory};
use crate::optim::{AdamW, AdamWSettings, Schedule, ScheduleKind};
use crate::train::data::Example;
use crate::train::step::{Computation, Figures, Objective, ReferencePair, StepExample, compute, log_probs};

/// What to compute.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    model: PathBuf,
    /// Reference policy of the pairs; the model itself when absent.
    reference: Option<PathBuf>,
    layout: Layout,
    recompute: Recompute,
    /// Tokens before sharing that are computed at once.
    microbatch_tokens: usize,
    examples: Vec<Row>,
    #[serde(default = "tenth")]
    beta: f64,
    /// Write the logits of every sequence of the examples.
    #[serde(default)]
    logits: bool,
    /// Train: example indices of each step.
    #[serde(default)]
    steps: Vec<Vec<usize>>,
    #[serde(default)]
    learning_rate: f64,
    #[serde(default)]
    max_gradient_norm: f64,
    /// Which function of the margin.
    #[serde(default)]
    preference_loss: PreferenceLoss,
    #[serde(default)]
    label_smoothing: f64,
    #[serde(default)]
    length_normalized: bool,
    /// Weight of the loss of trajectories beside pairs.
    #[serde(default = "one")]
    trajectory_weight: f64,
    /// Write the gradients of all examples as one step.
    #[serde(default = "yes")]
    gradients: bool,
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn tenth() -> f64 {
    0.1
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Row {
    Pair { chosen: Sequence, rejected: Sequence },
    Trajectory(Sequence),
}

#[derive(Debug, Deserialize)]
struct Sequence {
    ids: Vec<u32>,
    weights: Vec<f32>,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Loss of all examples as one step, before training.
    loss: f64,
    /// Log-probability of every sequence before training.
    log_probs: Vec<f64>,
    /// The same under the reference.
    reference_log_probs: Vec<f64>,
    /// Loss of each training step.
    losses: Vec<f64>,
    /// Gradient norm of each training step.
    gradient_norms: Vec<f64>,
    /// Rows computed for the one step, and rows of its linear layout.
    rows: [usize; 2],
    /// CPU seconds of each training step.
    step_cpu_seconds: Vec<f64>,
    /// Largest resident memory of the process.
    peak_rss_bytes: u64,
}

impl From<Sequence> for Encoded {
    fn from(sequence: Sequence) -> Self {
        Self { ids: sequence.ids, weights: sequence.weights, turn_ends: Vec::new() }
    }
}

impl Request {
    fn objective(&self) -> Objective {
        Objective {
            reduction: Reduction::TokenMean,
            trajectory_weight: self.trajectory_weight,
            preference: Preference {
                loss: self.preference_loss,
                beta: self.beta,
                label_smoothing: self.label_smoothing,
                length_normalized: self.length_normalized,
            },
        }
    }
}

fn load(folder: &Path) -> anyhow::Result<Decoder> {
    let config = directory::read_config(folder)?;
    let weights = directory::read_weights(folder, &config)?;
    Ok(Decoder::trainable(config, weights))
}

/// Reads a request and writes `answer.json`, `gradients.safetensors` and, if asked for, `logits.safetensors`.
pub fn run(request: &Path, out: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(request).with_context(|| format!("{} cannot be read", request.display()))?;
    let request: Request = serde_json::from_slice(&text).context("the request cannot be read")?;
    std::fs::create_dir_all(out)?;
    let model = load(&request.model)?;
    let objective = request.objective();
    let computation = Computation {
        layout: request.layout,
        recompute: request.recompute,
        microbatch_tokens: request.microbatch_tokens,
    };
    let examples: Vec<Example> = request
        .examples
        .into_iter()
        .map(|row| match row {
            Row::Trajectory(sequence) => Example::Trajectory(sequence.into()),
            Row::Pair { chosen, rejected } => {
                Example::Pair(EncodedPair { chosen: chosen.into(), rejected: rejected.into() })
            }
        })
        .collect();
    let all: Vec<&Example> = examples.iter().collect();
    let mut answer = Answer { log_probs: log_probs(&model, &all, &computation), ..Answer::default() };
    answer.reference_log_probs = match &request.reference {
        Some(folder) => log_probs(&load(folder)?, &all, &computation),
        None => answer.log_probs.clone(),
    };
    if request.logits {
        tensors::write(&out.join("logits.safetensors"), &logits(&model, &all), SaveType::F32)?;
    }
    let references = pair_references(&all, &answer.reference_log_probs);
    let step = |indices: &[usize]| -> Vec<StepExample<'_>> {
        indices
            .iter()
            .filter_map(|index| {
                Some(StepExample {
                    example: examples.get(*index)?,
                    reference: references.get(*index).copied()?,
                })
            })
            .collect()
    };
    if request.gradients {
        let everything: Vec<usize> = (0..examples.len()).collect();
        let figures = compute(&model, &step(&everything), &objective, &computation, true);
        answer.loss = figures.loss;
        answer.rows = [figures.rows, figures.linear_rows];
        let gradients: BTreeMap<String, Tensor> = model.weights.gradients_to_hub(&model.config);
        tensors::write(&out.join("gradients.safetensors"), &gradients, SaveType::F32)?;
    }

    let curve =
        Curve { steps: &request.steps, rate: request.learning_rate, max_norm: request.max_gradient_norm };
    curve.train(
        &model,
        step,
        |examples| compute(&model, examples, &objective, &computation, true),
        &mut answer,
    );
    answer.peak_rss_bytes = crate::process::peak_rss_bytes();
    std::fs::write(out.join("answer.json"), serde_json::to_vec_pretty(&answer)?)?;
    Ok(())
}

/// A short training run without warm-up, with the rate falling to 0 in a straight line.
struct Curve<'request> {
    /// Example indices of each step.
    steps: &'request [Vec<usize>],
    rate: f64,
    max_norm: f64,
}

impl Curve<'_> {
    fn train<'data>(
        &self,
        model: &Decoder,
        step: impl Fn(&[usize]) -> Vec<StepExample<'data>>,
        compute: impl Fn(&[StepExample<'data>]) -> Figures,
        answer: &mut Answer,
    ) {
        let mut optimizer = AdamW::new(
            AdamWSettings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 },
            &model.weights,
        );
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            peak: self.rate,
            floor_share: 0.0,
            warmup_steps: 0,
            total_steps: self.steps.len(),
        };
        for (index, indices) in self.steps.iter().enumerate() {
            let started = cpu_seconds();
            model.weights.zero_gradients();
            let figures = compute(&step(indices));
            answer.losses.push(figures.loss);
            answer.gradient_norms.push(optimizer.step(&model.weights, schedule.rate(index), self.max_norm));
            answer.step_cpu_seconds.push(cpu_seconds() - started);
        }
    }
}

/// Reference of each example; `None` for trajectories.
fn pair_references(examples: &[&Example], sums: &[f64]) -> Vec<Option<ReferencePair>> {
    let mut sums = sums.iter().copied();
    examples
        .iter()
        .map(|example| match example {
            Example::Trajectory(_) => {
                sums.next();
                None
            }
            Example::Pair(_) => Some(ReferencePair { chosen: sums.next()?, rejected: sums.next()? }),
        })
        .collect()
}

/// Logits of every sequence, `[tokens - 1, V]` each, named by its place.
fn logits(model: &Decoder, examples: &[&Example]) -> BTreeMap<String, Tensor> {
    let _guard = tch::no_grad_guard();
    let mut named = BTreeMap::new();
    for (index, sequence) in examples.iter().flat_map(|example| example.sequences()).enumerate() {
        let weights = vec![1.0; sequence.ids.len()];
        let batch =
            PackedBatch::pack(&[SequenceInput { ids: &sequence.ids, weights: &weights }], Layout::Linear);
        let hidden = model.infer(&Inputs::new(&model.config, &batch));
        named.insert(format!("{index:04}"), model.logits(&hidden));
    }
    named
}

/// User and system CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name may contain spaces, so fields are counted from behind its bracket; 14 and 15 are in ticks of 10 ms.
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: u32 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    f64::from(ticks) / 100.0
}
