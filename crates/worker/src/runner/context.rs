//! What every attempt and grading of a run shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealign_agent::{Clock, Harness, Limits, StuckRule};
use sealign_crds::model::Sampling;
use sealign_crds::rollout_campaign::RolloutCampaignSpec;
use sealign_crds::shared::{HarnessName, HarnessSpec, StopRule};
use sealign_manifest::{Digest, ObjectKeys, Task};
use sealign_storage::ArtifactStore;

use super::models::Models;
use super::outcome::Ends;
use super::sandbox::Doors;
use crate::error::WorkerError;

/// Shared by every attempt and grading.
pub struct Context {
    /// The store.
    pub store: Arc<dyn ArtifactStore>,
    /// Keys of the object that owns the work.
    pub keys: ObjectKeys,
    /// The tasks, by digest.
    pub tasks: BTreeMap<Digest, Arc<Task>>,
    /// Ways to sandboxes.
    pub doors: Arc<dyn Doors>,
    /// How pods end.
    pub ends: Ends,
    /// What rollouts need; `None` where only gradings are run.
    pub rollouts: Option<Rollouts>,
}

/// What rollouts need.
pub struct Rollouts {
    /// The models of the policies.
    pub models: Arc<dyn Models>,
    /// The scaffold.
    pub harness: Box<dyn Harness>,
    /// Bounds of an attempt.
    pub limits: Limits,
    /// The rule that ends a loop.
    pub stuck_rule: StuckRule,
    /// Sampling and digest, by policy.
    pub policies: BTreeMap<String, PolicySettings>,
    /// Time, for the wall limit.
    pub clock: Box<dyn Clock>,
}

/// What a record says of its policy.
#[derive(Clone, Debug)]
pub struct PolicySettings {
    /// How tokens are drawn.
    pub sampling: sealign_agent::Sampling,
    /// Digest of model, sampling, harness and limits.
    pub digest: Digest,
}

impl Context {
    /// The task of an item.
    ///
    /// # Errors
    /// When the plan names a task that the TaskSet does not hold.
    pub fn task(&self, digest: &Digest) -> Result<Arc<Task>, WorkerError> {
        let unknown =
            || WorkerError::Premise(format!("the plan names task {digest}, which the TaskSet lacks"));
        self.tasks.get(digest).cloned().ok_or_else(unknown)
    }
}

/// The bounds of a campaign in the agent's terms.
pub fn limits(spec: &RolloutCampaignSpec) -> Limits {
    let limits = &spec.limits;
    Limits {
        turns: positive(limits.turns),
        context_tokens: u64::from(positive(limits.context_tokens)),
        wall_seconds: u64::from(positive(limits.wall_seconds)),
        tokens: u64::try_from(limits.tokens).ok(),
        command_seconds: u64::from(positive(limits.command_seconds)),
    }
}

/// The sampling of a policy in the agent's terms.
pub fn sampling(spec: &RolloutCampaignSpec, sampling: &Sampling) -> sealign_agent::Sampling {
    sealign_agent::Sampling {
        temperature: sampling.temperature.to_f64(),
        top_p: sampling.top_p.to_f64(),
        max_tokens: positive(spec.limits.turn_tokens),
        repetition_penalty: None,
    }
}

/// The rule that ends a loop in the agent's terms.
pub fn stuck_rule(rule: StopRule) -> StuckRule {
    match rule {
        StopRule::Paper3 => StuckRule::Paper3,
        StopRule::OpenHands024 => StuckRule::OpenHands024,
        StopRule::Off => StuckRule::Off,
    }
}

/// Whether attempts of this harness need a sandbox.
pub fn is_sandboxed(harness: &HarnessSpec) -> bool {
    match harness.name {
        HarnessName::OpenHands => true,
        HarnessName::Direct => false,
    }
}

/// The schema allows only positive numbers; anything else would be a corrupt configuration, and one is the safe bound.
pub fn positive(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(1).max(1)
}
