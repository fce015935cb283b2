//! The frozen work of a run, and how much of it is done: read once, at the start.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use sealign_manifest::group::{
    GroupItems, GroupManifest, Lineage, PlanManifest, RoundMap, TaskListManifest, TryRecord,
};
use sealign_manifest::key::{Stage, record_item};
use sealign_manifest::{
    Digest, GradingItem, ItemKey, ObjectKeys, RolloutItem, RolloutRecord, StopReason, Task, Verdict,
    VerdictRecord,
};
use sealign_storage::artifact::JSON_BYTES_MAX;
use sealign_storage::{ArtifactStore, StoreError};
use serde::de::DeserializeOwned;

use crate::error::WorkerError;
use crate::resolve::TASKS;
use crate::saving::{self, patiently, read_json};

/// Objects that are read at once.
const READS_AT_ONCE: usize = 32;
/// Largest task list in bytes: 100,000 tasks of the built-in suite.
pub const ROWS_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What is kept of a rollout record: enough to grade and to count, little enough for a million.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Why it ended.
    pub stop: StopReason,
    /// Its task.
    pub task: Digest,
    /// Its patch, when not empty.
    pub patch: Option<Digest>,
    /// Three equal actions in a row.
    pub is_stuck: bool,
    /// Prompt and completion tokens.
    pub tokens: (u64, u64),
    /// Digest of the record's bytes.
    pub digest: Digest,
}

impl Rollout {
    /// The figures of a record whose bytes have this digest.
    pub fn of(record: &RolloutRecord, digest: Digest) -> Self {
        Self {
            stop: record.stop,
            task: record.item.task.clone(),
            patch: record.patch.clone(),
            is_stuck: record.properties.get("stuck").is_some_and(|stuck| *stuck > 0),
            tokens: (record.usage.prompt_tokens, record.usage.completion_tokens),
            digest,
        }
    }
}

/// What is kept of a grading record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graded {
    /// The verdict.
    pub verdict: Verdict,
    /// Digest of the record's bytes.
    pub digest: Digest,
}

/// One group's work and what is known of it.
#[derive(Debug)]
pub struct GroupWork {
    /// Group id.
    pub id: String,
    /// The image that its items share.
    pub image: String,
    /// Rollout items.
    pub items: Vec<RolloutItem>,
    /// Rollout records.
    pub rollouts: BTreeMap<ItemKey, Rollout>,
    /// The rollout manifest.
    pub rollout_manifest: Option<GroupManifest>,
    /// Verdicts that are recorded.
    pub verdicts: BTreeMap<ItemKey, Graded>,
    /// The grade manifest.
    pub grade_manifest: Option<GroupManifest>,
    /// Latest round of either stage, where there was more than one.
    pub rounds: Vec<RoundMap>,
}

/// The plan with its progress.
#[derive(Debug)]
pub struct PlanWork {
    /// [`PlanManifest::digest`].
    pub digest: Digest,
    /// The plan.
    pub manifest: PlanManifest,
    /// Groups in plan order.
    pub groups: Vec<GroupWork>,
    /// Failed tries.
    pub tries: Vec<TryRecord>,
}

/// Reads the tasks of a TaskSet, by digest, and checks them against their manifest.
///
/// # Errors
/// [`WorkerError`] where the list is missing, or its rows are not those that the manifest promises.
pub async fn tasks(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
) -> Result<(TaskListManifest, BTreeMap<Digest, Arc<Task>>), WorkerError> {
    let manifest: TaskListManifest = required(store, &keys.tasks()).await?;
    let key = keys.task_rows();
    let rows = saving::read(store, &key, ROWS_BYTES_MAX).await?;
    let rows = rows.ok_or_else(|| WorkerError::Premise(format!("`{key}` is missing")))?;
    if Digest::of_bytes(&rows) != manifest.rows {
        return Err(WorkerError::Premise(format!("`{key}` is not the rows that the task list names")));
    }
    let mut tasks = BTreeMap::new();
    for line in rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let task: Task = serde_json::from_slice(line).map_err(|error| {
            WorkerError::Premise(format!("`{key}` holds a line that is no task: {error}"))
        })?;
        tasks.insert(task.digest()?, Arc::new(task));
    }
    Ok((manifest, tasks))
}

/// Keys of the TaskSet that a plan was made for.
///
/// # Errors
/// [`WorkerError::Premise`] where the plan says nothing of it.
pub async fn task_keys(store: &dyn ArtifactStore, keys: &ObjectKeys) -> Result<ObjectKeys, WorkerError> {
    let key = keys.lineage("plan");
    let lineage: Lineage = required(store, &key).await?;
    let tasks = lineage.get(TASKS);
    tasks.map(|tasks| ObjectKeys::beside(tasks)).ok_or_else(|| {
        WorkerError::Premise(format!("`{key}` does not say where the tasks lie: resolve the object again"))
    })
}

/// Reads a document that must exist.
///
/// # Errors
/// [`WorkerError::Premise`] where it does not.
pub async fn required<T: DeserializeOwned>(store: &dyn ArtifactStore, key: &str) -> Result<T, WorkerError> {
    let found = read_json(store, key).await?;
    found.ok_or_else(|| WorkerError::Premise(format!("`{key}` is missing: the step before has not ended")))
}

