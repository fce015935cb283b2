//! The plan of a TaskSet's health: gold and empty patches of every task, each graded so many times.

use sealign_crds::task_set::HealthPolicy;
use sealign_manifest::group::PlanManifest;
use sealign_manifest::{Digest, GradingItem, ObjectKeys};
use sealign_storage::ArtifactStore;

use super::{groups, write_gradings};
use crate::error::WorkerError;
use crate::runner::grading::item_of;
use crate::runner::plan::tasks;
use crate::saving::settle_blob;

/// Writes the groups of gradings, and the plan last.
///
/// # Errors
/// [`WorkerError`] where the task list is missing or the store fails.
pub async fn resolve(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
    task_keys: &ObjectKeys,
    policy: &HealthPolicy,
) -> Result<(), WorkerError> {
    let (list, tasks) = tasks(store, task_keys).await?;
    let repeats = u32::try_from(policy.repeats).unwrap_or(0);
    let empty = Digest::of_bytes(b"");
    let mut work: Vec<(String, Vec<GradingItem>)> = Vec::new();
    for reference in &list.tasks {
        let Some(task) = tasks.get(&reference.digest) else { continue };
        let mut patches = vec![empty.clone()];
        if let Some(gold) = task.gold_patch.as_ref().filter(|gold| !gold.is_empty()) {
            patches.push(settle_blob(store, gold.clone().into_bytes()).await?);
        }
        let gradings = patches
            .iter()
            .flat_map(|patch| (0..repeats).map(|repeat| item_of(task, &reference.digest, patch, repeat)));
        work.push((reference.image.clone(), gradings.collect()));
    }
    let plan = PlanManifest {
        tasks: list.digest()?,
        spec: Digest::of_json(&("health", repeats))?,
        task_count: u64::try_from(list.tasks.len()).unwrap_or(u64::MAX),
        item_count: 0,
        sandboxed: true,
        graded: true,
        groups: Vec::new(),
    };
    write_gradings(store, (keys, task_keys), groups::fill(work), plan).await
}
