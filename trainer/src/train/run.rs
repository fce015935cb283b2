//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sealign_batch::conversation::Encoder;
use sealign_batch::order::shuffled;
use sealign_batch::{ChatFormat, Tokenizer};
use sealign_manifest::Digest;
use sealign_manifest::train::TrainProgress;
use serde_json::{Value, json};
use thiserror::Error;

use super::checkpoint::{Best, CheckpointError, Checkpoints, RunState, Totals};
use super::data::{self, Data, DataError, ExampleSet};
use super::export::{self, ModelFolderManifest, Provenance};
use super::plan::{adamw, input_digests, plan, schedule};
use super::progress::{ArtifactSink, record};
use super::reference::{self, ReferenceError};
use super::settings::{ChatFormatChoice, SettingError, Stage, StageSettings, TrainConfig};
use super::spikes::{self, SpikeGuard, Verdict};
use super::step::{Computation, Figures, Objective, Recipe, ReferencePair, StepExample, compute_across};
use super::together::Together;
use crate::dist::{CollectiveError, Group};
use crate::model::directory::{self, DirectoryError};
use crate::model::{Decoder, adapter};
use crate::optim::{AdamW, Schedule};
use crate::placement::{Placement, PlacementError};
use crate::process;

/// Why a run ended without a model.
#[derive(Debug, Error)]
pub enum RunError {
    /// A setting is out of range.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingError),
    /// The device is not there.
    #[error("the run cannot be placed")]
    Placement(#[from] PlacementError),
    /// The model folder cannot be used.
    #[error("the model cannot be used")]
    Model(#[from] DirectoryError),
    /// The data cannot be used.
    #[error("the training data cannot be used")]
    Data(#[from] DataError),
    /// A checkpoint or the model could not be written or read.
    #[error("a checkpoint failed")]
    Checkpoint(#[from] CheckpointError),
    /// The reference log-probabilities could not be stored.
    #[error("the reference log-probabilities cannot be stored")]
    Reference(#[from] ReferenceError),
    /// Progress could not be reported.
    #[error("progress cannot be reported")]
    Sink(#[source] std::io::Error),
    /// Another process could not be reached.
    #[error("the processes of the run cannot work together")]
    Collective(#[from] CollectiveError),
    /// Too many steps in a row had a gradient out of proportion.
    #[error(
        "step {step}: the gradient norm was above spikeFactor times its median for {} steps in a row; the newest checkpoint \
         is from before. Lower learningRate, raise spikeFactor, or look for unusual rows among the data",
        spikes::IN_A_ROW_MAX
    )]
    Spikes {
        /// Index of the step, from 1.
        step: usize,
    },
    /// The loss or the gradient is not a number.
    #[error(
        "step {step}: the {what} is not finite; the newest checkpoint is from before. Lower learningRate, or look for \
         unusual rows among the data"
    )]
    Diverged {
        /// Index of the step, from 1.
        step: usize,
        /// `loss`, `gradient` or `validation loss`.
        what: &'static str,
    },
}

impl RunError {
    /// True when the same inputs will fail the same way: a person has to change them.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Placement(_) | Self::Model(_) | Self::Data(_))
            || matches!(self, Self::Diverged { .. } | Self::Spikes { .. })
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// The model folder.
    pub model: PathBuf,
    /// Folder of the adapter, where one was trained.
    pub adapter: Option<PathBuf>,
    /// The model's manifest.
    pub manifest: ModelFolderManifest,
    /// The folder was there already; nothing was computed.
    pub already_complete: bool,
}

/// Runs a stage to its end, continuing from the newest checkpoint in the output folder.
pub fn run(config: &TrainConfig, sink: &mut dyn ArtifactSink) -> Result<RunSummary, RunError> {
    run_in(&Group::alone(), config, sink)
}

/// As [`run`], together with the other processes of a group. All of them read model and data; process 0 alone reads and
/// writes checkpoints, reports, and writes the model, so only its output folder counts.
pub fn run_in(
    group: &Group,
    config: &TrainConfig,
    sink: &mut dyn ArtifactSink,
) -> Result<RunSummary, RunError> {
    config.settings.check()?;
    let placement = Placement::find(config.settings.device, config.settings.precision, group.local_rank())?;
    let tokenizer_folder = config.tokenizer.as_ref().unwrap_or(&config.model);
    let model_config = directory::read_config(&config.model)?;
    let tokenizer = directory::read_tokenizer(tokenizer_folder)?;
    directory::check_vocabulary(tokenizer_folder, &tokenizer, &model_config)?;
    let format = chat_format(&config.settings, tokenizer_folder, &tokenizer)?;
    let encoder = Encoder { tokenizer: &tokenizer, format: &format, mask: config.settings.mask };
    let data = data::load(config, &encoder)?;
    let inputs = input_digests(config, tokenizer_folder, &data)?;
    let target = config.output.join("model");
    let adapter = config.settings.lora.map(|_| config.output.join("adapter"));
    if let Some(manifest) = finished(group, &target, &inputs)? {
        return Ok(RunSummary { model: target, adapter, manifest, already_complete: true });
    }
    let mut weights = directory::read_weights(&config.model, &model_config)?;
    if let Some(lora) = config.settings.lora {
        adapter::attach(&model_config, &mut weights, lora, config.settings.seed);
    }
    let report = serde_json::to_value(&data.report).unwrap_or(Value::Null);
    sink.log(&record("data", report)).map_err(RunError::Sink)?;
    if !placement.is_plain() && weights.is_adapted() {
        weights = weights.placed(placement);
    }
    let model = Decoder::trainable(model_config, weights);
    let together = Together::new(group, config.settings.sharding, placement, &model);
    let mut training = Training::start(config, &data, model, &together, &inputs, sink)?;
    training.run_steps(sink)?;
    let manifest = training.export(&target, config, inputs)?;
    sink.log(&record("finished", json!({"step": manifest.step, "steps": manifest.steps})))
        .map_err(RunError::Sink)?;
    Ok(RunSummary { model: target, adapter, manifest, already_complete: false })
}

/// The manifest of the finished model, if process 0 has it.
fn finished(
    group: &Group,
    target: &Path,
    inputs: &BTreeMap<String, Digest>,
) -> Result<Option<ModelFolderManifest>, CollectiveError> {
    let manifest = export::read_manifest(target).filter(|manifest| manifest.inputs == *inputs);
    let bytes = group.broadcast_bytes(serde_json::to_vec(&manifest).unwrap_or_default())?;
    Ok(serde_json::from_slice(&bytes).unwrap_or(None))
}

fn chat_format(
    settings: &StageSettings,
    folder: &Path,
    tokenizer: &Tokenizer,
) -> Result<ChatFormat, DirectoryError> {
    match settings.chat_format {
        ChatFormatChoice::Auto => directory::read_chat_format(folder, tokenizer),
        ChatFormatChoice::Chatml => Ok(ChatFormat::chat_ml()),
    }
}

/// A run in progress.
struct Training<'run> {
    settings: &'run StageSettings,
    data: &'run Data,
    together: &'run Together<'run>,
    references: [Vec<ReferencePair>; 2],
    /// Example indices of every step of the run.
    steps: Vec<Vec<usize>>,
    /// Steps after which an epoch ends.
    epoch_ends: Vec<usize>,
    schedule: Schedule,
    objective: Objective,
    computation: Computation,
    checkpoints: Checkpoints,
    model: Decoder,
    optimizer: AdamW,
    state: RunState,
}

impl<'run> Training<'run> {
    fn start(
        config: &'run TrainConfig,
        data: &'run Data,
        mut model: Decoder,
        together: &'run Together<'run>,
        inputs: &BTreeMap<String, Digest>,
        sink: &mut dyn ArtifactSink,
    ) -> Result<Self, RunError> {
        let settings = &config.settings;
        let (steps, epoch_ends) = plan(settings, &data.train);
        let run_digest = inputs.get("run").cloned().unwrap_or_else(|| Digest::of_bytes(b""));
        let checkpoints = Checkpoints::open(config.output.join("checkpoints"))?;
        let computation = together.computation(settings);
        let references = references(config, data, &model, together, &computation, &run_digest)?;
        let mut optimizer = together.optimizer(adamw(settings), &model);
        let mut torn = Vec::new();
        let found = together.newest(&checkpoints, &run_digest, &mut torn)?;
        for path in torn {
            let folder = path.display().to_string();
            sink.log(&record("checkpointSkipped", json!({"folder": folder}))).map_err(RunError::Sink)?;
        }
        let state = match found {
            Some(state) => {
                together.load(&checkpoints, &state, &mut model, &mut optimizer)?;
                sink.log(&record("resumed", json!({"step": state.step}))).map_err(RunError::Sink)?;
                state
            }
            None => RunState {
                inputs: run_digest,
                step: 0,
                optimizer_steps: 0,
                best: None,
                totals: Totals::default(),
                spikes: SpikeGuard::default(),
            },
        };
        Ok(Self {
            settings,
            data,
            together,
            references,
            schedule: schedule(settings, steps.len()),
            steps,
            epoch_ends,
            objective: Objective::of(settings),
            computation,
            checkpoints,
            model,
            optimizer,
            state,
        })
    }

    fn run_steps(&mut self, sink: &mut dyn ArtifactSink) -> Result<(), RunError> {
        while self.state.step < self.steps.len() {
            self.one_step(sink)?;
            let done = self.state.step;
            let epoch_ended = self.epoch_ends.contains(&done);
            if epoch_ended {
                self.evaluate(sink)?;
            }
            let due = self.settings.checkpoint_steps.is_some_and(|every| done.is_multiple_of(every));
            if epoch_ended || due {
                let saved =
                    self.together.save(&self.checkpoints, &self.state, &self.model, &self.optimizer)?;
                if let Some(folder) = saved {
                    sink.checkpoint(done, &folder).map_err(RunError::Sink)?;
                }
            }
        }
        Ok(())
    }

    fn one_step(&mut self, sink: &mut dyn ArtifactSink) -> Result<(), RunError> {
        let started = Instant::now();
        let index = self.state.step;
        let [train_references, _] = &self.references;
        let chosen = self.steps.get(index).map(Vec::as_slice).unwrap_or_default();
        let mut examples = step_examples(&self.data.train, train_references, chosen.iter().copied());
        examples.extend(self.anchors(index));
        self.together.zero_gradients(&self.model);
        let figures = self.compute(&examples, &self.objective, true)?;
        if !figures.loss.is_finite() {
            return Err(RunError::Diverged { step: index + 1, what: "loss" });
        }
        let rate = self.schedule.rate(index);
        let norm = self.together.gradient_norm(&self.model)?;
        if !norm.is_finite() {
            return Err(RunError::Diverged { step: index + 1, what: "gradient" });
        }
        match self.state.spikes.judge(norm, self.settings.spike_factor) {
            Verdict::Apply => {
                let slots = self.together.slots(&self.model);
                self.optimizer.update(slots, norm, rate, self.settings.max_gradient_norm);
            }
            Verdict::Skip => {
                let members = json!({"step": index + 1, "gradientNorm": norm});
                sink.log(&record("spikeSkipped", members)).map_err(RunError::Sink)?;
            }
            Verdict::GiveUp => return Err(RunError::Spikes { step: index + 1 }),
        }
        self.state.step = index + 1;
        self.state.optimizer_steps = self.optimizer.steps();
        self.state.totals.add(&figures, index == 0);
        let seconds = started.elapsed().as_secs_f64();
        self.report_step(&figures, rate, norm, seconds, sink)
    }

    fn compute(
        &self,
        examples: &[StepExample<'_>],
        objective: &Objective,
        gradients: bool,
    ) -> Result<Figures, CollectiveError> {
        let recipe = Recipe { objective, computation: &self.computation, gradients };
        compute_across(&self.together.place(), &self.model, examples, recipe)
    }

    /// The anchor examples of a step: a seeded order, walked through step after step, shuffled anew when it is used up.
    fn anchors(&self, step: usize) -> Vec<StepExample<'run>> {
        let (Some(anchor), count) = (self.settings.anchor, self.data.anchors.examples.len()) else {
            return Vec::new();
        };
        if count == 0 || self.settings.stage != Stage::Dpo {
            return Vec::new();
        }
        let first = step * anchor.examples;
        let mut drawn = Vec::with_capacity(anchor.examples);
        let mut order: Option<(usize, Vec<usize>)> = None;
        for place in first..first + anchor.examples {
            let round = place / count;
            if order.as_ref().is_none_or(|(of, _)| *of != round) {
                // Another domain than the epochs of the pairs, which count from 0.
                order = Some((round, shuffled(self.settings.seed ^ 0x616e_6368, round as u64, count)));
            }
            let index = order.as_ref().and_then(|(_, order)| order.get(place % count)).copied();
            let example = index.and_then(|index| self.data.anchors.examples.get(index));
            drawn.extend(example.map(|example| StepExample { example, reference: None }));
        }
        drawn
    }

    fn evaluate(&mut self, sink: &mut dyn ArtifactSink) -> Result<(), RunError> {
        let [_, references] = &self.references;
        let validation = &self.data.validation;
        let mut order: Vec<usize> = (0..validation.examples.len()).collect();
        order.sort_by_key(|index| (validation.tasks.get(*index), *index));
        let examples = step_examples(validation, references, order.into_iter());
        let objective = Objective { trajectory_weight: 1.0, ..self.objective };
        let figures = self.compute(&examples, &objective, false)?;
        if !figures.loss.is_finite() {
            return Err(RunError::Diverged { step: self.state.step, what: "validation loss" });
        }
        let mut members = pair_figures(&figures);
        members.insert("validationLoss".to_owned(), figures.loss);
        if self.state.best.as_ref().is_none_or(|best| figures.loss < best.validation_loss) {
            let step = self.state.step;
            self.state.best =
                Some(Best { step, validation_loss: figures.loss, figures: pair_figures(&figures) });
        }
        let mut event = record("evaluated", json!(members));
        event.insert("step".to_owned(), json!(self.state.step));
        sink.log(&event).map_err(RunError::Sink)
    }

    #[expect(clippy::cast_precision_loss, reason = "rows of one step stay far below 2^53")]
    fn report_step(
        &self,
        figures: &Figures,
        rate: f64,
        norm: f64,
        seconds: f64,
        sink: &mut dyn ArtifactSink,
    ) -> Result<(), RunError> {
        let pairs = pair_figures(figures);
        let tokens_per_second = figures.rows as f64 / seconds.max(1e-9);
        let mut members = json!({
            "step": self.state.step, "loss": figures.loss, "learningRate": rate, "gradientNorm": norm,
            "rows": figures.rows, "linearRows": figures.linear_rows, "examples": figures.trajectories + figures.pairs,
            "seconds": seconds, "tokensPerSecond": tokens_per_second, "peakMemoryBytes": process::peak_rss_bytes(),
            // Six operations per parameter and row: two forward, four backward. Attention's own are left out.
            "flopsPerSecond": 6.0 * self.model.config.parameters() as f64 * tokens_per_second,
        });
        if let Some(object) = members.as_object_mut() {
            object.extend(pairs.iter().map(|(name, value)| (name.clone(), json!(value))));
        }
        sink.log(&record("step", members)).map_err(RunError::Sink)?;
        sink.progress(&TrainProgress {
            step: self.state.step as u64,
            steps: self.steps.len() as u64,
            loss: Some(figures.loss),
            best_validation_loss: self.state.best.as_ref().map(|best| best.validation_loss),
            reward_margin: pairs.get("rewardMargin").copied(),
            accuracy: pairs.get("accuracy").copied(),
            tokens_per_second: Some(tokens_per_second),
        })
        .map_err(RunError::Sink)
    }

    fn export(
        self,
        target: &Path,
        config: &TrainConfig,
        inputs: BTreeMap<String, Digest>,
    ) -> Result<ModelFolderManifest, RunError> {
        let step = self.state.best.as_ref().map_or(self.state.step, |best| best.step);
        let weights = self.together.weights_after(&self.checkpoints, step, self.state.step, &self.model)?;
        let totals = self.state.totals;
        let mut metrics: BTreeMap<String, Value> = BTreeMap::from([
            ("rows".to_owned(), json!(totals.rows)),
            ("linearRows".to_owned(), json!(totals.linear_rows)),
            ("firstLoss".to_owned(), json!(totals.first_loss)),
            ("lastLoss".to_owned(), json!(totals.last_loss)),
            ("data".to_owned(), serde_json::to_value(&self.data.report).unwrap_or(Value::Null)),
        ]);
        if let Some(best) = &self.state.best {
            metrics.insert("validationLoss".to_owned(), json!(best.validation_loss));
            metrics.extend(best.figures.iter().map(|(name, value)| (name.clone(), json!(value))));
        }
        let provenance = Provenance { inputs, step, steps: self.state.step, metrics };
        let Some(weights) = weights else {
            let nothing = || self.together.place().group.error("write a model", "rank 0 has none".to_owned());
            return Ok(self.together.agree(None)?.ok_or_else(nothing)?);
        };
        if let Some(lora) = self.settings.lora {
            let folder = target.with_file_name("adapter");
            let base = config.model_name.clone().unwrap_or_else(|| config.model.display().to_string());
            export::write_adapter(&folder, &self.model, lora, &base)?;
        }
        let tokenizer_folder = config.tokenizer.as_ref().unwrap_or(&config.model);
        let model = Decoder { config: self.model.config.clone(), weights };
        let save_type = self.settings.save_type;
        let manifest = export::write_model(target, &model, tokenizer_folder, save_type, provenance)?;
        self.together.agree(Some(manifest.clone()))?;
        Ok(manifest)
    }
}

impl Totals {
    fn add(&mut self, figures: &Figures, first: bool) {
        self.rows += figures.rows as u64;
        self.linear_rows += figures.linear_rows as u64;
        self.last_loss = figures.loss;
        if first {
            self.first_loss = figures.loss;
        }
    }
}

fn references(
    config: &TrainConfig,
    data: &Data,
    model: &Decoder,
    together: &Together<'_>,
    computation: &Computation,
    run_digest: &Digest,
) -> Result<[Vec<ReferencePair>; 2], RunError> {
    if config.settings.stage != Stage::Dpo {
        return Ok([Vec::new(), Vec::new()]);
    }
    let path = config.output.join("reference.json");
    let counts = [data.train.examples.len(), data.validation.examples.len()];
    let stored = together.agree_references(reference::read(&path, run_digest, counts))?;
    if let Some(stored) = stored {
        return Ok(stored);
    }
    let sets = [&data.train, &data.validation];
    let computed = reference::compute(&together.place(), model, sets, computation)?;
    if together.leads() {
        reference::write(&path, run_digest, &computed)?;
    }
    Ok(computed)
}

fn step_examples<'data>(
    set: &'data ExampleSet,
    references: &[ReferencePair],
    indices: impl Iterator<Item = usize>,
) -> Vec<StepExample<'data>> {
    indices
        .filter_map(|index| {
            Some(StepExample { example: set.examples.get(index)?, reference: references.get(index).copied() })
        })
        .collect()
}

/// Means over the pairs of a step; empty without pairs.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn pair_figures(figures: &Figures) -> BTreeMap<String, f64> {
    if figures.pairs == 0 {
        return BTreeMap::new();
    }
    let pairs = figures.pairs as f64;
    let mut means = BTreeMap::from([
        ("preferenceLoss".to_owned(), figures.pair_loss / pairs),
        ("rewardMargin".to_owned(), figures.margin / pairs),
        ("rewardChosen".to_owned(), figures.reward_chosen / pairs),
        ("accuracy".to_owned(), figures.correct as f64 / pairs),
    ]);
    if figures.trajectory_tokens > 0.0 {
        means.insert("anchorLoss".to_owned(), figures.trajectory_nll / figures.trajectory_tokens);
    }
    means
}
