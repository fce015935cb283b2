//! The resolver: turns a spec into frozen work.
//!
//! [`tasks`] writes the task list of a TaskSet and, where its tests are to be checked, the plan of those gradings;
//! [`campaign`] the plan of a campaign; [`predictions`] that of a benchmark over a file. The manifest comes last: where it
//! exists, nothing is done again. Everything is a function of the spec and the rows.

pub mod tasks;

pub mod rows;
pub mod select;

pub mod campaign;
pub mod groups;
pub mod health;
pub mod predictions;

use sealign_manifest::group::{GroupManifest, GroupRef, HealthManifest, Lineage, PlanManifest};
use sealign_manifest::key::Stage;
use sealign_manifest::{GradingItem, ObjectKeys};
use sealign_plan::config::{ResolvePlan, Work};
use sealign_storage::ArtifactStore;

use crate::error::WorkerError;
use crate::saving::{exists, read_json, settle_json};

/// Name of the task list in a plan's lineage.
pub const TASKS: &str = "tasks";

/// What the installation says of suites.
#[derive(Clone, Debug)]
pub struct Suites {
    /// Patterns of image references that tasks may use; `*` stands for any text.
    pub allowed_images: Vec<String>,
    /// Image of suites whose files come with their tasks.
    pub python_image: String,
    /// What is said of its interpreter in environment digests.
    pub interpreter: String,
}

impl Default for Suites {
    fn default() -> Self {
        Self {
            allowed_images: vec!["*".to_owned()],
            python_image: "python:3.12-slim".to_owned(),
            interpreter: "python3".to_owned(),
        }
    }
}

/// Freezes the plan of a campaign, a health run or a benchmark over predictions.
///
/// # Errors
/// [`WorkerError::Rejected`] for input that cannot be used.
pub async fn plan(store: &dyn ArtifactStore, config: &ResolvePlan) -> Result<(), WorkerError> {
    if exists(store, &config.keys.plan()).await? {
        return Ok(());
    }
    match &config.work {
        Work::Campaign(spec) => campaign::resolve(store, config, spec).await,
        Work::Health(spec) => health::resolve(store, &config.keys, &config.task_keys, &spec.health).await,
        Work::Predictions(spec) => predictions::resolve(store, config, spec).await,
    }
}

/// The tasks that health put aside; none where it was not checked.
async fn quarantined(store: &dyn ArtifactStore, keys: &ObjectKeys) -> Result<Vec<String>, WorkerError> {
    let health: Option<HealthManifest> = read_json(store, &keys.health()).await?;
    Ok(health.map_or_else(Vec::new, |health| health.quarantined.into_keys().collect()))
}

/// Writes a plan whose groups hold gradings only: their rollout stage is closed from the start.
async fn write_gradings(
    store: &dyn ArtifactStore,
    (keys, task_keys): (&ObjectKeys, &ObjectKeys),
    groups: Vec<(String, Vec<GradingItem>)>,
    mut plan: PlanManifest,
) -> Result<(), WorkerError> {
    for (ordinal, (image, mut gradings)) in groups.into_iter().enumerate() {
        let id = groups::id(ordinal);
        gradings.sort_by_key(GradingItem::key);
        let manifest = GroupManifest {
            group: id.clone(),
            stage: Stage::Rollout,
            records: std::collections::BTreeMap::new(),
            gradings,
        };
        settle_json(store, &keys.group_manifest(&id, Stage::Rollout), &manifest).await?;
        plan.groups.push(GroupRef { id, image, items: 0 });
    }
    settle_plan(store, keys, task_keys, &plan).await
}

/// Writes where the tasks lie, and the plan last.
async fn settle_plan(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
    task_keys: &ObjectKeys,
    plan: &PlanManifest,
) -> Result<(), WorkerError> {
    let lineage = Lineage::from([(TASKS.to_owned(), task_keys.tasks())]);
    settle_json(store, &keys.lineage("plan"), &lineage).await?;
    settle_json(store, &keys.plan(), plan).await?;
    Ok(())
}
