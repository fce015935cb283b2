//! AlignmentRun: a flat, named list of steps, each done when its result exists.

pub mod steps;
mod work;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealign_crds::alignment_run::{BenchmarkResult, StepStatus};
use sealign_crds::condition::{kind, reason};
use sealign_crds::{AlignmentRunSpec, AlignmentRunStatus};
use sealign_manifest::ObjectKeys;
use sealign_manifest::train::TrainProgress;
use serde_json::Value;

use crate::command::Step;
use crate::context::{Context, Draft};
use crate::policies::reference::Obstacle;
use crate::policies::suspension;
use crate::policies::throughput::decimal;
use crate::snapshot::{NoDecision, Query};
use crate::validate::{self, ValidRun};
use crate::{Kind, stand};

use steps::{PlannedStep, Task};

/// Characters of `status.stage`.
const STAGE_MAX: usize = 500;

/// Where a step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Something it needs is not done.
    Waiting,
    /// Under way; a sentence on how.
    Running(String),
    /// Its result exists: digest, where it has one, and keys of what it left.
    Done(Option<String>, ObjectKeys),
    /// It cannot go on (`succeeded` is unknown) or has failed (false).
    Stopped(Obstacle),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Running(_) => "Running",
            Self::Done(..) => "Done",
            Self::Stopped(Obstacle { succeeded: Some(false), .. }) => "Failed",
            Self::Stopped(_) => "Blocked",
        }
    }
}

/// What steps that are done have left, by step name.
pub type Left = BTreeMap<String, ObjectKeys>;

/// Decides about a run.
pub fn step(cx: Context<'_>) -> Result<Step, NoDecision> {
    let before: AlignmentRunStatus = stand::status(cx);
    let mut status = before.clone();
    let mut draft = Draft::default();
    let read = stand::spec::<AlignmentRunSpec>(cx).and_then(|spec| {
        let valid = validate::alignment_run(&spec);
        stand::admitted(cx, valid.clone().map(|_| ()))?;
        Ok((spec, valid))
    });
    match read {
        Ok((spec, Ok(valid))) => decide(cx, &mut draft, &mut status, &spec, &valid)?,
        Ok((_, Err(_))) => {}
        Err(obstacle) => stand::blocked(cx, &mut draft, obstacle),
    }
    stand::decided(cx, draft, &before.conditions, status, |status, generation, conditions| {
        status.observed_generation = generation;
        status.conditions = conditions;
    })
}

fn decide(
    cx: Context<'_>,
    draft: &mut Draft,
    status: &mut AlignmentRunStatus,
    spec: &AlignmentRunSpec,
    valid: &ValidRun,
) -> Result<(), NoDecision> {
    status.artifacts = Some(cx.owner.keys.prefix().to_owned());
    cx.snapshot.need([Query::Children(Kind::Job)])?;
    let is_paused = suspension::suspended_by(cx)?.is_some();
    if !is_paused {
        status.start_time.get_or_insert(Time(cx.now));
    }
    let planned = steps::planned(spec);
    let stands = evaluate(cx, draft, spec, valid, &planned, is_paused)?;
    status.steps = planned
        .iter()
        .zip(&stands)
        .map(|(step, state)| StepStatus {
            name: step.name.clone(),
            state: state.name().to_owned(),
            digest: match state {
                State::Done(digest, _) => digest.clone(),
                _ => None,
            },
        })
        .collect();
    let running: Vec<&str> = planned
        .iter()
        .zip(&stands)
        .filter(|(_, state)| matches!(state, State::Running(_)))
        .map(|(step, _)| step.name.as_str())
        .collect();
    status.stage = (!running.is_empty()).then(|| running.join(",").chars().take(STAGE_MAX).collect());
    training_figures(cx, status, &planned, &stands)?;
    results(cx, status, spec, &planned);
    conclude(cx, draft, status, spec, &planned, &stands, is_paused)
}

/// Looks at every step in order. With a pause, and after a failure, what is not under way is not started.
fn evaluate(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &AlignmentRunSpec,
    valid: &ValidRun,
    planned: &[PlannedStep],
    is_paused: bool,
) -> Result<Vec<State>, NoDecision> {
    let mut left = Left::new();
    let mut states = Vec::new();
    let mut has_failed = false;
    for step in planned {
        let is_reachable = step.needs.iter().all(|need| left.contains_key(need));
        let is_turn = !cx.installation.is_serial || left.len() == states.len();
        let state = if is_reachable && is_turn {
            let mut own = Draft::default();
            let state = work::state(cx, &mut own, spec, valid, step, &left)?;
            if !is_paused && !has_failed {
                draft.commands.extend(own.commands);
                if let Some(time) = own.wake {
                    draft.wake_at(time);
                }
            }
            state
        } else {
            State::Waiting
        };
        has_failed |= matches!(&state, State::Stopped(Obstacle { succeeded: Some(false), .. }));
        if let State::Done(_, keys) = &state {
            left.insert(step.name.clone(), keys.clone());
        }
        let is_idle = (is_paused || has_failed) && matches!(state, State::Running(_));
        states.push(if is_idle { State::Waiting } else { state });
    }
    Ok(states)
}

