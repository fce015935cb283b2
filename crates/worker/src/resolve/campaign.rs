//! The plan of a campaign: which policy tries which task how often, in groups.

use sealign_crds::rollout_campaign::{Grading, Policy, RolloutCampaignSpec};
use sealign_manifest::group::{GroupRef, PlanManifest, TaskRef};
use sealign_manifest::{Digest, Task};
use sealign_plan::config::ResolvePlan;
use sealign_storage::ArtifactStore;
use sealign_tasks::plan::{PolicyShare, group_items};

use super::{quarantined, settle_plan};
use crate::error::WorkerError;
use crate::runner::context::{is_sandboxed, positive};
use crate::runner::plan::tasks;
use crate::runner::policy_digest;
use crate::saving::settle_json;

/// Items of one plan at most: what one runner holds in memory.
const ITEMS_MAX: usize = 2_000_000;

/// Writes the groups' items, and the plan last.
///
/// # Errors
/// [`WorkerError::Rejected`] where no task is left, or there are too many attempts.
pub async fn resolve(
    store: &dyn ArtifactStore,
    config: &ResolvePlan,
    spec: &RolloutCampaignSpec,
) -> Result<(), WorkerError> {
    let (list, tasks) = tasks(store, &config.task_keys).await?;
    let put_aside = quarantined(store, &config.task_keys).await?;
    let takes_part = |reference: &&TaskRef| !put_aside.contains(&reference.id);
    let healthy: Vec<Task> = list
        .tasks
        .iter()
        .filter(takes_part)
        .filter_map(|reference| tasks.get(&reference.digest).map(|task| (**task).clone()))
        .collect();
    if healthy.is_empty() {
        return Err(WorkerError::rejected(
            "taskSetRef: every task of the set is quarantined; look at its health.json and correct the set",
        ));
    }
    let samples = positive(spec.samples_per_task);
    let item_count = healthy.len().saturating_mul(usize::try_from(samples).unwrap_or(usize::MAX));
    if item_count > ITEMS_MAX {
        return Err(WorkerError::rejected(format!(
            "samplesPerTask: {item_count} attempts are more than {ITEMS_MAX}; make several campaigns"
        )));
    }
    let policies: Vec<PolicyShare> = spec.policies.iter().map(share).collect();
    let seed = u64::try_from(spec.seed).unwrap_or(0);
    let groups = group_items(&healthy, samples, &policies, seed)
        .map_err(|error| WorkerError::rejected(error.to_string()))?;
    let mut refs = Vec::new();
    for (image, group) in groups {
        let items = u32::try_from(group.items.len()).unwrap_or(u32::MAX);
        settle_json(store, &config.keys.group_items(&group.group), &group).await?;
        refs.push(GroupRef { id: group.group, image, items });
    }
    let plan = PlanManifest {
        tasks: list.digest()?,
        spec: spec_digest(spec, store).await?,
        task_count: u64::try_from(healthy.len()).unwrap_or(u64::MAX),
        item_count: u64::try_from(item_count).unwrap_or(u64::MAX),
        sandboxed: is_sandboxed(&spec.harness),
        graded: spec.grading == Grading::Tests,
        groups: refs,
    };
    settle_plan(store, &config.keys, &config.task_keys, &plan).await
}

/// The digest of everything in a spec that decides a record. Models are named by their weights, not by where those lie.
async fn spec_digest(spec: &RolloutCampaignSpec, store: &dyn ArtifactStore) -> Result<Digest, WorkerError> {
    let RolloutCampaignSpec {
        samples_per_task,
        policies,
        harness,
        grading,
        limits,
        seed,
        task_set_ref: _,
        sandbox: _,
        parallelism: _,
        budget: _,
        retry: _,
        artifacts: _,
        queue: _,
        suspend: _,
    } = spec;
    let mut shares = Vec::new();
    for policy in policies {
        shares.push((&policy.name, policy.weight, policy_digest(spec, policy, store).await?));
    }
    Ok(Digest::of_json(&(samples_per_task, shares, harness, grading, limits, seed))?)
}

fn share(policy: &Policy) -> PolicyShare {
    PolicyShare { name: policy.name.clone(), weight: positive(policy.weight) }
}
