//! Benchmark: a model is measured by a campaign of its own, a file of predictions by gradings of its own; then a report.

use sealign_crds::benchmark::Comparison;
use sealign_crds::condition::{kind, reason};
use sealign_crds::rollout_campaign::{Grading, Policy};
use sealign_crds::task_set::TaskSource;
use sealign_crds::{BenchmarkSpec, BenchmarkStatus, Decimal, ModelSpec, RolloutCampaignSpec};
use sealign_manifest::group::PlanManifest;
use sealign_manifest::{Digest, ObjectKeys};
use serde::Deserialize;

use crate::command::Step;
use crate::config::{self, BenchmarkReport, NamedKeys, Report, ResolvePlan, WorkerConfig};
use crate::context::{Context, Draft};
use crate::policies::child::{self, Child};
use crate::policies::reference::{self, Obstacle};
use crate::policies::throughput::decimal;
use crate::resources::sandbox::task_root;
use crate::resources::worker::{self, Program};
use crate::round::{self, Worker, WorkerSpec};
use crate::snapshot::{NoDecision, Query};
use crate::work::{self, Work};
use crate::{Kind, names, resources, stand, validate};

/// What resumes the workers of a benchmark.
const REMEDY: &str = "raise spec.retry.maxRounds or delete that Job to go on";
/// Name of the one policy of a benchmark's campaign.
pub const POLICY: &str = "model";

/// What a benchmark's `report.json` holds at least; the report worker writes more.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// Tasks of the set.
    pub total: i64,
    /// Tasks whose tests pass.
    pub resolved: i64,
    /// Attempts that left no patch.
    pub empty: Option<i64>,
    /// Attempts with three equal actions in a row.
    pub stuck: Option<i64>,
    /// Attempts that cannot be a solution.
    pub invalid: Option<i64>,
    /// Attempts that ran into their own limits.
    pub limit: Option<i64>,
    /// Attempts that infrastructure failed.
    pub infra: Option<i64>,
    /// Resolved over total, in per cent.
    pub resolved_percent: Option<f64>,
    /// Its 95 % Wilson interval, in per cent.
    pub resolved_interval: Vec<f64>,
    /// Against baselines.
    pub comparisons: Vec<PairedTest>,
}

/// One comparison of a `report.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PairedTest {
    /// Name of the baseline.
    pub baseline: String,
    /// Tasks resolved here and not there.
    pub wins: i64,
    /// Tasks resolved there and not here.
    pub losses: i64,
    /// Two-sided exact McNemar test.
    pub p_value: f64,
}

