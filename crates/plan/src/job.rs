//! A Job as decisions see it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::labels;

/// A Job as decisions see it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "four observations that do not exclude each other")]
pub struct JobView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Value of the stage label.
    pub stage: String,
    /// Value of the group label.
    pub group: Option<String>,
    /// Value of the round label.
    pub round: u32,
    /// Digest of what it was told, where it is a worker.
    pub config: Option<String>,
    /// Completions.
    pub size: u32,
    /// Indexes that completed or failed.
    pub ended: u32,
    /// Whether a pod of it is ready. Where nobody counts ready pods, whether one is active.
    pub is_ready: bool,
    /// Being deleted.
    pub is_leaving: bool,
    /// When its Complete or Failed condition came.
    pub finished_at: Option<Timestamp>,
    /// Every index ended, or the Job did.
    pub is_over: bool,
    /// It failed at its deadline.
    pub is_late: bool,
}

impl JobView {
    /// Reads a Job. Missing labels and counts read as empty and zero: a Job of ours that somebody stripped is nobody's round.
    pub fn read(object: &DynamicObject) -> Self {
        let label = |key: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let number = |pointer: &str| {
            object.data.pointer(pointer).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
        };
        let size = number("/spec/completions").unwrap_or(1);
        let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
        let ended_by = |kind: &str| {
            conditions.into_iter().flatten().find(|c| text(c, "type") == kind && text(c, "status") == "True")
        };
        // `FailureTarget` and `SuccessCriteriaMet` come before the last pods are gone; a round does not wait for those.
        let end =
            ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].into_iter().find_map(ended_by);
        let indexes =
            |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str).map_or(0, count_indexes);
        let ended = indexes("/status/completedIndexes") + indexes("/status/failedIndexes");
        Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            stage: label(labels::STAGE).cloned().unwrap_or_default(),
            group: label(labels::GROUP).cloned(),
            round: label(labels::ROUND).and_then(|text| text.parse().ok()).unwrap_or(0),
            config: object.metadata.annotations.as_ref().and_then(|all| all.get(labels::CONFIG)).cloned(),
            size,
            ended: ended.min(size),
            is_ready: number("/status/ready").or_else(|| number("/status/active")).unwrap_or(0) > 0,
            is_leaving: object.metadata.deletion_timestamp.is_some(),
            finished_at: end.and_then(|c| text(c, "lastTransitionTime").parse().ok()),
            is_over: end.is_some() || ended >= size,
            is_late: end.is_some_and(|c| text(c, "reason") == "DeadlineExceeded"),
        }
    }

    /// Whether it still does or may do something.
    pub fn is_live(&self) -> bool {
        !self.is_over && !self.is_leaving
    }

    /// Indexes that did not end.
    pub fn open(&self) -> u32 {
        self.size.saturating_sub(self.ended)
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Indexes in a list such as `0,2-4,7`.
fn count_indexes(ranges: &str) -> u32 {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    ranges.split(',').filter_map(range).fold(0, u32::saturating_add)
}

/// The creation time of an object.
pub fn created(object: &DynamicObject) -> Option<Timestamp> {
    object.metadata.creation_timestamp.as_ref().map(|Time(time)| *time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(status: &Value) -> JobView {
        let object = serde_json::from_value(json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": "j", "uid": "u", "labels": { "sealign.dev/stage": "grade",
                "sealign.dev/group": "g0002", "sealign.dev/round": "3" } },
            "spec": { "completions": 5 }, "status": status,
        }))
        .unwrap();
        JobView::read(&object)
    }

    #[test]
    fn index_lists_are_counted() {
        assert_eq!(count_indexes(""), 0);
        assert_eq!(count_indexes("0,2-4,7"), 5);
        assert_eq!(count_indexes("4-2,x,1-"), 0);
    }

    #[test]
    fn a_round_is_over_when_every_index_ended_though_the_job_is_not_marked() {
        let view = job(&json!({ "completedIndexes": "0-2", "failedIndexes": "3,4", "active": 1 }));
        assert!(view.is_over && view.finished_at.is_none());
        assert_eq!((view.round, view.group.as_deref(), view.open()), (3, Some("g0002"), 0));
    }

    #[test]
    fn a_job_past_its_deadline_is_over_with_open_indexes() {
        let view =
            job(&json!({ "completedIndexes": "0", "conditions": [{ "type": "Failed", "status": "True",
            "reason": "DeadlineExceeded", "lastTransitionTime": "2026-01-02T03:04:05Z" }] }));
        assert!(view.is_over && view.is_late);
        assert_eq!(view.open(), 4);
        assert_eq!(view.finished_at, Some("2026-01-02T03:04:05Z".parse().unwrap()));
    }

    #[test]
    fn a_pod_that_runs_but_is_not_ready_is_not_ready() {
        assert!(!job(&json!({ "active": 1, "ready": 0 })).is_ready);
        assert!(job(&json!({ "active": 1 })).is_ready);
    }
}
