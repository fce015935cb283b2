//! What one optimiser step computes: losses, figures and gradients of a set of examples.

use sealign_batch::order::{StepSize, fill};
use sealign_batch::{Layout, PackedBatch, SequenceInput};

use super::data::Example;
use super::settings::{Stage, StageSettings};
use crate::dist::{CollectiveError, Group, Shards};
use crate::loss::dpo::{Preference, Side};
use crate::loss::sft::Reduction;
use crate::loss::{sequence_log_probs, sequence_weights, spread};
use crate::model::decoder::{Inputs, Residence, Resident};
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

/// What is done with the examples of a step.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'run> {
    /// What is optimised.
    pub objective: &'run Objective,
    /// How it is computed.
    pub computation: &'run Computation,
    /// Whether gradients are added, or only losses computed.
    pub gradients: bool,
}

/// The processes that compute a step together, and where the parameters are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'run> {
    /// All processes of the run.
    pub group: &'run Group,
    /// The parameters in parts; `None` when every process holds them whole.
    pub shards: Option<&'run Shards<'run>>,
}

impl Place<'_> {
    /// One process that holds the parameters whole.
    fn is_alone(&self) -> bool {
        self.group.size() == 1 && self.shards.is_none()
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
    let pass = StepPass { model, objective, computation, scale: Scale::of(examples, objective), gradients };
    let order: Vec<usize> = (0..examples.len()).collect();
    let groups = fill(&order, &lengths(examples), StepSize::Tokens(computation.microbatch_tokens));
    let count = groups.len();
    let Ok(figures) = pass.accumulate(examples, groups, count, &Resident);
    figures.total(&pass.scale)
}

