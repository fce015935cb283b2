//! What became of a Job's indexes, as a value: which index starts next, when the Job is over, and its status.
//!
//! The rules are those of Kubernetes' Indexed Jobs with `backoffLimitPerIndex: 0`: an index runs at most once; the Job is
//! Complete when every index succeeded, Failed when some failed and none is left, when too many failed, or at its deadline.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::job_spec::JobSpec;

/// How a Job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every index succeeded.
    Complete,
    /// Some index failed and none is left to run.
    FailedIndexes,
    /// More indexes failed than the Job allows.
    MaxFailedIndexesExceeded,
    /// Its time is over.
    DeadlineExceeded,
}

impl End {
    fn reason(self) -> &'static str {
        match self {
            Self::Complete => "CompletionsReached",
            Self::FailedIndexes => "FailedIndexes",
            Self::MaxFailedIndexesExceeded => "MaxFailedIndexesExceeded",
            Self::DeadlineExceeded => "DeadlineExceeded",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Complete => "Reached expected number of succeeded pods",
            Self::FailedIndexes => "Job has failed indexes",
            Self::MaxFailedIndexesExceeded => {
                "Job has exceeded the specified maximal number of failed indexes"
            }
            Self::DeadlineExceeded => "Job was active longer than specified deadline",
        }
    }
}

/// The indexes of one Job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobState {
    /// Since when it may run; restarts with every resumption.
    pub started: Option<Timestamp>,
    /// Indexes whose pod is there and has not ended.
    pub active: BTreeSet<u32>,
    /// Of these, the ready ones.
    pub ready: BTreeSet<u32>,
    /// Indexes that succeeded.
    pub succeeded: BTreeSet<u32>,
    /// Indexes that failed.
    pub failed: BTreeSet<u32>,
    /// Its end and when that was decided; pods may still be on their way out.
    pub end: Option<(End, Timestamp)>,
}

impl JobState {
    /// What the status of a Job remembers: for a start after the process that ran it has gone.
    pub fn recall(status: Option<&Value>) -> Self {
        let text = |field: &str| status.and_then(|s| s.get(field)).and_then(Value::as_str);
        Self {
            started: text("startTime").and_then(|time| time.parse().ok()),
            succeeded: text("completedIndexes").map(parse_indexes).unwrap_or_default(),
            failed: text("failedIndexes").map(parse_indexes).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The next index to start, if one may start now.
    pub fn next_index(&self, spec: &JobSpec) -> Option<u32> {
        let room = usize::try_from(spec.parallelism).unwrap_or(usize::MAX);
        if spec.suspended || self.end.is_some() || self.active.len() >= room {
            return None;
        }
        (0..spec.completions).find(|index| {
            !self.active.contains(index) && !self.succeeded.contains(index) && !self.failed.contains(index)
        })
    }

    /// Notes that a pod ended. One that was ended because the Job is suspended did not run: its index stays open.
    pub fn pod_ended(&mut self, spec: &JobSpec, index: u32, is_success: bool) {
        self.active.remove(&index);
        self.ready.remove(&index);
        if is_success {
            self.succeeded.insert(index);
        } else if !spec.suspended {
            self.failed.insert(index);
        }
    }

    /// Decides whether the Job is over, once; true when it was decided now.
    pub fn decide(&mut self, spec: &JobSpec, now: Timestamp) -> bool {
        if self.end.is_some() {
            return false;
        }
        let count = |set: &BTreeSet<u32>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        let (succeeded, failed) = (count(&self.succeeded), count(&self.failed));
        let end = if succeeded >= spec.completions {
            End::Complete
        } else if spec.max_failed_indexes.is_some_and(|most| failed > most) {
            End::MaxFailedIndexesExceeded
        } else if succeeded + failed >= spec.completions {
            End::FailedIndexes
        } else if self.deadline(spec).is_some_and(|deadline| now >= deadline) {
            End::DeadlineExceeded
        } else {
            return false;
        };
        self.end = Some((end, now));
        true
    }

    /// When the Job's time is over.
    pub fn deadline(&self, spec: &JobSpec) -> Option<Timestamp> {
        let seconds = spec.deadline_seconds.filter(|_| !spec.suspended)?;
        self.started?.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
    }

    /// The Job's status.
    pub fn status(&self, spec: &JobSpec) -> Value {
        let (active, terminating) =
            if self.end.is_some() { (0, self.active.len()) } else { (self.active.len(), 0) };
        let mut status = json!({
            "active": active,
            "ready": if self.end.is_some() { 0 } else { self.ready.len() },
            "terminating": terminating,
            "succeeded": self.succeeded.len(),
            "failed": self.failed.len(),
            "completedIndexes": format_indexes(&self.succeeded),
            "failedIndexes": format_indexes(&self.failed),
        });
        let mut conditions = Vec::new();
        if spec.suspended {
            conditions.push((
                "Suspended",
                self.started.unwrap_or(spec.created),
                "JobSuspended",
                "Job suspended",
            ));
        }
        if let Some((end, at)) = self.end {
            let (early, last) = if end == End::Complete {
                ("SuccessCriteriaMet", "Complete")
            } else {
                ("FailureTarget", "Failed")
            };
            conditions.push((early, at, end.reason(), end.message()));
            if self.active.is_empty() {
                conditions.push((last, at, end.reason(), end.message()));
            }
        }
        let conditions: Vec<Value> = conditions
            .into_iter()
            .map(|(kind, at, reason, message)| {
                json!({ "type": kind, "status": "True", "reason": reason, "message": message,
                    "lastTransitionTime": at, "lastProbeTime": at })
            })
            .collect();
        let mut set = |name: &str, value: Value| {
            if let Value::Object(fields) = &mut status {
                fields.insert(name.to_owned(), value);
            }
        };
        set("conditions", Value::Array(conditions));
        if let Some(started) = self.started {
            set("startTime", json!(started));
        }
        if let Some((End::Complete, at)) = self.end {
            set("completionTime", json!(at));
        }
        status
    }
}

/// Whether a Job's status says that it has ended and nothing of it is left.
pub fn is_finished(status: Option<&Value>) -> bool {
    let conditions = status.and_then(|status| status.get("conditions")).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let is = |field: &str, value: &str| condition.get(field).and_then(Value::as_str) == Some(value);
        is("status", "True") && (is("type", "Complete") || is("type", "Failed"))
    })
}

