//! Driving a frozen plan to its end: the runner, and a window of sandbox Jobs over its groups.
//!
//! Campaigns, task health and predictions differ in what their plans hold, not in how a plan is driven, so they share this.

use std::collections::BTreeSet;

use sealign_crds::condition::{kind, reason};
use sealign_crds::shared::{QueueSpec, SandboxSpec};
use sealign_manifest::ObjectKeys;
use sealign_manifest::group::{PlanManifest, Progress, RoundMap, WaitingPods};
use sealign_manifest::key::Stage;

use crate::Kind;
use crate::config::{self, Run, WorkerConfig};
use crate::context::{Context, Draft};
use crate::group::{self, Group, GroupRules, Position};
use crate::job::JobView;
use crate::resources::sandbox::SandboxJob;
use crate::resources::worker::Program;
use crate::resources::{sandbox, worker};
use crate::round::{self, Worker, WorkerSpec};
use crate::snapshot::{NoDecision, Query, Unread};
use crate::window::{self, Candidate, Rank};

/// A grading may take this long whatever the limits of its campaign say: tests run twice, once as negative control.
const GRADING_SECONDS_MIN: i64 = 3_600;
/// Groups whose reads are asked for together.
const LOOK_AHEAD: usize = 64;

/// A plan and how it is to be driven.
#[derive(Clone, Debug)]
pub struct Work<'a> {
    /// The plan.
    pub plan: &'a PlanManifest,
    /// What the runner is told.
    pub work: config::Work,
    /// Keys of the TaskSet.
    pub task_keys: ObjectKeys,
    /// The task root within the images.
    pub root: &'static str,
    /// Sandboxes at once.
    pub parallelism: u32,
    /// Barren rounds in a row at most.
    pub rounds_max: u32,
    /// What each sandbox may use.
    pub sandbox: &'a SandboxSpec,
    /// Wall seconds of an attempt.
    pub wall_seconds: i64,
    /// Queue labels.
    pub queue: &'a QueueSpec,
    /// No new rollouts: the budget is spent.
    pub is_budget_spent: bool,
}

/// How the driving stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Driven {
    /// The runner.
    pub runner: Worker,
    /// What it says of itself.
    pub progress: Progress,
    /// Sandbox Jobs that are live.
    pub live_jobs: u32,
    /// Groups that wait for help.
    pub stuck: Vec<String>,
}

impl Driven {
    /// One sentence on what is going on, where nothing is wrong.
    pub fn sentence(&self, items: u64) -> String {
        let Progress { rollouts, gradings, gradings_known, live, blocked, .. } = &self.progress;
        let recorded =
            format!("{rollouts} of {items} attempts and {gradings} of {gradings_known} gradings recorded");
        let at_work = if *live > 0 { format!(", {live} sandboxes at work") } else { String::new() };
        let runner = match &self.runner {
            Worker::Live(job) if job.is_ready && !blocked.is_empty() => {
                format!("; the runner waits: {}", bounded(blocked))
            }
            Worker::Live(job) if job.is_ready => String::new(),
            _ => "; the runner is starting".into(),
        };
        format!("{recorded}{at_work}{runner}")
    }
}

/// Drives `work`. Deletes Jobs of rounds that are behind, keeps the runner and starts what the window admits.
pub fn drive(cx: Context<'_>, draft: &mut Draft, work: &Work<'_>) -> Result<Driven, NoDecision> {
    let jobs = cx.jobs()?;
    let progress = progress(cx)?;
    let runner_config = WorkerConfig::Run(Run {
        keys: cx.owner.keys.clone(),
        owner: cx.owner.object_ref(),
        work: work.work.clone(),
        task_keys: work.task_keys.clone(),
    });
    let spec = WorkerSpec {
        stage: Program::Run.name(),
        marker: progress.rollouts + progress.gradings,
        rounds_max: work.rounds_max,
    };
    let runner = round::worker(cx, draft, spec, |number| {
        worker::job(cx.owner, cx.installation, Program::Run, &runner_config, work.queue, number)
    })?;
    let mut driven = Driven { runner, progress, live_jobs: 0, stuck: Vec::new() };
    if !matches!(driven.runner, Worker::Rejected(_)) {
        groups(cx, draft, work, &jobs, &mut driven)?;
    }
    if matches!(&driven.runner, Worker::Live(job) if job.is_ready) {
        claim_waits(draft, &driven.progress);
    }
    Ok(driven)
}