/// As [`compute`], with the examples divided among the processes of a group. Every process gets the sums; the gradients are
/// summed too, in the parameters' own `grad` or in the shards' parts.
pub fn compute_across(
    place: &Place<'_>,
    model: &Decoder,
    examples: &[StepExample<'_>],
    recipe: Recipe<'_>,
) -> Result<Figures, CollectiveError> {
    let Recipe { objective, computation, gradients } = recipe;
    if place.is_alone() {
        return Ok(compute(model, examples, objective, computation, gradients));
    }
    let pass = StepPass { model, objective, computation, scale: Scale::of(examples, objective), gradients };
    let (groups, count) = own_groups(place.group, &lengths(examples), computation);
    let mut figures = if let Some(shards) = place.shards {
        pass.accumulate(examples, groups, count, shards)?
    } else {
        let Ok(figures) = pass.accumulate(examples, groups, count, &Resident);
        if gradients {
            for (_, tensor) in model.weights.trained() {
                place.group.sum(&tensor.grad())?;
            }
        }
        figures
    };
    figures.sum_over(place.group)?;
    Ok(figures.total(&pass.scale))
}

/// Log-probability of every sequence of the examples, in order; two per pair.
pub fn log_probs(model: &Decoder, examples: &[&Example], computation: &Computation) -> Vec<f64> {
    let lengths: Vec<usize> = examples.iter().map(|example| example.tokens()).collect();
    let order: Vec<usize> = (0..examples.len()).collect();
    let groups = fill(&order, &lengths, StepSize::Tokens(computation.microbatch_tokens));
    let count = groups.len();
    let Ok(all) = log_probs_of(model, examples, computation, groups, count, &Resident);
    all
}

/// As [`log_probs`], with the examples divided among the processes of a group; every process gets all.
pub fn log_probs_across(
    place: &Place<'_>,
    model: &Decoder,
    examples: &[&Example],
    computation: &Computation,
) -> Result<Vec<f64>, CollectiveError> {
    if place.is_alone() {
        return Ok(log_probs(model, examples, computation));
    }
    let lengths: Vec<usize> = examples.iter().map(|example| example.tokens()).collect();
    let (groups, count) = own_groups(place.group, &lengths, computation);
    let mut all = if let Some(shards) = place.shards {
        log_probs_of(model, examples, computation, groups, count, shards)?
    } else {
        let Ok(all) = log_probs_of(model, examples, computation, groups, count, &Resident);
        all
    };
    place.group.sum_numbers(&mut all)?;
    Ok(all)
}

/// Log-probabilities of the sequences of the grouped examples at their places among all; zeros elsewhere.
fn log_probs_of<R: Residence>(
    model: &Decoder,
    examples: &[&Example],
    computation: &Computation,
    groups: Vec<Vec<usize>>,
    count: usize,
    residence: &R,
) -> Result<Vec<f64>, R::Error> {
    let mut starts = Vec::with_capacity(examples.len());
    let mut sequences = 0;
    for example in examples {
        starts.push(sequences);
        sequences += example.sequences().count();
    }
    let mut all = vec![0.0; sequences];
    let mut groups = groups.into_iter();
    for _ in 0..count {
        let group = groups.next().unwrap_or_default();
        let members = group.iter().filter_map(|index| examples.get(*index)).copied();
        let batch = pack(members, computation.layout);
        if batch.targets.is_empty() {
            residence.idle(false)?;
            continue;
        }
        residence.enter_root(false)?;
        let hidden = model.infer_in(residence, &Inputs::on(model.device(), &model.config, &batch))?;
        let head = model.head_forward(&hidden, &batch.targets, false);
        residence.leave_root()?;
        let mut sums = sequence_log_probs(&batch, &head.log_probs).into_iter();
        for index in group {
            let (Some(start), Some(example)) = (starts.get(index), examples.get(index)) else { continue };
            for (place, sum) in (*start..).zip(sums.by_ref().take(example.sequences().count())) {
                all.get_mut(place).into_iter().for_each(|slot| *slot = sum);
            }
        }
    }
    Ok(all)
}

fn lengths(examples: &[StepExample<'_>]) -> Vec<usize> {
    examples.iter().map(|example| example.example.tokens()).collect()
}

/// This process's microbatches, and how many the process with the most has: with divided parameters all take part in each.
///
/// Every process knows all lengths, so the division needs no communication. Shares are runs of consecutive examples of about
/// equally many tokens: examples of one task that lie together stay together, where they share prefixes.
fn own_groups(group: &Group, lengths: &[usize], computation: &Computation) -> (Vec<Vec<usize>>, usize) {
    let size = StepSize::Tokens(computation.microbatch_tokens);
    let mut every = divide(lengths, group.size()).into_iter().map(|share| fill(&share, lengths, size));
    let mut own = Vec::new();
    let mut count = 0;
    for rank in 0..group.size() {
        let groups = every.next().unwrap_or_default();
        count = count.max(groups.len());
        if rank == group.rank() {
            own = groups;
        }
    }
    (own, count)
}

/// Cuts `0..lengths.len()` into `parts` runs of about equal sums; a run may be empty.
fn divide(lengths: &[usize], parts: usize) -> Vec<Vec<usize>> {
    let total: usize = lengths.iter().sum();
    let mut shares = vec![Vec::new(); parts];
    let mut before = 0;
    for (index, length) in lengths.iter().enumerate() {
        // The part in which the middle of this example falls.
        let part = (2 * before + length) * parts / (2 * total).max(1);
        shares.get_mut(part.min(parts.saturating_sub(1))).into_iter().for_each(|share| share.push(index));
        before += length;
    }
    shares
}

/// What is the same for all microbatches of a step.
struct StepPass<'run> {
    model: &'run Decoder,
    objective: &'run Objective,
    computation: &'run Computation,
    scale: Scale,
    gradients: bool,
}

impl StepPass<'_> {
    /// Computes the microbatches; idles where the group needs more of them than there are.
    fn accumulate<R: Residence>(
        &self,
        examples: &[StepExample<'_>],
        groups: Vec<Vec<usize>>,
        count: usize,
        residence: &R,
    ) -> Result<Figures, R::Error> {
        let mut figures = Figures::default();
        let mut groups = groups.into_iter();
        for _ in 0..count {
            let group = groups.next().unwrap_or_default();
            let members: Vec<&StepExample<'_>> =
                group.iter().filter_map(|index| examples.get(*index)).collect();
            let batch = pack(members.iter().map(|member| member.example), self.computation.layout);
            if batch.targets.is_empty() {
                residence.idle(self.gradients)?;
            } else {
                self.microbatch(&batch, &members, residence, &mut figures)?;
            }
        }
        Ok(figures)
    }

    fn microbatch<R: Residence>(
        &self,
        batch: &PackedBatch,
        members: &[&StepExample<'_>],
        residence: &R,
        figures: &mut Figures,
    ) -> Result<(), R::Error> {
        let Self { model, objective, computation, scale, gradients } = self;
        figures.rows += batch.rows();
        figures.linear_rows += batch.linear_rows;
        residence.enter_root(*gradients)?;
        let inputs = Inputs::on(model.device(), &model.config, batch);
        if *gradients {
            let pass = model.forward_in(residence, inputs, computation.recompute)?;
            let head = model.head_forward(&pass.hidden_TC, &batch.targets, true);
            let derivatives = add_losses(batch, &head.log_probs, members, objective, scale, figures);
            let grad = model.head_backward(&head, &spread(batch, &derivatives), &pass.hidden_TC);
            model.backward_in(residence, pass, grad)?;
        } else {
            let hidden = model.infer_in(residence, &inputs)?;
            let head = model.head_forward(&hidden, &batch.targets, false);
            add_losses(batch, &head.log_probs, members, objective, scale, figures);
        }
        residence.leave_root()
    }
}

impl Figures {
    /// Adds the other processes' figures.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts stay far below 2^53 and are not negative"
    )]
    fn sum_over(&mut self, group: &Group) -> Result<(), CollectiveError> {
        let mut numbers = [
            self.trajectory_nll,
            self.trajectory_tokens,
            self.pair_loss,
            self.margin,
            self.reward_chosen,
            self.trajectories as f64,
            self.pairs as f64,
            self.correct as f64,
            self.rows as f64,
            self.linear_rows as f64,
        ];
        group.sum_numbers(&mut numbers)?;
        let [nll, tokens, pair_loss, margin, reward_chosen, trajectories, pairs, correct, rows, linear_rows] =
            numbers;
        *self = Self {
            loss: 0.0,
            trajectory_nll: nll,
            trajectory_tokens: tokens,
            trajectories: trajectories as usize,
            pair_loss,
            pairs: pairs as usize,
            margin,
            reward_chosen,
            correct: correct as usize,
            rows: rows as usize,
            linear_rows: linear_rows as usize,
        };
        Ok(())
    }

    fn total(self, scale: &Scale) -> Self {
        let loss = self.trajectory_nll * scale.per_trajectory_weight + self.pair_loss * scale.per_pair;
        Self { loss, ..self }
    }
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

#[cfg(test)]
mod tests {
    use super::divide;

    #[test]
    fn shares_are_runs_of_about_equal_tokens_and_lose_nothing() {
        assert_eq!(divide(&[5, 5, 5, 5], 2), [vec![0, 1], vec![2, 3]]);
        assert_eq!(divide(&[12, 3, 3, 3, 3], 2), [vec![0], vec![1, 2, 3, 4]]);
        assert_eq!(divide(&[7], 3), [vec![], vec![0], vec![]]);
        assert_eq!(divide(&[], 2), [Vec::<usize>::new(), vec![]]);
        let shares = divide(&[9, 1, 4, 8, 2, 2, 7, 3], 4);
        assert_eq!(shares.concat(), (0..8).collect::<Vec<_>>());
    }
}
