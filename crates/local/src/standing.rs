//! How an object stands: done, in the way of itself, or going on. Read from its conditions alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use sealign_crds::condition::{is_true, kind, reason};
use sealign_reconcile::port::Kind;
use sealign_reconcile::report::{conditions, present};

/// How an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed {
        /// A condition reason.
        reason: String,
        /// For people, with the next step to take.
        message: String,
    },
    /// It waits for somebody to change something.
    Blocked {
        /// A condition reason.
        reason: String,
        /// For people, with the next step to take.
        message: String,
    },
    /// It waits for another object.
    Waiting {
        /// For which, in words.
        message: String,
    },
    /// Work goes on.
    Running {
        /// What, in words.
        message: String,
    },
}

/// Reasons that stay until a person acts; all others pass.
const BLOCKING: [&str; 8] = [
    reason::INVALID_SPEC,
    reason::REFERENCE_NOT_FOUND,
    reason::NAME_TAKEN,
    reason::NAMESPACE_NOT_ENABLED,
    reason::NO_PROGRESS,
    reason::INPUT_REJECTED,
    reason::BUDGET_EXHAUSTED,
    reason::SUSPENDED,
];

impl Standing {
    /// How `object` stands. A status that speaks of an older spec says nothing.
    pub fn of(kind: Kind, object: &DynamicObject) -> Self {
        let status = present(object);
        let observed = status.get("observedGeneration").and_then(serde_json::Value::as_i64);
        if observed != object.metadata.generation {
            return Self::Running { message: "not looked at yet".to_owned() };
        }
        let conditions = conditions(&status);
        let main = if kind == Kind::TaskSet { kind::READY } else { kind::SUCCEEDED };
        let Some(condition) = conditions.iter().find(|condition| condition.type_ == main) else {
            return Self::Running { message: String::new() };
        };
        let Condition { reason, message, .. } = condition.clone();
        if condition.status == "True" {
            return Self::Succeeded;
        }
        if is_true(&conditions, kind::FINISHED) || reason == reason::REFERENCE_FAILED {
            return Self::Failed { reason, message };
        }
        if BLOCKING.contains(&reason.as_str()) {
            return Self::Blocked { reason, message };
        }
        if reason == reason::WAITING { Self::Waiting { message } } else { Self::Running { message } }
    }

    /// Nothing more will happen by itself.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. })
    }

    /// One word, stable: JSON output carries it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed { .. } => "Failed",
            Self::Blocked { .. } => "Blocked",
            Self::Waiting { .. } => "Waiting",
            Self::Running { .. } => "Running",
        }
    }

    /// The condition reason, where there is one.
    pub fn reason(&self) -> &str {
        match self {
            Self::Failed { reason, .. } | Self::Blocked { reason, .. } => reason,
            _ => "",
        }
    }

    /// The words for people.
    pub fn message(&self) -> &str {
        match self {
            Self::Succeeded => "",
            Self::Failed { message, .. }
            | Self::Blocked { message, .. }
            | Self::Waiting { message }
            | Self::Running { message } => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn standing(kind: Kind, conditions: &Value) -> Standing {
        let object = serde_json::from_value(json!({
            "metadata": { "name": "x", "generation": 2 },
            "status": { "observedGeneration": 2, "conditions": conditions },
        }))
        .unwrap();
        Standing::of(kind, &object)
    }

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
    }

    #[test]
    fn work_is_done_when_its_conditions_say_so() {
        let done =
            json!([condition("Finished", "True", "Completed"), condition("Succeeded", "True", "Completed")]);
        assert_eq!(standing(Kind::Benchmark, &done), Standing::Succeeded);
        let failed =
            json!([condition("Finished", "True", "X"), condition("Succeeded", "False", "InputRejected")]);
        assert_eq!(standing(Kind::Benchmark, &failed).reason(), "InputRejected");
        assert!(standing(Kind::Benchmark, &failed).is_end());
        let ready = json!([condition("Ready", "True", "Completed")]);
        assert_eq!(standing(Kind::TaskSet, &ready), Standing::Succeeded);
    }

    #[test]
    fn what_a_person_has_to_change_blocks_and_what_passes_does_not() {
        let blocked = json!([condition("Succeeded", "Unknown", "NoProgress")]);
        assert_eq!(standing(Kind::AlignmentRun, &blocked).word(), "Blocked");
        let passing = json!([condition("Succeeded", "Unknown", "StoreUnavailable")]);
        assert_eq!(standing(Kind::AlignmentRun, &passing).word(), "Running");
        let waiting = json!([condition("Succeeded", "Unknown", "Waiting")]);
        assert_eq!(standing(Kind::AlignmentRun, &waiting).word(), "Waiting");
    }

    #[test]
    fn a_status_of_an_older_spec_says_nothing() {
        let object = serde_json::from_value(json!({ "metadata": { "generation": 3 }, "status": {
            "observedGeneration": 2, "conditions": [condition("Succeeded", "True", "Completed")] } }))
        .unwrap();
        assert_eq!(Standing::of(Kind::Benchmark, &object).word(), "Running");
    }
}