/// Decides about a benchmark.
pub fn step(cx: Context<'_>) -> Result<Step, NoDecision> {
    let before: BenchmarkStatus = stand::status(cx);
    let mut status = before.clone();
    let mut draft = Draft::default();
    let admitted = stand::spec::<BenchmarkSpec>(cx).and_then(|spec| {
        stand::admitted(cx, validate::benchmark(&spec, &cx.owner.name))?;
        Ok(spec)
    });
    match admitted {
        Ok(spec) => decide(cx, &mut draft, &mut status, &spec)?,
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
    status: &mut BenchmarkStatus,
    spec: &BenchmarkSpec,
) -> Result<(), NoDecision> {
    let keys = &cx.owner.keys;
    status.artifacts = Some(keys.prefix().to_owned());
    cx.snapshot.need([Query::Children(Kind::Job)])?;
    if let Some(figures) = cx.snapshot.document::<Figures>(&keys.report(), "a benchmark report")? {
        stand::delete_live_jobs(cx, draft)?;
        let digest = cx.snapshot.bytes(&keys.report())?.map(|bytes| Digest::of_bytes(bytes));
        let message = format!("{} of {} tasks resolved", figures.resolved, figures.total);
        status.digest = digest.map(|digest| digest.to_string());
        tell(status, figures);
        draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
        draft.claim_work(Some(true), reason::COMPLETED, message);
        return Ok(());
    }
    if stand::paused(cx, draft)? {
        return Ok(());
    }
    let name = &spec.task_set_ref.name;
    let tasks = match reference::resolve(cx, Kind::TaskSet, "spec.taskSetRef", name)? {
        Ok(tasks) => tasks,
        Err(obstacle) => {
            stand::blocked(cx, draft, obstacle);
            return Ok(());
        }
    };
    let task_keys = names::keys(Kind::TaskSet, tasks);
    let measured = if let Some(model) = &spec.model {
        of_model(cx, draft, spec, model)?
    } else {
        let source = tasks.data.pointer("/spec/source").cloned().unwrap_or_default();
        let root =
            serde_json::from_value::<TaskSource>(source).map_or("/testbed", |source| task_root(&source));
        of_predictions(cx, draft, spec, &task_keys, root)?
    };
    match measured {
        Measured::Closed(campaign) => report(cx, draft, spec, campaign, task_keys),
        Measured::Open(obstacle) => {
            stand::blocked(cx, draft, obstacle);
            Ok(())
        }
    }
}

/// How far the attempts and gradings are.
enum Measured {
    /// All have records below these keys.
    Closed(ObjectKeys),
    /// Not all; why, as a condition.
    Open(Obstacle),
}

fn running(message: impl Into<String>) -> Obstacle {
    Obstacle { succeeded: None, reason: reason::RUNNING, message: message.into() }
}

fn of_model(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &BenchmarkSpec,
    model: &ModelSpec,
) -> Result<Measured, NoDecision> {
    let name = &cx.owner.name;
    let kind = Kind::RolloutCampaign;
    let found = child::ensure(cx, draft, kind, name, || {
        resources::child::object(cx.owner, kind, name, &campaign(spec, model))
    })?;
    let object = match found {
        Child::There(object) => object,
        Child::Pending => return Ok(Measured::Open(running("starting the campaign"))),
        Child::Taken(obstacle) => return Ok(Measured::Open(obstacle)),
    };
    let keys = names::keys(kind, object);
    if cx.snapshot.exists(&keys.closed())? {
        return Ok(Measured::Closed(keys));
    }
    let seen = reference::condition(object, kind::SUCCEEDED);
    let message = format!("RolloutCampaign `{name}`: {}", seen.message);
    Ok(Measured::Open(match seen.status {
        Some(false) => Obstacle { succeeded: Some(false), reason: reason::REFERENCE_FAILED, message },
        _ if seen.reason == reason::NO_PROGRESS => {
            Obstacle { succeeded: None, reason: reason::NO_PROGRESS, message }
        }
        _ => running(message),
    }))
}

/// One greedy attempt at each task.
fn campaign(spec: &BenchmarkSpec, model: &ModelSpec) -> RolloutCampaignSpec {
    let BenchmarkSpec {
        task_set_ref,
        model: _,
        predictions: _,
        harness,
        sampling,
        limits,
        sandbox,
        parallelism,
        retry,
        baseline_refs: _,
        artifacts,
        queue,
        suspend: _,
    } = spec;
    let policy = Policy { name: POLICY.into(), model: model.clone(), weight: 1, sampling: sampling.clone() };
    RolloutCampaignSpec {
        task_set_ref: task_set_ref.clone(),
        samples_per_task: 1,
        policies: vec![policy],
        harness: harness.clone(),
        grading: Grading::Tests,
        limits: limits.clone(),
        seed: 0,
        sandbox: sandbox.clone(),
        parallelism: *parallelism,
        budget: None,
        retry: retry.clone(),
        artifacts: artifacts.clone(),
        queue: queue.clone(),
        // The campaign looks up to its owner.
        suspend: false,
    }
}

fn of_predictions(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &BenchmarkSpec,
    task_keys: &ObjectKeys,
    root: &'static str,
) -> Result<Measured, NoDecision> {
    let keys = &cx.owner.keys;
    if cx.snapshot.exists(&keys.closed())? {
        return Ok(Measured::Closed(keys.clone()));
    }
    let rounds_max = u32::try_from(spec.retry.max_rounds).unwrap_or(1);
    let Some(plan) = cx.snapshot.document::<PlanManifest>(&keys.plan(), "a plan")? else {
        let config = WorkerConfig::ResolvePlan(ResolvePlan {
            keys: keys.clone(),
            work: config::Work::Predictions(spec.clone()),
            task_keys: task_keys.clone(),
        });
        let program = Program::Resolve;
        let rounds = WorkerSpec { stage: program.name(), marker: 0, rounds_max };
        let worker = round::worker(cx, draft, rounds, |number| {
            worker::job(cx.owner, cx.installation, program, &config, &spec.queue, number)
        })?;
        let obstacle = stand::obstacle(&worker, "the resolver", REMEDY);
        return Ok(Measured::Open(obstacle.unwrap_or_else(|| running("reading the predictions"))));
    };
    let work = Work {
        plan: &plan,
        work: config::Work::Predictions(spec.clone()),
        task_keys: task_keys.clone(),
        root,
        parallelism: u32::try_from(spec.parallelism).unwrap_or(1),
        rounds_max,
        sandbox: &spec.sandbox,
        wall_seconds: i64::from(spec.limits.wall_seconds),
        queue: &spec.queue,
        is_budget_spent: false,
    };
    let driven = work::drive(cx, draft, &work)?;
    if matches!(driven.runner, Worker::Rejected(_)) {
        draft.commands.clear();
        stand::delete_live_jobs(cx, draft)?;
    }
    let stuck = (!driven.stuck.is_empty()).then(|| Obstacle {
        succeeded: None,
        reason: reason::NO_PROGRESS,
        message: format!("groups without a new verdict: {}; {REMEDY}", driven.stuck.join(", ")),
    });
    let obstacle = stand::obstacle(&driven.runner, "the runner", REMEDY).or(stuck);
    Ok(Measured::Open(obstacle.unwrap_or_else(|| running(driven.sentence(plan.item_count)))))
}

fn report(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &BenchmarkSpec,
    campaign: ObjectKeys,
    task_keys: ObjectKeys,
) -> Result<(), NoDecision> {
    let mut baselines = Vec::new();
    for (index, baseline) in spec.baseline_refs.iter().enumerate() {
        let field = format!("spec.baselineRefs[{index}]");
        match reference::resolve(cx, Kind::Benchmark, &field, &baseline.name)? {
            Ok(object) => {
                let keys = names::keys(Kind::Benchmark, object);
                baselines.push(NamedKeys { name: baseline.name.clone(), keys });
            }
            Err(obstacle) => {
                stand::blocked(cx, draft, obstacle);
                return Ok(());
            }
        }
    }
    let config = WorkerConfig::Report(Report::Benchmark(BenchmarkReport {
        keys: cx.owner.keys.clone(),
        name: cx.owner.name.clone(),
        campaign,
        task_keys,
        baselines,
    }));
    let program = Program::Report;
    let rounds_max = u32::try_from(spec.retry.max_rounds).unwrap_or(1);
    let rounds = WorkerSpec { stage: program.name(), marker: 0, rounds_max };
    let worker = round::worker(cx, draft, rounds, |number| {
        worker::job(cx.owner, cx.installation, program, &config, &spec.queue, number)
    })?;
    let obstacle = stand::obstacle(&worker, "the report worker", REMEDY);
    stand::blocked(cx, draft, obstacle.unwrap_or_else(|| running("writing the report")));
    Ok(())
}

fn tell(status: &mut BenchmarkStatus, figures: Figures) {
    let percent = |value: f64| decimal(value, 1);
    status.total = Some(figures.total);
    status.resolved = Some(figures.resolved);
    status.empty = figures.empty;
    status.stuck = figures.stuck;
    status.invalid = figures.invalid;
    status.limit = figures.limit;
    status.infra = figures.infra;
    status.resolved_percent = figures.resolved_percent.and_then(percent);
    status.resolved_interval = figures.resolved_interval.iter().filter_map(|v| percent(*v)).collect();
    let comparison = |test: PairedTest| {
        let p_value = p_value(test.p_value)?;
        Some(Comparison { baseline: test.baseline, wins: test.wins, losses: test.losses, p_value })
    };
    status.comparisons = figures.comparisons.into_iter().filter_map(comparison).collect();
}

/// A probability as a decimal: plain where that shows it, else with an exponent.
fn p_value(value: f64) -> Option<Decimal> {
    if value == 0.0 || value >= 1e-4 {
        decimal(value, 4)
    } else {
        Decimal::parse(&format!("{value:.2e}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_keep_their_digits() {
        assert_eq!(p_value(0.03125).map(|p| p.to_string()).as_deref(), Some("0.0312"));
        assert_eq!(p_value(3.1e-9).map(|p| p.to_string()).as_deref(), Some("3.10e-9"));
        assert_eq!(p_value(f64::NAN), None);
    }
}
