//! What one optimiser step computes: losses, figures and gradients of a set of examples.

use sealign_batch::order::{StepSize, fill};
use sealign_batch::{Layout, PackedBatch, SequenceInput};

use super::data::Example;
use super::settings::{Stage, StageSettings};
use crate::loss::dpo::{Preference, Side};
use crate::loss::sft::Reduction;
use crate::loss::{sequence_log_probs, sequence_weights, spread};
use crate::model::decoder::Inputs;
use crate::model::{Decoder, Recompute};

/// How a step is computed.
#[derive(Clone, Copy, Debug)]
pub struct Computation {
    /// Whether prefixes are shared.
    pub layout: Layout,
    /// What is kept for the backward pass.
    pub recompute: Recompute,
    /// Tokens before sharing that are computed at once.
    pub microbatch_tokens: usize,
}

/// What a step optimises.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Divisor of trajectory losses.
    pub reduction: Reduction,
    /// Weight of the trajectory loss.
    pub trajectory_weight: f64,
    /// Loss of pairs.
    pub preference: Preference,
}

/// Log-probabilities of chosen and rejected under the reference policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReferencePair {
    /// Of the chosen side.
    pub chosen: f64,
    /// Of the rejected side.
    pub rejected: f64,
}

/// One example of a step, with its reference when it is a pair.
#[derive(Clone, Copy, Debug)]
pub struct StepExample<'data> {
    /// The example.
    pub example: &'data Example,
    /// Reference log-probabilities; pairs only.
    pub reference: Option<ReferencePair>,
}

/// Sums over the examples of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Total loss of the step.
    pub loss: f64,
    /// Weighted negative log-likelihood of trajectories.
    pub trajectory_nll: f64,
    /// Sum of their loss weights.
    pub trajectory_tokens: f64,
    /// Number of trajectories.
    pub trajectories: usize,
    /// Sum of pair losses.
    pub pair_loss: f64,
    /// Number of pairs.
    pub pairs: usize,
    /// Sum of `reward_chosen - reward_rejected`.
    pub margin: f64,
    /// Sum of the rewards of chosen sides.
    pub reward_chosen: f64,
    /// Pairs whose chosen side has the higher reward.
    pub correct: usize,
    /// Rows computed.
    pub rows: usize,
    /// Rows that the linear layout would compute.
    pub linear_rows: usize,
}

impl Computation {
    /// The settings of a stage.
    pub fn of(settings: &StageSettings) -> Self {
        Self {
            layout: settings.layout,
            recompute: settings.recompute,
            microbatch_tokens: settings.microbatch_tokens,
        }
    }
}

impl Objective {
    /// The settings of a stage.
    pub fn of(settings: &StageSettings) -> Self {
        Self {
            reduction: settings.reduction,
            trajectory_weight: match (settings.stage, settings.anchor) {
                (Stage::Dpo, Some(anchor)) => anchor.weight,
                _ => 1.0,
            },
            preference: Preference {
                loss: settings.preference_loss,
                beta: settings.beta,
                label_smoothing: settings.label_smoothing,
                length_normalized: settings.length_normalized,
            },
        }
    }
}

