//! Report: the status that follows from a decision or from the error that stopped it, and the events that tell of changes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use sealign_crds::condition::{self, Claim, kind};
use sealign_plan::{Event, Kind};
use serde_json::{Map, Value};

use crate::error::ReconcileError;

/// An event and the object that it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectEvent {
    /// Kind of the object.
    pub kind: Kind,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// What is to be told.
    pub event: Event,
}

/// Where events go.
pub trait EventSink: Send + Sync {
    /// Takes one event; never blocks, may drop.
    fn tell(&self, event: ObjectEvent);
}

/// Events go nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn tell(&self, _: ObjectEvent) {}
}

/// Conditions of a status document.
pub fn conditions(status: &Value) -> Vec<Condition> {
    let conditions = status.get("conditions").cloned().unwrap_or_default();
    serde_json::from_value(conditions).unwrap_or_default()
}

/// The status of an object as it was read.
pub fn present(object: &DynamicObject) -> Value {
    object.data.get("status").cloned().unwrap_or_else(|| Value::Object(Map::new()))
}

/// `status` with what `error` says, unless it is the status of an object that has reached its end: what is done stays done
/// while a store or a cluster is away. `None` where the error has nothing to say.
pub fn with_error(
    kind: Kind,
    generation: Option<i64>,
    status: &Value,
    error: &ReconcileError,
    now: Timestamp,
) -> Option<Value> {
    let obstacle = error.obstacle()?;
    let before = conditions(status);
    let (main, end) = match kind {
        Kind::TaskSet => (kind::READY, kind::READY),
        _ => (kind::SUCCEEDED, kind::FINISHED),
    };
    if condition::is_true(&before, end) {
        return None;
    }
    let claimed = if kind == Kind::TaskSet { Some(false) } else { obstacle.succeeded };
    let claim = Claim::new(main, claimed, obstacle.reason, obstacle.message);
    let merged = condition::merge(&before, &[claim], generation, now);
    let mut status = status.clone();
    let fields = status.as_object_mut()?;
    fields.insert("conditions".into(), serde_json::to_value(merged).ok()?);
    if let Some(generation) = generation {
        fields.insert("observedGeneration".into(), generation.into());
    }
    Some(status)
}

/// One event for every condition whose status or reason changed.
pub fn events(before: &Value, after: &Value) -> Vec<Event> {
    let before = conditions(before);
    let changed = |now: &Condition| {
        let was = before.iter().find(|c| c.type_ == now.type_);
        was.is_none_or(|was| was.status != now.status || was.reason != now.reason)
    };
    // `Finished` says what `Succeeded` says, and that nothing is paused is no news.
    let is_news = |c: &Condition| {
        c.type_ != kind::FINISHED
            && !(c.type_ == kind::SUSPENDED && c.status == "False")
            && !c.message.is_empty()
    };
    let event = |c: Condition| Event { is_warning: is_bad(&c), reason: c.reason, note: c.message };
    conditions(after).into_iter().filter(|c| changed(c) && is_news(c)).map(event).collect()
}

/// Conditions that somebody should look at.
fn is_bad(condition: &Condition) -> bool {
    use sealign_crds::condition::reason;
    let harmless = [
        reason::RUNNING,
        reason::WAITING,
        reason::COMPLETED,
        reason::SUSPENDED,
        reason::ACTIVE,
        reason::WON,
        reason::NOT_WON,
    ];
    !harmless.contains(&condition.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ClusterError;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(succeeded: &str, reason: &str, finished: &str) -> Value {
        let condition = |kind: &str, status: &str| {
            json!({ "type": kind, "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        json!({ "recorded": 4, "conditions": [condition("Succeeded", succeeded), condition("Finished", finished)] })
    }

    fn unavailable() -> ReconcileError {
        ReconcileError::ReadCluster(ClusterError::Unavailable("reset".into()))
    }

    #[test]
    fn an_error_shows_in_the_condition_and_leaves_figures_alone() {
        let status = status("Unknown", "Running", "False");
        let shown = with_error(Kind::RolloutCampaign, Some(3), &status, &unavailable(), at(0)).unwrap();
        let succeeded = conditions(&shown).into_iter().find(|c| c.type_ == "Succeeded").unwrap();
        assert_eq!(succeeded.reason, "ClusterUnavailable");
        assert!(succeeded.message.contains("reset"), "{}", succeeded.message);
        assert_eq!((&shown["recorded"], &shown["observedGeneration"]), (&json!(4), &json!(3)));
    }

    #[test]
    fn what_is_done_stays_done_while_the_store_is_away() {
        let done = status("True", "Completed", "True");
        assert_eq!(with_error(Kind::Benchmark, Some(1), &done, &unavailable(), at(0)), None);
    }

    #[test]
    fn losing_a_race_is_not_told_to_the_user() {
        let status = status("Unknown", "Running", "False");
        let error = ReconcileError::Superseded("rounds/0.json".into());
        assert_eq!(with_error(Kind::Benchmark, Some(1), &status, &error, at(0)), None);
    }

    #[test]
    fn a_change_is_told_once() {
        let (running, done) = (status("Unknown", "Running", "False"), status("True", "Completed", "True"));
        let told = events(&running, &done);
        assert_eq!(told, [Event { is_warning: false, reason: "Completed".into(), note: "m".into() }]);
        assert!(events(&done, &done).is_empty());
        assert!(events(&running, &status("Unknown", "NoProgress", "False"))[0].is_warning);
    }
}
