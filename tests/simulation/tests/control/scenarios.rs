//! The objects that runs begin with.

use sealign_reconcile::port::Kind;
use serde_json::{Value, json};

use super::harness::{Goal, NAMESPACE, create};
use super::world::World;

const PARALLELISM: u32 = 24;

/// Objects, a seed for the fates of pods, and what must come of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub seed: u64,
    pub create: fn(&World) -> Goal,
    /// The most sandboxes at once.
    pub peak_max: u32,
}

/// A TaskSet with its health run, and a campaign of fifty attempts.
pub const CAMPAIGN: Scenario =
    Scenario { name: "campaign", seed: 7, create: campaign, peak_max: PARALLELISM };

/// An AlignmentRun with everything that it makes: a campaign, a forest, two training stages, three benchmarks, a report.
pub const ALIGNMENT: Scenario =
    Scenario { name: "alignment-run", seed: 11, create: alignment, peak_max: u32::MAX };

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "sealign.dev/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE, "generation": 1 }, "spec": spec })
}

pub fn task_set(name: &str, repeats: u32) -> Value {
    let spec = json!({
        "source": { "mini": { "split": "Train", "count": 5 } }, "health": { "repeats": repeats },
        "sandbox": { "startSeconds": 10 },
    });
    object("TaskSet", name, &spec)
}

/// Ten samples of five tasks: fifty attempts in groups of 20, 20 and 10. Deadlines are a few ticks away.
fn campaign_spec(samples: u32) -> Value {
    json!({
        "taskSetRef": { "name": "train" }, "samplesPerTask": samples,
        "policies": [{ "name": "strong", "model": { "scripted": { "policy": "strong" } } }],
        "limits": { "wallSeconds": 20 }, "sandbox": { "startSeconds": 10 }, "parallelism": PARALLELISM,
    })
}

pub fn campaign_object() -> Value {
    object("RolloutCampaign", "fifty", &campaign_spec(10))
}

pub fn campaign(world: &World) -> Goal {
    create(world, task_set("train", 1));
    create(world, campaign_object());
    Goal { kind: Kind::RolloutCampaign, name: "fifty", condition: "Succeeded" }
}

pub fn run_object() -> Value {
    let spec = json!({
        "model": { "base": "builtin:mini-base" },
        "campaign": campaign_spec(4),
        "stages": { "sft": {}, "dpo": {} },
        "benchmarks": [{ "name": "fresh", "taskSetRef": { "name": "eval" },
            "limits": { "wallSeconds": 20 }, "sandbox": { "startSeconds": 10 } }],
        "promotion": { "benchmark": "fresh" },
    });
    object("AlignmentRun", "loop", &spec)
}

pub fn alignment(world: &World) -> Goal {
    create(world, task_set("train", 0));
    create(world, task_set("eval", 0));
    create(world, run_object());
    Goal { kind: Kind::AlignmentRun, name: "loop", condition: "Succeeded" }
}
