//! What all kinds do around their own decision: read the spec, check namespace and pause, put the status together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sealign_crds::condition::{self, kind, reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::command::Step;
use crate::context::{Context, Draft};
use crate::policies::reference::Obstacle;
use crate::policies::suspension;
use crate::round::Worker;
use crate::snapshot::{NoDecision, Unread};
use crate::{Kind, validate};

/// Rounds in a row without a result after which a worker of an object without retry settings waits for help.
pub const WORKER_ROUNDS_MAX: u32 = 5;

/// Conditions that are claimed while pods wait, and are False otherwise once they were True.
const WAITS: [&str; 2] = [kind::IMAGE_PULL_FAILING, kind::UNSCHEDULABLE];

/// Reads the status of the snapshot's object; one that another version wrote is as good as none.
pub fn status<T: DeserializeOwned + Default>(cx: Context<'_>) -> T {
    let status = cx.snapshot.object.data.get("status").cloned().unwrap_or(Value::Null);
    serde_json::from_value(status).unwrap_or_default()
}

/// Reads the spec of the snapshot's object.
pub fn spec<T: DeserializeOwned>(cx: Context<'_>) -> Result<T, Obstacle> {
    let spec = cx.snapshot.object.data.get("spec").cloned().unwrap_or(Value::Null);
    serde_json::from_value(spec).map_err(|error| Obstacle {
        succeeded: Some(false),
        reason: reason::INVALID_SPEC,
        message: format!("spec: {error}: correct it and apply the object again"),
    })
}

/// What stands in the way of any work on the object, before its kind is asked.
pub fn admitted(cx: Context<'_>, valid: Result<(), validate::Problem>) -> Result<(), Obstacle> {
    if let Err(problem) = valid {
        let message = problem.to_string();
        return Err(Obstacle { succeeded: Some(false), reason: reason::INVALID_SPEC, message });
    }
    let namespace = &cx.owner.namespace;
    if cx.installation.covers(namespace) {
        return Ok(());
    }
    Err(Obstacle {
        succeeded: None,
        reason: reason::NAMESPACE_NOT_ENABLED,
        message: format!("namespace `{namespace}` is not enabled: add it to the chart's value `namespaces`"),
    })
}

/// Claims the condition that tells what stands in the way: `Ready` of a TaskSet, else `Succeeded` and `Finished`.
pub fn blocked(cx: Context<'_>, draft: &mut Draft, obstacle: Obstacle) {
    let Obstacle { succeeded, reason, message } = obstacle;
    if cx.owner.kind == Kind::TaskSet {
        draft.claim(kind::READY, Some(false), reason, message);
    } else {
        draft.claim_work(succeeded, reason, message);
    }
}

/// Whether the object is paused. If so, its live Jobs are deleted and the conditions say who asked.
pub fn paused(cx: Context<'_>, draft: &mut Draft) -> Result<bool, Unread> {
    let Some(asked) = suspension::suspended_by(cx)? else {
        draft.claim(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
        return Ok(false);
    };
    let live: Vec<_> = cx.jobs()?.into_iter().filter(|job| !job.is_over).collect();
    for job in &live {
        draft.delete_job(job);
    }
    let message = format!("{asked} is true: set it to false to go on");
    draft.claim(kind::SUSPENDED, Some(live.is_empty()), reason::SUSPENDED, message.clone());
    blocked(cx, draft, Obstacle { succeeded: None, reason: reason::SUSPENDED, message });
    Ok(true)
}

/// What a worker that cannot go on means for its object. `remedy` says what resumes after too many rounds.
pub fn obstacle(worker: &Worker, name: &str, remedy: &str) -> Option<Obstacle> {
    match worker {
        Worker::Rejected(message) => Some(Obstacle {
            succeeded: Some(false),
            reason: reason::INPUT_REJECTED,
            message: message.clone(),
        }),
        Worker::NoProgress(rounds) => Some(Obstacle {
            succeeded: None,
            reason: reason::NO_PROGRESS,
            message: format!(
                "{name} ended {rounds} times in a row without a result: read the logs of its Job, then {remedy}"
            ),
        }),
        Worker::Live(_) | Worker::Pending => None,
    }
}

/// Deletes every Job that may still do something: the object has reached its end.
pub fn delete_live_jobs(cx: Context<'_>, draft: &mut Draft) -> Result<(), Unread> {
    for job in cx.jobs()?.iter().filter(|job| !job.is_over || job.group.is_some()) {
        draft.delete_job(job);
    }
    Ok(())
}

/// The decision, from what was gathered. `status` has everything but its conditions.
pub fn decided<T: Serialize>(
    cx: Context<'_>,
    mut draft: Draft,
    before: &[Condition],
    mut status: T,
    put: impl FnOnce(&mut T, Option<i64>, Vec<Condition>),
) -> Result<Step, NoDecision> {
    let is_claimed = |wait: &str| draft.claims.iter().any(|claim| claim.kind == wait);
    // Nobody says that nothing waits any more: pods that started, a pause, an end all do.
    let past = WAITS.into_iter().filter(|wait| before.iter().any(|c| c.type_ == *wait) && !is_claimed(wait));
    for wait in past.collect::<Vec<_>>() {
        draft.claim(wait, Some(false), reason::ACTIVE, "");
    }
    let conditions = condition::merge(before, &draft.claims, cx.owner.generation, cx.now);
    let claims_end = |claim: &condition::Claim| {
        let end = if cx.owner.kind == Kind::TaskSet { kind::READY } else { kind::FINISHED };
        // What failed with a neighbour goes on when the neighbour is replaced.
        claim.kind == end && claim.status == Some(true) && claim.reason != reason::REFERENCE_FAILED
    };
    let is_finished = draft.commands.is_empty() && draft.claims.iter().any(claims_end);
    put(&mut status, cx.owner.generation, conditions);
    let status =
        serde_json::to_value(status).map_err(|source| NoDecision::Encode { what: "a status", source })?;
    Ok(Step { requeue: draft.requeue(cx.now), commands: draft.commands, status, is_finished })
}
