//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sealign_batch::conversation::Encoder;
use sealign_batch::order::{epoch_steps, shuffled};
use sealign_batch::{ChatFormat, Tokenizer};
use sealign_manifest::Digest;
use sealign_manifest::train::TrainProgress;
use serde_json::{Value, json};
use thiserror::Error;

use super::checkpoint::{Best, CheckpointError, Checkpoints, RunState, Totals, digest_file};
use super::data::{self, Data, DataError, ExampleSet};
use super::export::{self, ModelFolderManifest, Provenance};
use super::progress::{ArtifactSink, record};
use super::reference::{self, ReferenceError};
use super::settings::{ChatFormatChoice, SettingError, Stage, StageSettings, TrainConfig};
use super::step::{Computation, Figures, Objective, ReferencePair, StepExample, compute};
use crate::model::Decoder;
use crate::model::directory::{self, DirectoryError};
use crate::optim::{AdamW, AdamWSettings, Schedule};

/// Why a run ended without a model.
#[derive(Debug, Error)]
pub enum RunError {
    /// A setting is out of range.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingError),
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
        matches!(self, Self::Settings(_) | Self::Model(_) | Self::Data(_) | Self::Diverged { .. })
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// The model folder.
    pub model: PathBuf,
    /// Its manifest.
    pub manifest: ModelFolderManifest,
    /// The folder was there already; nothing was computed.
    pub already_complete: bool,
}

