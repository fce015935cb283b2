//! TaskSet: rows are read once, then the tests themselves are graded on gold and empty patches.

use sealign_crds::condition::{kind, reason};
use sealign_crds::shared::QueueSpec;
use sealign_crds::{TaskSetSpec, TaskSetStatus};
use sealign_manifest::group::{HealthManifest, PlanManifest, TaskListManifest};

use crate::command::Step;
use crate::config::{self, ResolveTasks, WorkerConfig};
use crate::context::{Context, Draft};
use crate::policies::reference::Obstacle;
use crate::policies::throughput::decimal;
use crate::resources::sandbox::task_root;
use crate::resources::worker::{self, Program};
use crate::round::{self, Worker, WorkerSpec};
use crate::snapshot::{NoDecision, Query};
use crate::work::{self, Work};
use crate::{Kind, stand, validate};

/// What resumes a worker of a TaskSet, which has no retry settings.
const REMEDY: &str = "delete that Job to try again";

/// Decides about a TaskSet.
pub fn step(cx: Context<'_>) -> Result<Step, NoDecision> {
    let before: TaskSetStatus = stand::status(cx);
    let mut status = before.clone();
    let mut draft = Draft::default();
    let admitted = stand::spec::<TaskSetSpec>(cx).and_then(|spec| {
        stand::admitted(cx, validate::task_set(&spec))?;
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
    status: &mut TaskSetStatus,
    spec: &TaskSetSpec,
) -> Result<(), NoDecision> {
    let keys = &cx.owner.keys;
    status.artifacts = Some(keys.prefix().to_owned());
    cx.snapshot.need([Query::Children(Kind::Job)])?;
    cx.snapshot.need([
        Query::Document(keys.tasks()),
        Query::Document(keys.plan()),
        Query::Document(keys.health()),
    ])?;
    let is_checked = spec.health.repeats > 0;
    let tasks = cx.snapshot.document::<TaskListManifest>(&keys.tasks(), "a task list")?;
    let plan = if is_checked && tasks.is_some() {
        cx.snapshot.document::<PlanManifest>(&keys.plan(), "a plan")?
    } else {
        None
    };
    let Some(tasks) = tasks.filter(|_| plan.is_some() || !is_checked) else {
        return if stand::paused(cx, draft)? { Ok(()) } else { resolve(cx, draft, spec) };
    };
    let digest = tasks.digest().map_err(|source| NoDecision::Encode { what: "a task list", source })?;
    let count = tasks.tasks.len() as u64;
    status.task_count = i64::try_from(count).ok();
    status.digest = Some(digest.to_string());
    let Some(plan) = plan else {
        status.healthy = status.task_count;
        status.quarantined = Some(0);
        stand::delete_live_jobs(cx, draft)?;
        draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
        draft.claim(
            kind::READY,
            Some(true),
            reason::COMPLETED,
            format!("{count} tasks, their tests unchecked"),
        );
        return Ok(());
    };
    match cx.snapshot.document::<HealthManifest>(&keys.health(), "a health manifest")? {
        Some(health) => {
            stand::delete_live_jobs(cx, draft)?;
            draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
            judge(draft, status, spec, count, &health);
            Ok(())
        }
        None if stand::paused(cx, draft)? => Ok(()),
        None => check(cx, draft, spec, &plan, count),
    }
}

fn resolve(cx: Context<'_>, draft: &mut Draft, spec: &TaskSetSpec) -> Result<(), NoDecision> {
    let config = WorkerConfig::ResolveTasks(ResolveTasks { keys: cx.owner.keys.clone(), spec: spec.clone() });
    let program = Program::Resolve;
    let rounds = WorkerSpec { stage: program.name(), marker: 0, rounds_max: stand::WORKER_ROUNDS_MAX };
    let worker = round::worker(cx, draft, rounds, |number| {
        worker::job(cx.owner, cx.installation, program, &config, &QueueSpec::default(), number)
    })?;
    match stand::obstacle(&worker, "the resolver", REMEDY) {
        Some(obstacle) => stand::blocked(cx, draft, obstacle),
        None => draft.claim(kind::READY, Some(false), reason::RUNNING, "reading the rows"),
    }
    Ok(())
}

fn check(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: &TaskSetSpec,
    plan: &PlanManifest,
    count: u64,
) -> Result<(), NoDecision> {
    let queue = QueueSpec::default();
    let work = Work {
        plan,
        work: config::Work::Health(spec.clone()),
        task_keys: cx.owner.keys.clone(),
        root: task_root(&spec.source),
        parallelism: u32::try_from(spec.health.parallelism).unwrap_or(1),
        rounds_max: stand::WORKER_ROUNDS_MAX,
        sandbox: &spec.sandbox,
        wall_seconds: 0,
        queue: &queue,
        is_budget_spent: false,
    };
    let driven = work::drive(cx, draft, &work)?;
    let stuck = (!driven.stuck.is_empty()).then(|| Obstacle {
        succeeded: None,
        reason: reason::NO_PROGRESS,
        message: format!("groups without a new verdict: {}; {REMEDY}", driven.stuck.join(", ")),
    });
    if matches!(driven.runner, Worker::Rejected(_)) {
        draft.commands.clear();
        stand::delete_live_jobs(cx, draft)?;
    }
    if let Some(obstacle) = stand::obstacle(&driven.runner, "the runner", REMEDY).or(stuck) {
        stand::blocked(cx, draft, obstacle);
    } else {
        let done = driven.progress.gradings;
        let message = format!("{done} gradings of the gold and the empty patch of {count} tasks");
        draft.claim(kind::READY, Some(false), reason::RUNNING, message);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "gradings stay far below 2^53")]
fn judge(
    draft: &mut Draft,
    status: &mut TaskSetStatus,
    spec: &TaskSetSpec,
    count: u64,
    health: &HealthManifest,
) {
    let quarantined = health.quarantined.len() as u64;
    status.quarantined = i64::try_from(quarantined).ok();
    status.healthy = i64::try_from(count.saturating_sub(quarantined)).ok();
    status.flake_rate = decimal(health.flaky as f64 / (health.gradings.max(1)) as f64, 4);
    let allowed = u64::try_from(spec.health.max_quarantined_percent).unwrap_or(0);
    let all = count > 0 && quarantined == count;
    if all || quarantined.saturating_mul(100) > count.saturating_mul(allowed) {
        let message = format!(
            "{quarantined} of {count} tasks have tests that cannot be trusted, more than the {allowed} % of \
             spec.health.maxQuarantinedPercent: see health.json for the reasons, or raise it"
        );
        draft.claim(kind::READY, Some(false), reason::INPUT_REJECTED, message);
    } else {
        let healthy = count.saturating_sub(quarantined);
        draft.claim(
            kind::READY,
            Some(true),
            reason::COMPLETED,
            format!("{healthy} healthy tasks, {quarantined} put aside"),
        );
    }
}
