//! Conditions: what a status says. Types and reasons are closed sets, so that alerts and scripts can rely on them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Types of conditions.
pub mod kind {
    /// Bounded work ended well (True), ended badly (False) or goes on (Unknown).
    pub const SUCCEEDED: &str = "Succeeded";
    /// Bounded work ended, either way: `kubectl wait` cannot say "or".
    pub const FINISHED: &str = "Finished";
    /// `spec.suspend` is set and nothing runs.
    pub const SUSPENDED: &str = "Suspended";
    /// The object can be used by others.
    pub const READY: &str = "Ready";
    /// An AlignmentRun's model won its paired test.
    pub const PROMOTED: &str = "Promoted";
    /// Attempts ended before their budget was reached (False) or stopped by it (True).
    pub const BUDGET_EXHAUSTED: &str = "BudgetExhausted";
    /// An image does not pull.
    pub const IMAGE_PULL_FAILING: &str = "ImagePullFailing";
    /// Pods find no node.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
}

/// Reasons of conditions. Each says one thing; messages say what to do.
pub mod reason {
    /// Work goes on.
    pub const RUNNING: &str = "Running";
    /// All of it is done.
    pub const COMPLETED: &str = "Completed";
    /// The spec asks for a pause.
    pub const SUSPENDED: &str = "Suspended";
    /// Nothing stands in the way.
    pub const ACTIVE: &str = "Active";
    /// A field of the spec cannot be meant.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A named object does not exist, or not yet.
    pub const REFERENCE_NOT_FOUND: &str = "ReferenceNotFound";
    /// A named object failed, so this one cannot go on.
    pub const REFERENCE_FAILED: &str = "ReferenceFailed";
    /// Waiting for a named object to finish.
    pub const WAITING: &str = "Waiting";
    /// A child's name is taken by another owner.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The installation does not cover the namespace.
    pub const NAMESPACE_NOT_ENABLED: &str = "NamespaceNotEnabled";
    /// Rounds in a row brought nothing.
    pub const NO_PROGRESS: &str = "NoProgress";
    /// A worker says that its input cannot be used.
    pub const INPUT_REJECTED: &str = "InputRejected";
    /// The store does not answer or refuses.
    pub const STORE_UNAVAILABLE: &str = "StoreUnavailable";
    /// Pods wait for something outside.
    pub const PODS_WAITING: &str = "PodsWaiting";
    /// The cluster's API does not answer or refuses.
    pub const CLUSTER_UNAVAILABLE: &str = "ClusterUnavailable";
    /// The budget is spent.
    pub const BUDGET_EXHAUSTED: &str = "BudgetExhausted";
    /// The paired test was won.
    pub const WON: &str = "Won";
    /// The paired test was not won.
    pub const NOT_WON: &str = "NotWon";
}

/// Longest message: enough for one sentence of cause and one of remedy.
pub const MESSAGE_MAX: usize = 1024;

/// What a condition is to say; [`merge`] adds times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// One of [`kind`].
    pub kind: &'static str,
    /// `Some(true)`, `Some(false)` or unknown.
    pub status: Option<bool>,
    /// One of [`reason`].
    pub reason: &'static str,
    /// For people, with the next step to take.
    pub message: String,
}

impl Claim {
    /// A claim.
    pub fn new(
        kind: &'static str,
        status: Option<bool>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

/// The conditions that `claims` make of `before`: sorted by type, with the transition time kept where the status did not
/// change, and conditions that nobody claims left as they are.
pub fn merge(
    before: &[Condition],
    claims: &[Claim],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut after: Vec<Condition> =
        before.iter().filter(|c| claims.iter().all(|claim| claim.kind != c.type_)).cloned().collect();
    for claim in claims {
        let status = match claim.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let old = before.iter().find(|c| c.type_ == claim.kind);
        let since = old.filter(|c| c.status == status).map_or(Time(now), |c| c.last_transition_time.clone());
        after.push(Condition {
            type_: claim.kind.to_owned(),
            status: status.to_owned(),
            reason: claim.reason.to_owned(),
            message: claim.message.chars().take(MESSAGE_MAX).collect(),
            observed_generation: generation,
            last_transition_time: since,
        });
    }
    after.sort_by(|a, b| a.type_.cmp(&b.type_));
    after
}

/// Whether the condition `kind` is True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Whether the condition `kind` is False.
pub fn is_false(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "False")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_condition_whose_status_stays_keeps_its_transition_time() {
        let running = Claim::new(kind::SUCCEEDED, None, reason::RUNNING, "1 of 9");
        let first = merge(&[], &[running], Some(1), at(10));
        let further = Claim::new(kind::SUCCEEDED, None, reason::RUNNING, "2 of 9");
        let second = merge(&first, &[further], Some(1), at(20));
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].message, "2 of 9");
    }

    #[test]
    fn a_condition_that_changes_gets_a_new_time_and_others_stay() {
        let running = Claim::new(kind::SUCCEEDED, None, reason::RUNNING, "");
        let paused = Claim::new(kind::SUSPENDED, Some(false), reason::ACTIVE, "");
        let first = merge(&[], &[running, paused], Some(1), at(10));
        let done = Claim::new(kind::SUCCEEDED, Some(true), reason::COMPLETED, "");
        let second = merge(&first, &[done], Some(2), at(20));
        assert!(is_true(&second, kind::SUCCEEDED));
        assert_eq!(second.len(), 2);
        assert_eq!(second[0].last_transition_time, Time(at(20)));
        assert_eq!(second[1].last_transition_time, Time(at(10)));
    }

    #[test]
    fn a_message_is_cut_where_it_would_fill_the_status() {
        let long = Claim::new(kind::SUCCEEDED, None, reason::RUNNING, "x".repeat(100_000));
        assert_eq!(merge(&[], &[long], Some(1), at(10))[0].message.len(), MESSAGE_MAX);
    }
}
