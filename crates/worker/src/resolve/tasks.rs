//! The task list of a TaskSet: rows, selection, images, `tasks.jsonl`, and `tasks.json` last.

use sealign_manifest::group::{TaskListManifest, TaskRef};
use sealign_manifest::{Digest, Task};
use sealign_plan::config::ResolveTasks;
use sealign_storage::ArtifactStore;
use serde::Serialize;

use super::rows::{self, RefusedRow};
use super::select::{is_reference, matches, select, unknown};
use super::{Suites, health};
use crate::error::WorkerError;
use crate::runner::plan::ROWS_BYTES_MAX;
use crate::saving::{exists, read, settle, settle_json};

/// `refused.json` of a TaskSet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Refused<'a> {
    count: u64,
    rows: &'a [RefusedRow],
}

/// Writes the task list, and the plan of its health where that is asked for.
///
/// # Errors
/// [`WorkerError::Rejected`] for a source without a usable task.
pub async fn resolve(
    store: &dyn ArtifactStore,
    config: &ResolveTasks,
    suites: &Suites,
) -> Result<(), WorkerError> {
    let keys = &config.keys;
    if !exists(store, &keys.tasks()).await? {
        let suite = rows::suite(&config.spec.source)?;
        // Rows without a manifest are those of a resolver that died in between: they count.
        let lines = if let Some(lines) = read(store, &keys.task_rows(), ROWS_BYTES_MAX).await? {
            lines
        } else {
            let chosen = chosen(store, config, suites).await?;
            settle(store, &keys.task_rows(), lines(&chosen)?).await?
        };
        let tasks = parse(&lines)?;
        let reference = |task: &Task| -> Result<TaskRef, WorkerError> {
            Ok(TaskRef {
                id: task.id.clone(),
                digest: task.digest()?,
                environment: task.environment.digest.clone(),
                image: task.environment.image.clone(),
            })
        };
        let manifest = TaskListManifest {
            suite,
            rows: Digest::of_bytes(&lines),
            tasks: tasks.iter().map(reference).collect::<Result<_, _>>()?,
        };
        settle_json(store, &keys.tasks(), &manifest).await?;
    }
    let policy = &config.spec.health;
    if policy.repeats > 0 && !exists(store, &keys.plan()).await? {
        health::resolve(store, keys, keys, policy).await?;
    }
    Ok(())
}

async fn chosen(
    store: &dyn ArtifactStore,
    config: &ResolveTasks,
    suites: &Suites,
) -> Result<Vec<Task>, WorkerError> {
    let spec = &config.spec;
    let mut found = rows::read(store, &spec.source, suites).await?;
    if found.refused_count > 0 {
        for row in found.refused.iter().take(20) {
            tracing::warn!(line = row.line, reason = row.reason, "a row was refused");
        }
        let refused = Refused { count: found.refused_count, rows: &found.refused };
        let bytes = serde_json::to_vec(&refused)?;
        settle(store, &config.keys.join("refused.json"), bytes).await?;
    }
    if found.tasks.is_empty() {
        let first = found.refused.first().map_or_else(
            || "the file holds no rows; give JSON Lines".to_owned(),
            |row| format!("line {}: {}", row.line, row.reason),
        );
        return Err(WorkerError::rejected(format!("source: no row is a task of the suite; {first}")));
    }
    rows::apply_template(&mut found.tasks, &spec.image);
    let missing = unknown(&found.tasks, &spec.selection);
    if let Some(first) = missing.first() {
        return Err(WorkerError::rejected(format!(
            "selection.include: the source has no task `{first}` ({} of {} named ones are missing); correct the ids",
            missing.len(),
            spec.selection.include.len()
        )));
    }
    let tasks = select(found.tasks, &spec.selection);
    if tasks.is_empty() {
        return Err(WorkerError::rejected("selection: no task of the source is left; select less strictly"));
    }
    check_images(&tasks, suites)?;
    Ok(tasks)
}

fn check_images(tasks: &[Task], suites: &Suites) -> Result<(), WorkerError> {
    for Task { id, environment, .. } in tasks {
        let image = &environment.image;
        if !is_reference(image) {
            return Err(WorkerError::rejected(format!(
                "image.template: task `{id}` would run in `{image}`, which is no image reference; correct the template"
            )));
        }
        if !suites.allowed_images.iter().any(|pattern| matches(pattern, image)) {
            return Err(WorkerError::rejected(format!(
                "image.template: task `{id}` would run in `{image}`, which the installation does not allow; use an \
                 image that matches {}",
                suites.allowed_images.join(" or ")
            )));
        }
    }
    Ok(())
}

fn lines(tasks: &[Task]) -> Result<Vec<u8>, WorkerError> {
    let mut bytes = Vec::new();
    for task in tasks {
        serde_json::to_writer(&mut bytes, task)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn parse(lines: &[u8]) -> Result<Vec<Task>, WorkerError> {
    let tasks = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(tasks.map(serde_json::from_slice).collect::<Result<_, _>>()?)
}
