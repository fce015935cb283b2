//! Where each kind of step stands, and what takes it further.

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use sealign_crds::alignment_run::ForestTemplate;
use sealign_crds::condition::{kind, reason};
use sealign_crds::model::Checkpoint;
use sealign_crds::{AlignmentRunSpec, BenchmarkSpec, LocalRef, ModelSpec, TrajectoryForestSpec};
use sealign_manifest::group::Rejection;
use sealign_manifest::train::{ModelSource, TrainStep};
use sealign_manifest::{Digest, ObjectKeys};

use super::steps::{self, PlannedStep, Task, benchmark_name, name};
use super::{Left, State};
use crate::config::{AlignmentReport, MeasuredModel, NamedKeys, PromotionGate, Report, WorkerConfig};
use crate::context::{Context, Draft};
use crate::policies::child::{self, Child};
use crate::policies::reference::{self, Obstacle};
use crate::resources::worker::{self, Program};
use crate::resources::{self, trainer};
use crate::round::{self, WorkerSpec};
use crate::snapshot::NoDecision;
use crate::validate::ValidRun;
use crate::{Kind, names, settings, stand};

/// What resumes a training step.
const TRAINER_REMEDY: &str = "raise spec.trainer.maxRounds or delete that Job to go on";
/// What resumes the report worker.
const REPORT_REMEDY: &str = "delete that Job to try again";

/// Where `step` stands; what takes it further goes into `draft`.
pub fn state(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &AlignmentRunSpec,
    valid: &ValidRun,
    step: &PlannedStep,
    left: &Left,
) -> Result<State, NoDecision> {
    match &step.task {
        Task::Rollout => rollout(cx, draft, spec),
        Task::Forest => forest(cx, draft, spec),
        Task::Sft | Task::Dpo => train(cx, draft, spec, valid, step, left),
        Task::Benchmark { template, model } => benchmark(cx, draft, spec, *template, model, left),
        Task::Report => report(cx, draft, spec, valid, left),
    }
}

fn rollout(cx: Context<'_>, draft: &mut Draft, spec: &AlignmentRunSpec) -> Result<State, NoDecision> {
    let Some(template) = &spec.campaign else { return Ok(State::Waiting) };
    let name = names::child(&cx.owner.name, name::ROLLOUT);
    let found = child::ensure(cx, draft, Kind::RolloutCampaign, &name, || {
        let mut campaign = template.clone();
        if campaign.artifacts.path.is_none() {
            campaign.artifacts = spec.artifacts.clone();
        }
        resources::child::object(cx.owner, Kind::RolloutCampaign, &name, &campaign)
    })?;
    of_child(cx, Kind::RolloutCampaign, &name, found, ObjectKeys::closed)
}

fn forest(cx: Context<'_>, draft: &mut Draft, spec: &AlignmentRunSpec) -> Result<State, NoDecision> {
    if let Some(forest) = &spec.forest_ref {
        return Ok(match reference::resolve(cx, Kind::TrajectoryForest, "spec.forestRef", &forest.name)? {
            Ok(object) => done(cx, names::keys(Kind::TrajectoryForest, object), ObjectKeys::forest)?
                .unwrap_or_else(|| State::Running("waiting for its manifest".into())),
            Err(obstacle) => State::Stopped(obstacle),
        });
    }
    let name = names::child(&cx.owner.name, name::FOREST);
    let found = child::ensure(cx, draft, Kind::TrajectoryForest, &name, || {
        resources::child::object(cx.owner, Kind::TrajectoryForest, &name, &forest_spec(cx, spec))
    })?;
    of_child(cx, Kind::TrajectoryForest, &name, found, ObjectKeys::forest)
}

/// The run's own forest: its campaign's attempts, without the tasks that the run measures on.
fn forest_spec(cx: Context<'_>, spec: &AlignmentRunSpec) -> TrajectoryForestSpec {
    let ForestTemplate { node_key, filters, pairs, sft, data_percent, seed } =
        spec.forest.clone().unwrap_or_else(default_forest);
    let measured: BTreeSet<&String> = spec.benchmarks.iter().map(|b| &b.task_set_ref.name).collect();
    TrajectoryForestSpec {
        campaign_refs: vec![LocalRef { name: names::child(&cx.owner.name, name::ROLLOUT) }],
        imports: Vec::new(),
        node_key,
        filters,
        pairs,
        sft,
        data_percent,
        seed,
        exclude_task_sets: measured.into_iter().map(|name| LocalRef { name: name.clone() }).collect(),
        artifacts: spec.artifacts.clone(),
    }
}

