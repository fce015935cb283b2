//! Rounds. Every Job is a round: it runs each index at most once, and what is open when it is over goes into the next.
//!
//! The store says how far rounds have come, not the Jobs: before a Job is created its document (`RoundMap` for sandboxes,
//! [`WorkerRound`] for workers) exists, and the highest document without a Job means that this Job is to be created. So a
//! crash anywhere leaves a state from which the same names follow.

use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use sealign_manifest::group::Rejection;
use serde::{Deserialize, Serialize};

use crate::context::{Context, Draft};
use crate::job::JobView;
use crate::snapshot::{NoDecision, Query};
use crate::{Kind, labels};

/// Longest wait between two rounds.
const WAIT_SECONDS_MAX: i64 = 600;

/// The document of a worker's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerRound {
    /// Number, from 0.
    pub round: u32,
    /// Rounds in a row, this one excluded, that brought nothing.
    pub barren: u32,
    /// How far the work had come when the round was decided, in units of the worker's own.
    pub marker: u64,
}

/// A worker whose rounds go on until its result exists.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSpec<'a> {
    /// Name of the worker: stage label, rejection and rounds carry it.
    pub stage: &'a str,
    /// How far the work has come; a round during which it grew is not barren.
    pub marker: u64,
    /// Barren rounds in a row after which nothing is started.
    pub rounds_max: u32,
}

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Worker {
    /// It says that its input cannot be used.
    Rejected(String),
    /// Its Job is live.
    Live(JobView),
    /// Its Job is being created, replaced or waited for.
    Pending,
    /// So many rounds in a row brought nothing.
    NoProgress(u32),
}

/// The newest round below `prefix`, by the names of its documents.
pub fn newest(names: &[String]) -> Option<u32> {
    names.iter().filter_map(|name| name.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()).max()
}

/// When the round after a barren one may start: at once after the first record-bringing round, else later and later.
pub fn not_before(job: &JobView, barren: u32, wait_seconds: i64) -> Option<Timestamp> {
    let doublings = barren.checked_sub(1)?.min(16);
    let wait = wait_seconds.saturating_mul(1_i64 << doublings).min(WAIT_SECONDS_MAX);
    job.finished_at?.checked_add(SignedDuration::from_secs(wait)).ok()
}

/// Keeps a worker going: creates the Job of its round, or the next round. `build` makes the Job of a round.
pub fn worker(
    cx: Context<'_>,
    draft: &mut Draft,
    spec: WorkerSpec<'_>,
    build: impl Fn(u32) -> Result<DynamicObject, NoDecision>,
) -> Result<Worker, NoDecision> {
    let jobs = cx.jobs()?;
    let rejection = cx.owner.keys.rejection(spec.stage);
    let prefix = cx.owner.keys.join(&format!("rounds/{}", spec.stage));
    cx.snapshot.need([Query::Document(rejection.clone()), Query::Names(prefix.clone())])?;
    if let Some(rejection) = cx.snapshot.document::<Rejection>(&rejection, "a rejection")? {
        return Ok(Worker::Rejected(rejection.message));
    }
    let Some(round) = newest(cx.snapshot.names(&prefix)?) else {
        return start(draft, &prefix, WorkerRound { round: 0, barren: 0, marker: spec.marker }, build);
    };
    for earlier in jobs.iter().filter(|job| job.stage == spec.stage && job.round < round) {
        draft.delete_job(earlier);
    }
    let Some(job) = jobs.into_iter().find(|job| job.stage == spec.stage && job.round == round) else {
        draft.create(Kind::Job, build(round)?);
        return Ok(Worker::Pending);
    };
    if job.is_leaving {
        return Ok(Worker::Pending);
    }
    let wanted = build(round)?;
    let is_told =
        wanted.metadata.annotations.as_ref().and_then(|all| all.get(labels::CONFIG)) == job.config.as_ref();
    if !job.is_over && is_told {
        return Ok(Worker::Live(job));
    }
    if !job.is_over {
        // A field that may change has changed (a budget was raised): the worker hears of it in a round of its own. What it had
        // under way is tried again.
        let next = WorkerRound { round: round.saturating_add(1), barren: 0, marker: spec.marker };
        return replace(draft, &prefix, &job, next, build);
    }
    let key = format!("{prefix}/{round}.json");
    let before = cx.snapshot.document::<WorkerRound>(&key, "a worker's round")?;
    let barren = before.map_or(0, |b| if spec.marker > b.marker { 0 } else { b.barren.saturating_add(1) });
    if barren >= spec.rounds_max {
        return Ok(Worker::NoProgress(barren));
    }
    if let Some(time) = not_before(&job, barren, cx.installation.barren_wait_seconds)
        && time > cx.now
    {
        draft.wake_at(time);
        return Ok(Worker::Pending);
    }
    let next = WorkerRound { round: round.saturating_add(1), barren, marker: spec.marker };
    replace(draft, &prefix, &job, next, build)
}

