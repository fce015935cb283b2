//! RolloutCampaign: attempts at tasks.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;
use crate::model::{ModelSpec, Sampling};
use crate::shared::{Artifacts, HarnessSpec, Limits, LocalRef, QueueSpec, Retry, SandboxSpec};

/// Attempts at tasks: which policies try each task how often, in which harness, within which limits.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sealign.dev",
    version = "v1alpha1",
    kind = "RolloutCampaign",
    plural = "rolloutcampaigns",
    namespaced,
    category = "sealign",
    shortname = "rcamp",
    status = "RolloutCampaignStatus",
    derive = "PartialEq",
    doc = "Attempts of agents at the tasks of a TaskSet, each in a sandbox of its own, and the verdicts on what they leave.",
    printcolumn(name = "Attempts", type_ = "integer", json_path = ".status.attempts"),
    printcolumn(name = "Recorded", type_ = "integer", json_path = ".status.recorded"),
    printcolumn(name = "Resolved", type_ = "integer", json_path = ".status.outcomes.Resolved"),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].reason"
    ),
    printcolumn(name = "Tokens", type_ = "integer", json_path = ".status.tokens", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    cel
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCampaignSpec {
    /// The tasks.
    #[x_kube(validation = Rule::new("self == oldSelf").message("taskSetRef cannot change: create another campaign"))]
    pub task_set_ref: LocalRef,
    /// Attempts at each task, over all policies.
    #[serde(default = "default_samples")]
    #[schemars(range(min = 1, max = 10_000))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("samplesPerTask cannot change: create another campaign"))]
    pub samples_per_task: i32,
    /// Who tries. Samples are shared out by weight.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("policies cannot change: create another campaign"))]
    pub policies: Vec<Policy>,
    /// The scaffold around the model.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("harness cannot change: create another campaign"))]
    pub harness: HarnessSpec,
    /// Whether tests judge what attempts leave.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("grading cannot change: create another campaign"))]
    pub grading: Grading,
    /// How an attempt ends when it does not end by itself.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("limits cannot change: create another campaign"))]
    pub limits: Limits,
    /// Another seed gives other samples.
    #[serde(default)]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("seed cannot change: create another campaign"))]
    pub seed: i32,
    /// What each sandbox may use.
    #[serde(default)]
    pub sandbox: SandboxSpec,
    /// Sandboxes at once, rollouts and gradings together.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: i32,
    /// What the campaign may cost; no bound when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How failed tries are repeated.
    #[serde(default)]
    pub retry: Retry,
    /// Where artifacts go.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("artifacts cannot change: create another campaign"))]
    pub artifacts: Artifacts,
    /// Labels that a queueing system reads on Jobs.
    #[serde(default)]
    pub queue: QueueSpec,
    /// Deletes what runs and starts nothing; what is recorded stays and is not run again.
    #[serde(default)]
    pub suspend: bool,
}

fn default_samples() -> i32 {
    1
}
fn default_parallelism() -> i32 {
    16
}

/// Who tries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Name within the campaign; records carry it.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The model.
    pub model: ModelSpec,
    /// Share of the samples, relative to the other policies.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: i32,
    /// How tokens are drawn.
    #[serde(default)]
    pub sampling: Sampling,
}

fn default_weight() -> i32 {
    1
}

/// Whether tests judge what attempts leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Grading {
    /// The suite's tests, in a fresh sandbox.
    #[default]
    Tests,
    /// No verdicts.
    None,
}

/// What a campaign may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Prompt and completion tokens of all tries.
    #[schemars(range(min = 1))]
    pub tokens: i64,
    /// What happens when they are spent.
    #[serde(default)]
    pub on_budget: OnBudget,
}

/// What happens when a budget is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBudget {
    /// Wait; raising the budget resumes.
    #[default]
    Wait,
    /// Close the rest as not run; they stay in the denominators.
    Finish,
}

/// What is known of a RolloutCampaign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCampaignStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Succeeded`, `Finished`, `Suspended`, `BudgetExhausted`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// When work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the set was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Attempts to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// Attempts whose record exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<i64>,
    /// Gradings whose record exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graded: Option<i64>,
    /// Attempts by outcome, as far as known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub outcomes: BTreeMap<String, i64>,
    /// Tokens of all tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<i64>,
    /// Attempts recorded a minute, since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_per_minute: Option<Decimal>,
    /// Seconds until the end at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Digest of the closed set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// Folder of the artifacts below the store's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub artifacts: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn campaign(change: impl FnOnce(&mut Value)) -> RolloutCampaign {
        let mut object = json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "RolloutCampaign", "metadata": { "name": "c" },
            "spec": {
                "taskSetRef": { "name": "tasks" },
                "policies": [{ "name": "strong", "model": { "scripted": { "policy": "strong" } } }],
            },
        });
        change(&mut object["spec"]);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn defaults_are_the_papers() {
        let spec = campaign(|_| ()).spec;
        assert_eq!((spec.limits.turns, spec.limits.context_tokens), (30, 32_768));
        assert_eq!(spec.policies[0].sampling.temperature.as_str(), "0");
        assert_eq!(spec.grading, Grading::Tests);
    }

    #[test]
    fn a_model_is_exactly_one_thing() {
        campaign(|_| ()).validate_cel().unwrap();
        let none = campaign(|spec| spec["policies"][0]["model"] = json!({}));
        assert!(none.validate_cel().unwrap_err().to_string().contains("exactly one of endpoint"));
    }

    #[test]
    fn artifacts_stay_below_the_root() {
        let error =
            campaign(|spec| spec["artifacts"] = json!({ "path": "a/../../b" })).validate_cel().unwrap_err();
        assert!(error.to_string().contains("artifacts.path"), "{error}");
    }

    #[test]
    fn what_decides_a_record_is_frozen_and_the_rest_is_not() {
        let old = campaign(|_| ());
        let other = campaign(|spec| spec["limits"] = json!({ "turns": 9 }));
        assert!(other.validate_cel_update(&old).unwrap_err().to_string().contains("limits cannot change"));
        campaign(|spec| spec["parallelism"] = json!(3)).validate_cel_update(&old).unwrap();
        campaign(|spec| spec["suspend"] = json!(true)).validate_cel_update(&old).unwrap();
    }
}