fn default_forest() -> ForestTemplate {
    // The derived default has 0 per cent; the schema's has all of the data.
    ForestTemplate { data_percent: 100, ..ForestTemplate::default() }
}

/// Where a child resource stands: done when the document that `result` names exists in the store.
fn of_child(
    cx: Context<'_>,
    kind: Kind,
    name: &str,
    found: Child<'_>,
    result: fn(&ObjectKeys) -> String,
) -> Result<State, NoDecision> {
    let object: &DynamicObject = match found {
        Child::Taken(obstacle) => return Ok(State::Stopped(obstacle)),
        Child::Pending => return Ok(State::Running("starting".into())),
        Child::There(object) => object,
    };
    let seen = reference::condition(object, kind::SUCCEEDED);
    let message = format!("{} `{name}`: {}", kind.name(), seen.message);
    match seen.status {
        // The child's own word comes last: it has cleaned up by then, and its status has the figures.
        Some(true) => {
            Ok(done(cx, names::keys(kind, object), result)?.unwrap_or(State::Running(seen.message)))
        }
        Some(false) => {
            Ok(State::Stopped(Obstacle { succeeded: Some(false), reason: reason::REFERENCE_FAILED, message }))
        }
        None => Ok(match blocking(&seen.reason) {
            Some(reason) => State::Stopped(Obstacle { succeeded: None, reason, message }),
            None => State::Running(seen.message),
        }),
    }
}

/// Reasons of a child that somebody has to act on.
fn blocking(seen: &str) -> Option<&'static str> {
    let reasons = [
        reason::NO_PROGRESS,
        reason::NAME_TAKEN,
        reason::BUDGET_EXHAUSTED,
        reason::REFERENCE_NOT_FOUND,
        reason::NAMESPACE_NOT_ENABLED,
    ];
    reasons.into_iter().find(|reason| *reason == seen)
}

fn done(
    cx: Context<'_>,
    keys: ObjectKeys,
    result: fn(&ObjectKeys) -> String,
) -> Result<Option<State>, NoDecision> {
    let bytes = cx.snapshot.bytes(&result(&keys))?;
    Ok(bytes.map(|bytes| State::Done(Some(Digest::of_bytes(bytes).to_string()), keys)))
}

fn train(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &AlignmentRunSpec,
    valid: &ValidRun,
    step: &PlannedStep,
    left: &Left,
) -> Result<State, NoDecision> {
    let keys = cx.owner.keys.step(&step.name);
    if let Some(state) = done(cx, keys.clone(), ObjectKeys::model)? {
        for job in cx.jobs()?.iter().filter(|job| job.stage == step.name && !job.is_over) {
            draft.delete_job(job);
        }
        return Ok(state);
    }
    // A trainer knows the keys of its step only, so that is where it says no.
    if let Some(rejection) = cx.snapshot.document::<Rejection>(&keys.rejection(&step.name), "a rejection")? {
        let message = rejection.message;
        return Ok(State::Stopped(Obstacle {
            succeeded: Some(false),
            reason: reason::INPUT_REJECTED,
            message,
        }));
    }
    let Some(forest) = left.get(name::FOREST) else { return Ok(State::Waiting) };
    let (stage_settings, model) = match (&step.task, &spec.stages.sft, &spec.stages.dpo) {
        (Task::Sft, Some(stage), _) => (settings::sft(stage, &spec.trainer, spec.seed), valid.model.clone()),
        (Task::Dpo, _, Some(stage)) => {
            let start = left.get(name::SFT).map(|sft| ModelSource::Manifest(sft.model()));
            (settings::dpo(stage, &spec.trainer, spec.seed), start.unwrap_or_else(|| valid.model.clone()))
        }
        _ => return Ok(State::Waiting),
    };
    let checkpoints = cx.snapshot.names(&keys.join("checkpoints"))?;
    let rounds = WorkerSpec {
        stage: &step.name,
        marker: newest_checkpoint(&keys, checkpoints),
        rounds_max: u32::try_from(spec.trainer.max_rounds).unwrap_or(1),
    };
    let worker = round::worker(cx, draft, rounds, |round| {
        let train = TrainStep {
            keys: keys.clone(),
            name: step.name.clone(),
            model: model.clone(),
            forest: forest.forest(),
            settings: stage_settings.clone(),
            round,
        };
        trainer::job(cx.owner, cx.installation, &train, &spec.trainer, &spec.queue)
    })?;
    Ok(match stand::obstacle(&worker, "the trainer", TRAINER_REMEDY) {
        Some(obstacle) => State::Stopped(obstacle),
        None => State::Running("training".into()),
    })
}