/// Reads the plan and everything that is recorded of it.
///
/// # Errors
/// [`WorkerError`] where a document is missing or the store fails.
pub async fn read(store: &dyn ArtifactStore, keys: &ObjectKeys) -> Result<PlanWork, WorkerError> {
    let missing = || WorkerError::Premise(format!("`{}` is missing: resolve the object first", keys.plan()));
    let manifest: PlanManifest = read_json(store, &keys.plan()).await?.ok_or_else(missing)?;
    let digest = manifest.digest()?;
    let groups = stream::iter(manifest.groups.clone())
        .map(|group| async move {
            let items = match group.items {
                0 => Vec::new(),
                _ => required::<GroupItems>(store, &keys.group_items(&group.id)).await?.items,
            };
            Ok::<_, WorkerError>(GroupWork {
                rollouts: records(store, &keys.records(&group.id, Stage::Rollout), |record, digest| {
                    Rollout::of(&record, digest)
                })
                .await?,
                verdicts: records(store, &keys.records(&group.id, Stage::Grade), graded).await?,
                rollout_manifest: optional(store, &keys.group_manifest(&group.id, Stage::Rollout)).await?,
                grade_manifest: optional(store, &keys.group_manifest(&group.id, Stage::Grade)).await?,
                rounds: rounds(store, keys, &group.id).await?,
                id: group.id,
                image: group.image,
                items,
            })
        })
        .buffered(4)
        .try_collect()
        .await?;
    let tries = tries(store, keys).await?;
    Ok(PlanWork { digest, manifest, groups, tries })
}

async fn optional<T: DeserializeOwned>(
    store: &dyn ArtifactStore,
    key: &str,
) -> Result<Option<T>, WorkerError> {
    Ok(read_json(store, key).await?)
}

#[expect(clippy::needless_pass_by_value, reason = "records hands each record over")]
fn graded(record: VerdictRecord, digest: Digest) -> Graded {
    Graded { verdict: record.verdict, digest }
}

/// Reads a document with the digest of its bytes.
///
/// # Errors
/// [`WorkerError::Store`].
pub async fn document<T: DeserializeOwned>(
    store: &dyn ArtifactStore,
    key: &str,
) -> Result<Option<(T, Digest)>, WorkerError> {
    let Some(bytes) = saving::read(store, key, JSON_BYTES_MAX).await? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some((value, Digest::of_bytes(&bytes)))),
        Err(source) => Err(StoreError::Json { key: key.to_owned(), source }.into()),
    }
}

/// Reads the records below a prefix and keeps of each what is asked for.
///
/// # Errors
/// [`WorkerError::Store`].
pub async fn records<R: DeserializeOwned, T>(
    store: &dyn ArtifactStore,
    prefix: &str,
    keep: impl Fn(R, Digest) -> T,
) -> Result<BTreeMap<ItemKey, T>, WorkerError> {
    let names = patiently(|| store.list_names(prefix)).await?;
    let listed: Vec<(ItemKey, String)> =
        names.into_iter().filter_map(|name| Some((record_item(&name)?, name))).collect();
    let found: Vec<(ItemKey, Option<(R, Digest)>)> = stream::iter(listed)
        .map(|(item, name)| async move { Ok::<_, WorkerError>((item, document(store, &name).await?)) })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let keep = |(item, found): (ItemKey, Option<(R, Digest)>)| {
        let (record, digest) = found?;
        Some((item, keep(record, digest)))
    };
    Ok(found.into_iter().filter_map(keep).collect())
}

/// The latest round map of each stage.
async fn rounds(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
    group: &str,
) -> Result<Vec<RoundMap>, WorkerError> {
    let mut latest = Vec::new();
    for stage in [Stage::Rollout, Stage::Grade] {
        let prefix = keys.rounds(group, stage);
        let names = patiently(|| store.list_names(&prefix)).await?;
        let number = |name: &String| name.rsplit('/').next()?.strip_suffix(".json")?.parse::<u32>().ok();
        if let Some(round) = names.iter().filter_map(number).max() {
            latest.extend(optional::<RoundMap>(store, &keys.round(group, stage, round)).await?);
        }
    }
    Ok(latest)
}

async fn tries(store: &dyn ArtifactStore, keys: &ObjectKeys) -> Result<Vec<TryRecord>, WorkerError> {
    let prefix = keys.join("tries");
    let names = patiently(|| store.list_names(&prefix)).await?;
    let found: Vec<Option<TryRecord>> = stream::iter(names)
        .map(|name| async move { optional(store, &name).await })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// The distinct gradings that a group's rollouts need, by item.
pub fn gradings(
    rollouts: &BTreeMap<ItemKey, Rollout>,
    tasks: &BTreeMap<Digest, Arc<Task>>,
) -> BTreeMap<ItemKey, GradingItem> {
    let item = |rollout: &Rollout| {
        let task = tasks.get(&rollout.task)?;
        let item = super::grading::item_of(task, &rollout.task, rollout.patch.as_ref()?, 0);
        Some((item.key(), item))
    };
    rollouts.values().filter_map(item).collect()
}