/// Runs a stage to its end, continuing from the newest checkpoint in the output folder.
pub fn run(config: &TrainConfig, sink: &mut dyn ArtifactSink) -> Result<RunSummary, RunError> {
    config.settings.check()?;
    let tokenizer_folder = config.tokenizer.as_ref().unwrap_or(&config.model);
    let model_config = directory::read_config(&config.model)?;
    let tokenizer = directory::read_tokenizer(tokenizer_folder)?;
    directory::check_vocabulary(tokenizer_folder, &tokenizer, &model_config)?;
    let format = chat_format(&config.settings, tokenizer_folder, &tokenizer)?;
    let encoder = Encoder { tokenizer: &tokenizer, format: &format, mask: config.settings.mask };
    let data = data::load(config, &encoder)?;
    let inputs = input_digests(config, tokenizer_folder, &data)?;
    let target = config.output.join("model");
    if let Some(manifest) = export::read_manifest(&target)
        && manifest.inputs == inputs
    {
        return Ok(RunSummary { model: target, manifest, already_complete: true });
    }
    let report = serde_json::to_value(&data.report).unwrap_or(Value::Null);
    sink.log(&record("data", report)).map_err(RunError::Sink)?;
    let weights = directory::read_weights(&config.model, &model_config)?;
    let model = Decoder::trainable(model_config, weights);
    let mut training = Training::start(config, &data, model, &inputs, sink)?;
    training.run_steps(sink)?;
    let manifest = training.export(&target, tokenizer_folder, inputs)?;
    sink.log(&record("finished", json!({"step": manifest.step, "steps": manifest.steps})))
        .map_err(RunError::Sink)?;
    Ok(RunSummary { model: target, manifest, already_complete: false })
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

/// Digests of everything that the result depends on; `run` is over all the others.
fn input_digests(
    config: &TrainConfig,
    tokenizer_folder: &Path,
    data: &Data,
) -> Result<BTreeMap<String, Digest>, RunError> {
    let mut digests = data.digests.clone();
    digests.insert("model/config.json".to_owned(), digest_file(&config.model.join("config.json"))?);
    for file in directory::weight_files(&config.model)? {
        digests.insert(format!("model/{file}"), digest_file(&config.model.join(&file))?);
    }
    for name in ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja"]
    {
        let path = tokenizer_folder.join(name);
        if path.exists() {
            digests.insert(format!("tokenizer/{name}"), digest_file(&path)?);
        }
    }
    // The number of threads is the machine's business; the sums it may reorder are far below what a setting changes.
    let settings = StageSettings { threads: 0, ..config.settings.clone() };
    let text = serde_json::to_vec(&settings).unwrap_or_default();
    digests.insert("settings".to_owned(), Digest::of_bytes(&text));
    let all = serde_json::to_vec(&digests).unwrap_or_default();
    digests.insert("run".to_owned(), Digest::of_bytes(&all));
    Ok(digests)
}

/// A run in progress.
struct Training<'run> {
    settings: &'run StageSettings,
    data: &'run Data,
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
        inputs: &BTreeMap<String, Digest>,
        sink: &mut dyn ArtifactSink,
    ) -> Result<Self, RunError> {
        let settings = &config.settings;
        let (steps, epoch_ends) = plan(settings, &data.train);
        let run_digest = inputs.get("run").cloned().unwrap_or_else(|| Digest::of_bytes(b""));
        let checkpoints = Checkpoints::open(config.output.join("checkpoints"))?;
        let computation = Computation::of(settings);
        let references = references(config, data, &model, &computation, &run_digest)?;
        let mut optimizer = AdamW::new(adamw(settings), &model.weights);
        let mut torn = Vec::new();
        let found = checkpoints.newest(&run_digest, &mut torn)?;
        for path in torn {
            let folder = path.display().to_string();
            sink.log(&record("checkpointSkipped", json!({"folder": folder}))).map_err(RunError::Sink)?;
        }
        let state = match found {
            Some(state) => {
                checkpoints.load(&state, &mut model, &mut optimizer)?;
                sink.log(&record("resumed", json!({"step": state.step}))).map_err(RunError::Sink)?;
                state
            }
            None => RunState {
                inputs: run_digest,
                step: 0,
                optimizer_steps: 0,
                best: None,
                totals: Totals::default(),
            },
        };
        Ok(Self {
            settings,
            data,
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
                let folder = self.checkpoints.save(&self.state, &self.model, &self.optimizer)?;
                sink.checkpoint(done, &folder).map_err(RunError::Sink)?;
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
        self.model.weights.zero_gradients();
        let figures = compute(&self.model, &examples, &self.objective, &self.computation, true);
        if !figures.loss.is_finite() {
            return Err(RunError::Diverged { step: index + 1, what: "loss" });
        }
        let rate = self.schedule.rate(index);
        let norm = self.optimizer.step(&self.model.weights, rate, self.settings.max_gradient_norm);
        if !norm.is_finite() {
            return Err(RunError::Diverged { step: index + 1, what: "gradient" });
        }
        self.state.step = index + 1;
        self.state.optimizer_steps = self.optimizer.steps();
        self.state.totals.add(&figures, index == 0);
        let seconds = started.elapsed().as_secs_f64();
        self.report_step(&figures, rate, norm, seconds, sink)
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
        let figures = compute(&self.model, &examples, &objective, &self.computation, false);
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
            "seconds": seconds,
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
        mut self,
        target: &Path,
        tokenizer_folder: &Path,
        inputs: BTreeMap<String, Digest>,
    ) -> Result<ModelFolderManifest, RunError> {
        let step = self.state.best.as_ref().map_or(self.state.step, |best| best.step);
        if step != self.state.step {
            self.checkpoints.load_weights(step, &mut self.model)?;
        }
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
        Ok(export::write_model(target, &self.model, tokenizer_folder, self.settings.save_type, provenance)?)
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

/// The steps of all epochs, and after how many steps each epoch ends. A run that is cut short by `maxSteps` ends an epoch
/// there, so that it is evaluated.
fn plan(settings: &StageSettings, train: &ExampleSet) -> (Vec<Vec<usize>>, Vec<usize>) {
    let limit = settings.max_steps.unwrap_or(usize::MAX);
    let tasks: Vec<&str> = train.tasks.iter().map(String::as_str).collect();
    let (mut steps, mut ends) = (Vec::new(), Vec::new());
    for epoch in 0..settings.max_epochs {
        if steps.len() >= limit {
            break;
        }
        let epoch = epoch as u64;
        steps.extend(epoch_steps(
            settings.seed,
            epoch,
            &train.lengths,
            &tasks,
            settings.grouping,
            settings.batch,
        ));
        steps.truncate(limit);
        ends.push(steps.len());
    }
    (steps, ends)
}

fn schedule(settings: &StageSettings, total_steps: usize) -> Schedule {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a step count is a small non-negative number"
    )]
    let warmup_steps = (settings.warmup_ratio * total_steps as f64).ceil() as usize;
    Schedule {
        kind: settings.schedule,
        peak: settings.peak_rate(),
        floor_share: settings.floor_share,
        warmup_steps,
        total_steps,
    }
}

fn adamw(settings: &StageSettings) -> AdamWSettings {
    AdamWSettings {
        beta1: settings.adam_beta1,
        beta2: settings.adam_beta2,
        epsilon: settings.adam_epsilon,
        weight_decay: settings.weight_decay,
    }
}

fn references(
    config: &TrainConfig,
    data: &Data,
    model: &Decoder,
    computation: &Computation,
    run_digest: &Digest,
) -> Result<[Vec<ReferencePair>; 2], RunError> {
    if config.settings.stage != Stage::Dpo {
        return Ok([Vec::new(), Vec::new()]);
    }
    let path = config.output.join("reference.json");
    let counts = [data.train.examples.len(), data.validation.examples.len()];
    if let Some(stored) = reference::read(&path, run_digest, counts) {
        return Ok(stored);
    }
    let computed = reference::compute(model, [&data.train, &data.validation], computation);
    reference::write(&path, run_digest, &computed)?;
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