/// Losses of the examples; with `gradients` also adds the gradients of the total loss to the parameters.
pub fn compute(
    model: &Decoder,
    examples: &[StepExample<'_>],
    objective: &Objective,
    computation: &Computation,
    gradients: bool,
) -> Figures {
    let scale = Scale::of(examples, objective);
    let lengths: Vec<usize> = examples.iter().map(|example| example.example.tokens()).collect();
    let order: Vec<usize> = (0..examples.len()).collect();
    let mut figures = Figures::default();
    for group in fill(&order, &lengths, StepSize::Tokens(computation.microbatch_tokens)) {
        let members: Vec<&StepExample<'_>> = group.iter().filter_map(|index| examples.get(*index)).collect();
        let batch = pack(members.iter().map(|member| member.example), computation.layout);
        if batch.targets.is_empty() {
            continue;
        }
        figures.rows += batch.rows();
        figures.linear_rows += batch.linear_rows;
        let inputs = Inputs::new(&model.config, &batch);
        if gradients {
            let pass = model.forward(inputs, computation.recompute);
            let head = model.head_forward(&pass.hidden_TC, &batch.targets, true);
            let derivatives = add_losses(&batch, &head.log_probs, &members, objective, &scale, &mut figures);
            let grad = model.head_backward(&head, &spread(&batch, &derivatives), &pass.hidden_TC);
            model.backward(pass, grad);
        } else {
            let hidden = model.infer(&inputs);
            let head = model.head_forward(&hidden, &batch.targets, false);
            add_losses(&batch, &head.log_probs, &members, objective, &scale, &mut figures);
        }
    }
    figures.loss = figures.trajectory_nll * scale.per_trajectory_weight + figures.pair_loss * scale.per_pair;
    figures
}

/// Log-probability of every sequence of the examples, in order; two per pair.
pub fn log_probs(model: &Decoder, examples: &[&Example], computation: &Computation) -> Vec<f64> {
    let lengths: Vec<usize> = examples.iter().map(|example| example.tokens()).collect();
    let order: Vec<usize> = (0..examples.len()).collect();
    let mut all = Vec::new();
    for group in fill(&order, &lengths, StepSize::Tokens(computation.microbatch_tokens)) {
        let members = group.iter().filter_map(|index| examples.get(*index)).copied();
        let batch = pack(members, computation.layout);
        if batch.targets.is_empty() {
            all.extend(vec![0.0; batch.sequences]);
            continue;
        }
        let hidden = model.infer(&Inputs::new(&model.config, &batch));
        let head = model.head_forward(&hidden, &batch.targets, false);
        all.extend(sequence_log_probs(&batch, &head.log_probs));
    }
    all
}

fn pack<'data>(examples: impl Iterator<Item = &'data Example>, layout: Layout) -> PackedBatch {
    let sequences: Vec<SequenceInput<'_>> = examples
        .flat_map(Example::sequences)
        .map(|encoded| SequenceInput { ids: &encoded.ids, weights: &encoded.weights })
        .collect();
    PackedBatch::pack(&sequences, layout)
}

/// Divisors that are known before anything is computed, so that microbatches can be summed.
struct Scale {
    /// Factor of a trajectory's weighted negative log-likelihood.
    per_trajectory_weight: f64,
    /// Factor of a pair's loss.
    per_pair: f64,
}

impl Scale {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn of(examples: &[StepExample<'_>], objective: &Objective) -> Self {
        let (mut weight, mut trajectories, mut pairs) = (0.0, 0, 0_usize);
        for example in examples {
            match example.example {
                Example::Trajectory(encoded) => {
                    weight += encoded.weights.iter().skip(1).copied().map(f64::from).sum::<f64>();
                    trajectories += 1;
                }
                Example::Pair(_) => pairs += 1,
            }
        }
        Self {
            per_trajectory_weight: objective.trajectory_weight
                / objective.reduction.divisor(weight, trajectories),
            per_pair: 1.0 / pairs.max(1) as f64,
        }
    }
}

/// Adds the losses of one packed batch and returns the derivative of the step's loss by each sequence's log-probability.
fn add_losses(
    batch: &PackedBatch,
    log_probs: &[f32],
    members: &[&StepExample<'_>],
    objective: &Objective,
    scale: &Scale,
    figures: &mut Figures,
) -> Vec<f64> {
    let mut sums = sequence_log_probs(batch, log_probs).into_iter();
    let mut weights = sequence_weights(batch).into_iter();
    let mut next = || Some((sums.next()?, weights.next()?));
    let mut derivatives = Vec::with_capacity(batch.sequences);
    for member in members {
        match member.example {
            Example::Trajectory(_) => {
                let Some((log_prob, weight)) = next() else { continue };
                figures.trajectory_nll -= log_prob;
                figures.trajectory_tokens += weight;
                figures.trajectories += 1;
                derivatives.push(-scale.per_trajectory_weight);
            }
            Example::Pair(_) => {
                let (Some((chosen, chosen_tokens)), Some((rejected, rejected_tokens))) = (next(), next())
                else {
                    continue;
                };
                let reference = member.reference.unwrap_or(ReferencePair { chosen: 0.0, rejected: 0.0 });
                let pair = objective.preference.pair(
                    Side { policy: chosen, reference: reference.chosen, tokens: chosen_tokens },
                    Side { policy: rejected, reference: reference.rejected, tokens: rejected_tokens },
                );
                figures.pair_loss += pair.loss;
                figures.pairs += 1;
                figures.margin += pair.reward_chosen - pair.reward_rejected;
                figures.reward_chosen += pair.reward_chosen;
                figures.correct += usize::from(pair.reward_chosen > pair.reward_rejected);
                derivatives.extend([pair.by_chosen * scale.per_pair, pair.by_rejected * scale.per_pair]);
            }
        }
    }
    derivatives
}