/// Claims the conditions of pods that do not start. They hold nothing back: other pods may start.
fn claim_waits(draft: &mut Draft, progress: &Progress) {
    let waits = [
        (
            kind::UNSCHEDULABLE,
            &progress.unschedulable,
            "find no node",
            "add nodes, or lower the parallelism or what spec.sandbox asks for",
        ),
        (
            kind::IMAGE_PULL_FAILING,
            &progress.image_pull_failing,
            "cannot pull their image",
            "correct the image of these tasks, or the registry and its pull secret",
        ),
    ];
    for (condition, waiting, what, remedy) in waits {
        if let Some(WaitingPods { pods, detail }) = waiting {
            let message = format!("{pods} pods {what}: {}: {remedy}", bounded(detail));
            draft.claim(condition, Some(true), reason::PODS_WAITING, message);
        }
    }
}

/// What is read of any plan that is driven, whatever its stage.
pub fn documents(keys: &ObjectKeys) -> [Query; 5] {
    let runner = Program::Run.name();
    [
        Query::Document(keys.closed()),
        Query::Document(keys.plan()),
        Query::Document(keys.progress()),
        Query::Document(keys.rejection(runner)),
        Query::Names(keys.join(&format!("rounds/{runner}"))),
    ]
}

/// What the runner last said, a hint; unreadable is as good as absent.
pub fn progress(cx: Context<'_>) -> Result<Progress, NoDecision> {
    let bytes = cx.snapshot.bytes(&cx.owner.keys.progress())?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default())
}

/// A group that is not closed, by its position in the plan.
struct OpenGroup {
    index: usize,
    stage: Stage,
    position: Position,
}

fn groups(
    cx: Context<'_>,
    draft: &mut Draft,
    work: &Work<'_>,
    jobs: &[JobView],
    driven: &mut Driven,
) -> Result<(), NoDecision> {
    let open = open_groups(cx, work, jobs)?;
    let mut current = BTreeSet::new();
    let mut live = Vec::new();
    let mut candidates = Vec::new();
    for OpenGroup { index, stage, position } in &open {
        let Some(group) = work.plan.groups.get(*index) else { continue };
        let mut wants = |rank, open| candidates.push(Candidate { rank, position: *index, open });
        let later = if *stage == Stage::Grade { Rank::Grading } else { Rank::NextRound };
        match position {
            Position::Fresh(count) => {
                wants(if *stage == Stage::Grade { Rank::Grading } else { Rank::NewGroup }, *count);
            }
            Position::Jobless(map) => wants(later, open_of(map)),
            Position::Over(map, job) => {
                current.insert(job.uid.clone());
                wants(later, open_of(map));
            }
            Position::Live(job) => {
                current.insert(job.uid.clone());
                live.push(job.open());
                driven.live_jobs = driven.live_jobs.saturating_add(1);
            }
            Position::Waiting(time) => draft.wake_at(*time),
            Position::Stuck(rounds) => {
                driven.stuck.push(format!("{} ({}, {rounds} rounds)", group.id, stage.name()));
            }
            Position::Leaving | Position::Recorded => {}
        }
        // Jobs of these rounds are over and stay as they are: deleting one would mean that it is to be created again.
        if matches!(
            position,
            Position::Waiting(_) | Position::Stuck(_) | Position::Recorded | Position::Leaving
        ) {
            let of_stage =
                jobs.iter().filter(|j| j.group.as_deref() == Some(&group.id) && j.stage == stage.name());
            current.extend(of_stage.max_by_key(|j| j.round).map(|j| j.uid.clone()));
        }
    }
    for behind in jobs.iter().filter(|job| job.group.is_some() && !current.contains(&job.uid)) {
        draft.delete_job(behind);
    }
    start(cx, draft, work, &open, &live, candidates, &driven.runner, &driven.progress)
}

fn open_of(map: &RoundMap) -> u32 {
    u32::try_from(map.items.len()).unwrap_or(u32::MAX)
}