/// The largest optimiser step that a checkpoint's name carries: `<keys>/checkpoints/<step>/...`, whatever else is in it.
fn newest_checkpoint(keys: &ObjectKeys, names: &[String]) -> u64 {
    let prefix = keys.join("checkpoints/");
    let number = |name: &String| {
        let part = name.strip_prefix(&prefix)?.split('/').next()?;
        let digits: String = part.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    names.iter().filter_map(number).max().unwrap_or(0)
}

fn benchmark(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &AlignmentRunSpec,
    template: usize,
    model: &'static str,
    left: &Left,
) -> Result<State, NoDecision> {
    let Some(template) = spec.benchmarks.get(template) else { return Ok(State::Waiting) };
    let name = benchmark_name(&cx.owner.name, &template.name, model);
    let trained = match model {
        "sft" => left.get(name::SFT),
        "dpo" => left.get(name::DPO),
        _ => None,
    };
    let checkpoint = match trained {
        Some(keys) => Checkpoint {
            base: format!("artifact:{}", keys.model()),
            adapter: None,
            serving: spec.model.serving.clone(),
        },
        None => spec.model.clone(),
    };
    let found = child::ensure(cx, draft, Kind::Benchmark, &name, || {
        let baselines = match model {
            "base" => &[][..],
            "dpo" if spec.stages.sft.is_some() => &["base", "sft"][..],
            _ => &["base"][..],
        };
        let baseline =
            |other: &&str| LocalRef { name: benchmark_name(&cx.owner.name, &template.name, other) };
        let benchmark = BenchmarkSpec {
            task_set_ref: template.task_set_ref.clone(),
            model: Some(ModelSpec { endpoint: None, checkpoint: Some(checkpoint), scripted: None }),
            predictions: None,
            harness: template.harness.clone(),
            sampling: template.sampling.clone(),
            limits: template.limits.clone(),
            sandbox: template.sandbox.clone(),
            parallelism: template.parallelism,
            retry: template.retry.clone(),
            baseline_refs: baselines.iter().map(baseline).collect(),
            artifacts: spec.artifacts.clone(),
            queue: spec.queue.clone(),
            suspend: false,
        };
        resources::child::object(cx.owner, Kind::Benchmark, &name, &benchmark)
    })?;
    of_child(cx, Kind::Benchmark, &name, found, ObjectKeys::report)
}

fn report(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &AlignmentRunSpec,
    valid: &ValidRun,
    left: &Left,
) -> Result<State, NoDecision> {
    if let Some(state) = done(cx, cx.owner.keys.clone(), ObjectKeys::report)? {
        return Ok(state);
    }
    let Some(forest) = left.get(name::FOREST) else { return Ok(State::Waiting) };
    let mut trained = Vec::new();
    let mut benchmarks = Vec::new();
    for step in steps::planned(spec) {
        let Some(keys) = left.get(&step.name) else { continue };
        match step.task {
            Task::Sft | Task::Dpo => trained.push(NamedKeys { name: step.name, keys: keys.clone() }),
            Task::Benchmark { template, model } => {
                let Some(template) = spec.benchmarks.get(template) else { continue };
                let (benchmark, model) = (template.name.clone(), model.to_owned());
                benchmarks.push(MeasuredModel { benchmark, model, keys: keys.clone() });
            }
            Task::Rollout | Task::Forest | Task::Report => {}
        }
    }
    let gate = spec.promotion.as_ref().zip(valid.p_value_max);
    let config = WorkerConfig::Report(Report::Alignment(AlignmentReport {
        keys: cx.owner.keys.clone(),
        name: cx.owner.name.clone(),
        forest: forest.clone(),
        steps: trained,
        benchmarks,
        promotion: gate.map(|(promotion, max_p_value)| PromotionGate {
            benchmark: promotion.benchmark.clone(),
            max_p_value,
        }),
    }));
    let program = Program::Report;
    let rounds = WorkerSpec { stage: program.name(), marker: 0, rounds_max: stand::WORKER_ROUNDS_MAX };
    let worker = round::worker(cx, draft, rounds, |number| {
        worker::job(cx.owner, cx.installation, program, &config, &spec.queue, number)
    })?;
    Ok(match stand::obstacle(&worker, "the report worker", REPORT_REMEDY) {
        Some(obstacle) => State::Stopped(obstacle),
        None => State::Running("writing the report".into()),
    })
}