fn replace(
    draft: &mut Draft,
    prefix: &str,
    job: &JobView,
    next: WorkerRound,
    build: impl Fn(u32) -> Result<DynamicObject, NoDecision>,
) -> Result<Worker, NoDecision> {
    draft.write(format!("{prefix}/{}.json", next.round), &next)?;
    draft.delete_job(job);
    draft.create(Kind::Job, build(next.round)?);
    Ok(Worker::Pending)
}

fn start(
    draft: &mut Draft,
    prefix: &str,
    first: WorkerRound,
    build: impl Fn(u32) -> Result<DynamicObject, NoDecision>,
) -> Result<Worker, NoDecision> {
    draft.write(format!("{prefix}/0.json"), &first)?;
    draft.create(Kind::Job, build(0)?);
    Ok(Worker::Pending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::pod::tests::owner;
    use crate::{Answer, Installation, Snapshot};
    use serde_json::json;

    fn job(finished_at: Option<&str>) -> JobView {
        JobView {
            name: "j".into(),
            uid: "u".into(),
            stage: "run".into(),
            group: None,
            round: 4,
            config: None,
            size: 1,
            ended: 1,
            is_ready: false,
            is_leaving: false,
            finished_at: finished_at.map(|text| text.parse().unwrap()),
            is_over: true,
            is_late: false,
        }
    }

    #[test]
    fn the_newest_round_is_a_number_and_not_a_text() {
        let names =
            ["k/rounds/run/2.json", "k/rounds/run/10.json", "k/rounds/run/9.json", "k/rounds/run/x.json"];
        assert_eq!(newest(&names.map(str::to_owned)), Some(10));
        assert_eq!(newest(&[]), None);
    }

    #[test]
    fn barren_rounds_wait_longer_and_longer_and_others_do_not() {
        let job = job(Some("2026-01-01T00:00:00Z"));
        let wait = |barren| {
            not_before(&job, barren, 10).map(|t| t.duration_since(job.finished_at.unwrap()).as_secs())
        };
        assert_eq!([0, 1, 2, 3, 60].map(wait), [None, Some(10), Some(20), Some(40), Some(600)]);
    }

    /// What `worker` makes of the Job of round 0 as `change` leaves it, and how many commands that takes.
    fn of_job(change: impl FnOnce(&mut DynamicObject)) -> (Worker, usize) {
        let owner = owner(Kind::RolloutCampaign);
        let job = json!({ "metadata": { "name": "j", "uid": "u", "labels": { labels::STAGE: "run", labels::ROUND: "0" },
            "annotations": { labels::CONFIG: "told" } } });
        let job: DynamicObject = serde_json::from_value(job).unwrap();
        let build = |_: u32| Ok(job.clone());
        let (prefix, rejection) = (owner.keys.join("rounds/run"), owner.keys.rejection("run"));
        let object = serde_json::from_value(json!({ "metadata": { "name": "first" } })).unwrap();
        let mut snapshot = Snapshot::new(Kind::RolloutCampaign, object, None);
        let mut present = job.clone();
        change(&mut present);
        snapshot.insert(Query::Children(Kind::Job), Answer::Children(vec![present]));
        snapshot.insert(Query::Document(rejection), Answer::Document(None));
        snapshot.insert(Query::Names(prefix.clone()), Answer::Names(vec![format!("{prefix}/0.json")]));
        let installation = Installation::default();
        let cx = Context {
            snapshot: &snapshot,
            installation: &installation,
            now: Timestamp::UNIX_EPOCH,
            owner: &owner,
        };
        let mut draft = Draft::default();
        let spec = WorkerSpec { stage: "run", marker: 0, rounds_max: 5 };
        let found = worker(cx, &mut draft, spec, build).unwrap();
        (found, draft.commands.len())
    }

    #[test]
    fn a_worker_that_was_told_something_else_is_replaced_and_one_that_leaves_is_waited_for() {
        assert!(matches!(of_job(|_| ()), (Worker::Live(_), 0)));
        let config = |job: &mut DynamicObject| {
            job.metadata.annotations.as_mut().unwrap().insert(labels::CONFIG.into(), "other".into());
        };
        assert_eq!(
            of_job(config),
            (Worker::Pending, 3),
            "the next round is written, this Job deleted, its Job made"
        );
        let leaving = |job: &mut DynamicObject| {
            job.metadata.deletion_timestamp =
                Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        };
        assert_eq!(of_job(leaving), (Worker::Pending, 0));
    }
}