/// Groups that are not closed, in plan order, as far as the window can reach: beyond as many open items as may run at once
/// nothing can start. Groups that have a Job are looked at wherever they are.
fn open_groups(cx: Context<'_>, work: &Work<'_>, jobs: &[JobView]) -> Result<Vec<OpenGroup>, NoDecision> {
    let rules =
        GroupRules { sandboxed: work.plan.sandboxed, graded: work.plan.graded, rounds_max: work.rounds_max };
    let with_job: BTreeSet<&str> = jobs.iter().filter_map(|job| job.group.as_deref()).collect();
    let mut open = Vec::new();
    let mut unread = Vec::new();
    let mut reach = u64::from(work.parallelism);
    let mut unknown_groups = 0;
    for (index, group) in work.plan.groups.iter().enumerate() {
        let in_reach = reach > 0 && unknown_groups < LOOK_AHEAD;
        if !in_reach && !with_job.contains(group.id.as_str()) {
            continue;
        }
        match group::look(cx, jobs, group, rules) {
            Err(NoDecision::Unread(Unread(queries))) => {
                unread.extend(queries);
                unknown_groups += 1;
            }
            Err(other) => return Err(other),
            Ok(Group::Closed) => {}
            Ok(Group::Direct) => reach = reach.saturating_sub(u64::from(group.items.max(1))),
            Ok(Group::Open(stage, position)) => {
                let items = match &position {
                    Position::Fresh(count) => *count,
                    Position::Jobless(map) | Position::Over(map, _) => open_of(map),
                    Position::Live(job) => job.open(),
                    Position::Leaving | Position::Waiting(_) => group.items,
                    // They hold no sandbox and must not keep others from starting.
                    Position::Recorded | Position::Stuck(_) => 0,
                };
                reach = reach.saturating_sub(u64::from(items));
                open.push(OpenGroup { index, stage, position });
            }
        }
    }
    if unread.is_empty() { Ok(open) } else { Err(Unread(unread).into()) }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one decision that was split for its length")]
fn start(
    cx: Context<'_>,
    draft: &mut Draft,
    work: &Work<'_>,
    open: &[OpenGroup],
    live: &[u32],
    mut candidates: Vec<Candidate>,
    runner: &Worker,
    progress: &Progress,
) -> Result<(), NoDecision> {
    let Worker::Live(runner) = runner else { return Ok(()) };
    if !runner.is_ready {
        return Ok(());
    }
    if !progress.ready || work.is_budget_spent {
        candidates.retain(|candidate| candidate.rank == Rank::Grading);
    }
    for index in window::admit(live, &candidates, work.parallelism) {
        let Some(group) = open.iter().find(|group| group.index == index) else { continue };
        start_group(cx, draft, work, group)?;
    }
    Ok(())
}

fn start_group(
    cx: Context<'_>,
    draft: &mut Draft,
    work: &Work<'_>,
    open: &OpenGroup,
) -> Result<(), NoDecision> {
    let Some(group) = work.plan.groups.get(open.index) else { return Ok(()) };
    let (map, behind, is_new) = match &open.position {
        Position::Fresh(_) => (group::first_map(cx, &group.id, open.stage)?, None, true),
        Position::Jobless(map) => (Some(map.clone()), None, false),
        Position::Over(map, job) => (Some(map.clone()), Some(job), true),
        _ => (None, None, false),
    };
    let Some(map) = map else { return Ok(()) };
    if is_new {
        draft.write(cx.owner.keys.round(&map.group, map.stage, map.round), &map)?;
    }
    if let Some(job) = behind {
        draft.delete_job(job);
    }
    let wall_seconds = match open.stage {
        Stage::Rollout => work.wall_seconds,
        Stage::Grade => work.wall_seconds.max(GRADING_SECONDS_MIN),
    };
    let spec = SandboxJob {
        map: &map,
        image: &group.image,
        root: work.root,
        sandbox: work.sandbox,
        queue: work.queue,
        parallelism: work.parallelism,
        wall_seconds,
    };
    draft.create(Kind::Job, sandbox::job(cx.owner, cx.installation, &spec)?);
    Ok(())
}

/// A text of a worker, short enough for a condition.
fn bounded(text: &str) -> String {
    text.chars().take(200).collect()
}