/// Indexes as a Job's status writes them: `0,2-4,7`.
pub fn format_indexes(indexes: &BTreeSet<u32>) -> String {
    let mut ranges: BTreeMap<u32, u32> = BTreeMap::new();
    for index in indexes {
        match ranges.last_entry() {
            Some(mut last) if last.get().checked_add(1) == Some(*index) => {
                last.insert(*index);
            }
            _ => {
                ranges.insert(*index, *index);
            }
        }
    }
    let texts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    texts.join(",")
}

fn parse_indexes(text: &str) -> BTreeSet<u32> {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> JobSpec {
        let mut job = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": "j", "namespace": "demo", "uid": "u", "creationTimestamp": at(0) },
            "spec": { "completionMode": "Indexed", "completions": 4, "parallelism": 2, "backoffLimitPerIndex": 0,
                "activeDeadlineSeconds": 60,
                "template": { "spec": { "containers": [{ "name": "main", "command": ["/bin/true"] }] } } },
        });
        change(&mut job["spec"]);
        JobSpec::read(&serde_json::from_value(job).unwrap()).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn conditions(status: &Value) -> Vec<(String, String)> {
        let text = |c: &Value, field: &str| c[field].as_str().unwrap().to_owned();
        status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (text(c, "type"), text(c, "reason")))
            .collect()
    }

    #[test]
    fn indexes_start_in_order_each_once_and_no_more_than_parallelism_at_once() {
        let spec = spec(|_| ());
        let mut state = JobState { started: Some(at(0)), ..JobState::default() };
        for expected in [Some(0), Some(1), None] {
            let next = state.next_index(&spec);
            assert_eq!(next, expected);
            state.active.extend(next);
        }
        state.pod_ended(&spec, 0, false);
        assert_eq!(state.next_index(&spec), Some(2), "a failed index does not run again");
    }

    #[test]
    fn a_job_with_failed_indexes_runs_the_others_and_then_fails() {
        let spec = spec(|_| ());
        let mut state = JobState { started: Some(at(0)), ..JobState::default() };
        for (index, is_success) in [(0, true), (1, false), (3, true)] {
            state.pod_ended(&spec, index, is_success);
            assert!(!state.decide(&spec, at(1)));
        }
        state.pod_ended(&spec, 2, true);
        assert!(state.decide(&spec, at(2)));
        let status = state.status(&spec);
        assert_eq!(status["completedIndexes"], "0,2-3");
        assert_eq!(status["failedIndexes"], "1");
        let failed = |kind: &str| (kind.to_owned(), "FailedIndexes".to_owned());
        assert_eq!(conditions(&status), [failed("FailureTarget"), failed("Failed")]);
        assert!(is_finished(Some(&status)));
    }

    #[test]
    fn at_its_deadline_a_job_is_failing_and_failed_once_its_pods_are_gone() {
        let spec = spec(|_| ());
        let mut state = JobState { started: Some(at(0)), active: [0].into(), ..JobState::default() };
        assert!(!state.decide(&spec, at(59)));
        assert!(state.decide(&spec, at(60)));
        let leaving = state.status(&spec);
        assert_eq!((&leaving["active"], &leaving["terminating"]), (&json!(0), &json!(1)));
        assert!(!is_finished(Some(&leaving)));
        state.pod_ended(&spec, 0, false);
        let last = conditions(&state.status(&spec)).pop().unwrap();
        assert_eq!(last, ("Failed".to_owned(), "DeadlineExceeded".to_owned()));
    }

    #[test]
    fn with_no_failed_index_allowed_the_first_one_ends_the_job() {
        let spec = spec(|spec| spec["maxFailedIndexes"] = json!(0));
        let mut state = JobState::default();
        state.pod_ended(&spec, 3, false);
        assert!(state.decide(&spec, at(1)));
        assert_eq!(state.end.unwrap().0, End::MaxFailedIndexesExceeded);
    }

    #[test]
    fn a_pod_that_suspension_ends_leaves_its_index_open() {
        let suspended = spec(|spec| spec["suspend"] = json!(true));
        let mut state = JobState { active: [0].into(), ..JobState::default() };
        assert_eq!(state.next_index(&suspended), None);
        state.pod_ended(&suspended, 0, false);
        assert_eq!(state.next_index(&spec(|_| ())), Some(0));
    }

    #[test]
    fn a_status_gives_its_state_back() {
        let spec = spec(|_| ());
        let state = JobState {
            started: Some(at(7)),
            succeeded: [0, 1, 3].into(),
            failed: [2].into(),
            ..JobState::default()
        };
        assert_eq!(JobState::recall(Some(&state.status(&spec))), state);
    }

    #[test]
    fn jobs_that_would_run_an_index_twice_are_refused() {
        let object = |limit: Value| {
            serde_json::from_value(
                json!({ "metadata": { "name": "j" }, "spec": { "completionMode": "Indexed",
                "completions": 1, "backoffLimitPerIndex": limit, "template": {} } }),
            )
            .unwrap()
        };
        let error = JobSpec::read(&object(json!(3))).unwrap_err().to_string();
        assert!(error.contains("at most once"), "{error}");
    }
}
