//! RolloutCampaign: work is frozen, then driven within parallelism and budget until its set is closed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealign_crds::condition::{kind, reason};
use sealign_crds::rollout_campaign::OnBudget;
use sealign_crds::task_set::TaskSource;
use sealign_crds::{RolloutCampaignSpec, RolloutCampaignStatus};
use sealign_manifest::group::{ClosedSet, PlanManifest};
use sealign_manifest::{Digest, ObjectKeys};

use crate::command::Step;
use crate::config::{self, ResolvePlan, Serve, WorkerConfig};
use crate::context::{Context, Draft};
use crate::policies::reference::{self, Obstacle};
use crate::policies::throughput;
use crate::resources::model_server;
use crate::resources::sandbox::task_root;
use crate::resources::worker::{self, Program};
use crate::round::{self, Worker, WorkerSpec};
use crate::snapshot::{NoDecision, Query};
use crate::work::{self, Driven, Work};
use crate::{Kind, names, stand, validate};

/// What resumes the workers of a campaign.
const REMEDY: &str = "raise spec.retry.maxRounds or delete that Job to go on";
/// Requests that our own server decodes together at most.
const SERVER_BATCH: i32 = 16;

/// Decides about a campaign.
pub fn step(cx: Context<'_>) -> Result<Step, NoDecision> {
    let before: RolloutCampaignStatus = stand::status(cx);
    let mut status = before.clone();
    let mut draft = Draft::default();
    let admitted = stand::spec::<RolloutCampaignSpec>(cx).and_then(|spec| {
        stand::admitted(cx, validate::campaign("spec", &spec))?;
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
    status: &mut RolloutCampaignStatus,
    spec: &RolloutCampaignSpec,
) -> Result<(), NoDecision> {
    let keys = &cx.owner.keys;
    status.artifacts = Some(keys.prefix().to_owned());
    // Two waves of reads instead of one after the other: Jobs before what the store says of their work.
    cx.snapshot
        .need([Query::Children(Kind::Job), Query::Object(Kind::TaskSet, spec.task_set_ref.name.clone())])?;
    cx.snapshot.need(work::documents(keys))?;
    if let Some(closed) = cx.snapshot.document::<ClosedSet>(&keys.closed(), "a closed set")? {
        return finish(cx, draft, status, &closed);
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
    status.start_time.get_or_insert(Time(cx.now));
    let Some(plan) = cx.snapshot.document::<PlanManifest>(&keys.plan(), "a plan")? else {
        return resolve(cx, draft, spec, task_keys);
    };
    status.attempts = i64::try_from(plan.item_count).ok();
    let source = tasks.data.pointer("/spec/source").cloned().unwrap_or_default();
    let root = serde_json::from_value::<TaskSource>(source).map_or("/testbed", |source| task_root(&source));
    drive(cx, draft, status, spec, &plan, task_keys, root)
}

fn resolve(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &RolloutCampaignSpec,
    task_keys: ObjectKeys,
) -> Result<(), NoDecision> {
    let config = WorkerConfig::ResolvePlan(ResolvePlan {
        keys: cx.owner.keys.clone(),
        work: config::Work::Campaign(spec.clone()),
        task_keys,
    });
    let program = Program::Resolve;
    let rounds = WorkerSpec { stage: program.name(), marker: 0, rounds_max: rounds_max(spec) };
    let worker = round::worker(cx, draft, rounds, |number| {
        worker::job(cx.owner, cx.installation, program, &config, &spec.queue, number)
    })?;
    match stand::obstacle(&worker, "the resolver", REMEDY) {
        Some(obstacle) => stand::blocked(cx, draft, obstacle),
        None => draft.claim_work(None, reason::RUNNING, "freezing the plan"),
    }
    Ok(())
}

fn rounds_max(spec: &RolloutCampaignSpec) -> u32 {
    u32::try_from(spec.retry.max_rounds).unwrap_or(1)
}

fn drive(
    cx: Context<'_>,
    draft: &mut Draft,
    status: &mut RolloutCampaignStatus,
    spec: &RolloutCampaignSpec,
    plan: &PlanManifest,
    task_keys: ObjectKeys,
    root: &'static str,
) -> Result<(), NoDecision> {
    let is_budget_spent = budget(cx, draft, spec)?;
    let work = Work {
        plan,
        work: config::Work::Campaign(spec.clone()),
        task_keys,
        root,
        parallelism: u32::try_from(spec.parallelism).unwrap_or(1),
        rounds_max: rounds_max(spec),
        sandbox: &spec.sandbox,
        wall_seconds: i64::from(spec.limits.wall_seconds),
        queue: &spec.queue,
        is_budget_spent,
    };
    let marker = work::progress(cx)?.rollouts;
    let servers = servers(cx, draft, spec, marker)?;
    let driven = work::drive(cx, draft, &work)?;
    figures(cx, status, plan, &driven);
    if matches!(driven.runner, Worker::Rejected(_)) {
        draft.commands.clear();
        stand::delete_live_jobs(cx, draft)?;
    }
    let waits = spec.budget.as_ref().is_some_and(|budget| budget.on_budget == OnBudget::Wait);
    let idle = is_budget_spent && waits && driven.live_jobs == 0;
    match stand::obstacle(&driven.runner, "the runner", REMEDY).or(servers).or_else(|| stuck(&driven)) {
        Some(obstacle) => stand::blocked(cx, draft, obstacle),
        None if idle => {
            draft.claim_work(
                None,
                reason::BUDGET_EXHAUSTED,
                "the budget is spent: raise spec.budget.tokens to go on",
            );
        }
        None => draft.claim_work(None, reason::RUNNING, driven.sentence(plan.item_count)),
    }
    Ok(())
}

fn stuck(driven: &Driven) -> Option<Obstacle> {
    (!driven.stuck.is_empty()).then(|| Obstacle {
        succeeded: None,
        reason: reason::NO_PROGRESS,
        message: format!(
            "groups without a new record: {}; other groups go on. Read the logs of their Jobs, then {REMEDY}",
            driven.stuck.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
        ),
    })
}

/// Whether the budget of the current amount is spent; says so in a condition where there is a budget.
fn budget(cx: Context<'_>, draft: &mut Draft, spec: &RolloutCampaignSpec) -> Result<bool, NoDecision> {
    let Some(budget) = &spec.budget else { return Ok(false) };
    let amount = u64::try_from(budget.tokens).unwrap_or(0);
    let is_spent = cx.snapshot.exists(&cx.owner.keys.budget(amount))?;
    let (reason, message) = if is_spent {
        let message = match budget.on_budget {
            OnBudget::Wait => "no new attempts: raise spec.budget.tokens to go on",
            OnBudget::Finish => "attempts that are open are closed as not run",
        };
        (reason::BUDGET_EXHAUSTED, format!("{amount} tokens are spent; {message}"))
    } else {
        (reason::ACTIVE, String::new())
    };
    draft.claim(kind::BUDGET_EXHAUSTED, Some(is_spent), reason, message);
    Ok(is_spent)
}

/// Keeps a server for every policy that is a checkpoint.
fn servers(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &RolloutCampaignSpec,
    marker: u64,
) -> Result<Option<Obstacle>, NoDecision> {
    let mut first = None;
    for (index, policy) in spec.policies.iter().enumerate() {
        let Some(checkpoint) = &policy.model.checkpoint else { continue };
        // Validation has read it once already; a refusal here would have ended the decision before.
        let field = format!("spec.policies[{index}].model.checkpoint");
        let Ok(model) = validate::checkpoint(&field, checkpoint) else { continue };
        let serve = Serve { model, context_tokens: spec.limits.context_tokens, max_batch: SERVER_BATCH };
        let stage = model_server::stage(&policy.name);
        let rounds = WorkerSpec { stage: &stage, marker, rounds_max: rounds_max(spec) };
        let worker = round::worker(cx, draft, rounds, |number| {
            let serving = &checkpoint.serving;
            model_server::job(cx.owner, cx.installation, &policy.name, &serve, serving, &spec.queue, number)
        })?;
        let name = format!("the model server of policy `{}`", policy.name);
        first = first.or(stand::obstacle(&worker, &name, REMEDY));
    }
    Ok(first)
}

fn figures(cx: Context<'_>, status: &mut RolloutCampaignStatus, plan: &PlanManifest, driven: &Driven) {
    let progress = &driven.progress;
    status.recorded = i64::try_from(progress.rollouts).ok();
    status.graded = i64::try_from(progress.gradings).ok();
    status.tokens = i64::try_from(progress.prompt_tokens.saturating_add(progress.completion_tokens)).ok();
    status.outcomes = outcomes(&progress.outcomes);
    let start = status.start_time.as_ref().map_or(cx.now, |Time(time)| *time);
    let estimate = matches!(driven.runner, Worker::Live(_))
        .then(|| throughput::estimate(start, cx.now, progress.rollouts, plan.item_count))
        .flatten();
    (status.attempts_per_minute, status.eta_seconds) =
        estimate.map_or((None, None), |(r, s)| (Some(r), Some(s)));
}

fn outcomes(
    counts: &std::collections::BTreeMap<sealign_manifest::record::Outcome, u64>,
) -> std::collections::BTreeMap<String, i64> {
    counts
        .iter()
        .map(|(outcome, count)| (format!("{outcome:?}"), i64::try_from(*count).unwrap_or(i64::MAX)))
        .collect()
}

fn finish(
    cx: Context<'_>,
    draft: &mut Draft,
    status: &mut RolloutCampaignStatus,
    closed: &ClosedSet,
) -> Result<(), NoDecision> {
    stand::delete_live_jobs(cx, draft)?;
    let attempts: u64 = closed.outcomes.values().sum();
    let digest = cx.snapshot.bytes(&cx.owner.keys.closed())?.map(|bytes| Digest::of_bytes(bytes));
    status.attempts = i64::try_from(attempts).ok();
    status.recorded = status.attempts;
    status.graded = i64::try_from(closed.gradings).ok();
    status.tokens = i64::try_from(closed.prompt_tokens.saturating_add(closed.completion_tokens)).ok();
    status.outcomes = outcomes(&closed.outcomes);
    status.eta_seconds = None;
    status.digest = digest.map(|digest| digest.to_string());
    status.start_time.get_or_insert(Time(cx.now));
    status.completion_time.get_or_insert(Time(cx.now));
    draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
    draft.claim_work(
        Some(true),
        reason::COMPLETED,
        format!("{attempts} attempts and {} gradings recorded", closed.gradings),
    );
    Ok(())
}