fn training_figures(
    cx: Context<'_>,
    status: &mut AlignmentRunStatus,
    planned: &[PlannedStep],
    stands: &[State],
) -> Result<(), NoDecision> {
    let training = planned.iter().zip(stands).find(|(step, state)| {
        matches!(step.task, Task::Sft | Task::Dpo) && matches!(state, State::Running(_))
    });
    let Some((step, _)) = training else {
        (status.progress, status.tokens_per_second) = (None, None);
        return Ok(());
    };
    let key = cx.owner.keys.step(&step.name).progress();
    let bytes = cx.snapshot.bytes(&key)?;
    // A hint: unreadable is as good as absent.
    let Some(progress) = bytes.and_then(|bytes| serde_json::from_slice::<TrainProgress>(bytes).ok()) else {
        return Ok(());
    };
    status.progress = (progress.steps > 0).then(|| format!("{}/{}", progress.step, progress.steps));
    status.loss = progress.loss.and_then(|value| decimal(value, 4)).or_else(|| status.loss.take());
    status.reward_margin = progress.reward_margin.and_then(|value| decimal(value, 4));
    status.tokens_per_second = progress.tokens_per_second.and_then(|value| decimal(value, 0));
    Ok(())
}

/// Figures of the benchmarks that are there, as their statuses show them.
fn results(
    cx: Context<'_>,
    status: &mut AlignmentRunStatus,
    spec: &AlignmentRunSpec,
    planned: &[PlannedStep],
) {
    let mut results = Vec::new();
    for step in planned {
        let Task::Benchmark { template, model } = &step.task else { continue };
        let Some(template) = spec.benchmarks.get(*template) else { continue };
        let name = steps::benchmark_name(&cx.owner.name, &template.name, model);
        // Only what the decision has looked at already: a benchmark whose turn has not come has no figures.
        let Ok(Some(object)) = cx.snapshot.object(Kind::Benchmark, &name) else { continue };
        let figure = |name: &str| object.data.pointer(&format!("/status/{name}")).and_then(Value::as_i64);
        if let (Some(resolved), Some(total)) = (figure("resolved"), figure("total")) {
            let benchmark = template.name.clone();
            results.push(BenchmarkResult { benchmark, model: (*model).to_owned(), resolved, total });
        }
    }
    status.results = results;
}

fn conclude(
    cx: Context<'_>,
    draft: &mut Draft,
    status: &mut AlignmentRunStatus,
    spec: &AlignmentRunSpec,
    planned: &[PlannedStep],
    stands: &[State],
    is_paused: bool,
) -> Result<(), NoDecision> {
    let done = stands.iter().filter(|state| matches!(state, State::Done(..))).count();
    status.model = trained_model(planned, stands);
    if done == planned.len() {
        return complete(cx, draft, status, spec);
    }
    if is_paused {
        draft.commands.clear();
        draft.wake = None;
        stand::paused(cx, draft)?;
        return Ok(());
    }
    draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
    let stopped = |is_failed: bool| {
        planned.iter().zip(stands).find_map(|(step, state)| match state {
            State::Stopped(obstacle) if (obstacle.succeeded == Some(false)) == is_failed => {
                Some((&step.name, obstacle))
            }
            _ => None,
        })
    };
    if let Some((name, obstacle)) = stopped(true) {
        for job in cx.jobs()?.iter().filter(|job| !job.is_over) {
            draft.delete_job(job);
        }
        draft.claim_work(Some(false), obstacle.reason, format!("step {name}: {}", obstacle.message));
    } else if let Some((name, obstacle)) = stopped(false) {
        draft.claim_work(None, obstacle.reason, format!("step {name}: {}", obstacle.message));
    } else {
        let running = planned.iter().zip(stands).filter_map(|(step, state)| match state {
            State::Running(how) => Some(format!("{} ({how})", step.name)),
            _ => None,
        });
        let running = running.collect::<Vec<_>>().join(", ");
        draft.claim_work(None, reason::RUNNING, format!("{done} of {} steps done; {running}", planned.len()));
    }
    Ok(())
}

/// Key of the manifest of the last model that was trained.
fn trained_model(planned: &[PlannedStep], stands: &[State]) -> Option<String> {
    planned.iter().zip(stands).rev().find_map(|(step, state)| match (&step.task, state) {
        (Task::Sft | Task::Dpo, State::Done(_, keys)) => Some(keys.model()),
        _ => None,
    })
}

fn complete(
    cx: Context<'_>,
    draft: &mut Draft,
    status: &mut AlignmentRunStatus,
    spec: &AlignmentRunSpec,
) -> Result<(), NoDecision> {
    stand::delete_live_jobs(cx, draft)?;
    status.report = Some(cx.owner.keys.join("report.html"));
    status.completion_time.get_or_insert(Time(cx.now));
    if let Some(promotion) = &spec.promotion {
        let is_won = cx.snapshot.exists(&cx.owner.keys.promoted())?;
        let name = &promotion.benchmark;
        let (reason, message) = if is_won {
            (reason::WON, format!("better than the base on benchmark `{name}`"))
        } else {
            (
                reason::NOT_WON,
                format!("not better than the base on benchmark `{name}` by the test of spec.promotion"),
            )
        };
        draft.claim(kind::PROMOTED, Some(is_won), reason, message);
    }
    draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
    draft.claim_work(Some(true), reason::COMPLETED, format!("{} steps done", status.steps.len()));
    Ok(())
}
