//! The plan of a benchmark over a file of predictions: one grading for each task that a solution changes.

use std::collections::BTreeMap;

use sealign_crds::BenchmarkSpec;
use sealign_manifest::group::PlanManifest;
use sealign_manifest::{Digest, GradingItem, Suite, Task};
use sealign_plan::config::ResolvePlan;
use sealign_storage::ArtifactStore;
use sealign_tasks::patch::{Patch, filter};
use sealign_tasks::suites::humanevalfix;
use serde::{Deserialize, Serialize};

use super::{groups, write_gradings};
use crate::error::WorkerError;
use crate::input;
use crate::runner::grading::item_of;
use crate::runner::plan::tasks;
use crate::saving::{settle_blob, settle_json};

/// `predictions.json` of a benchmark: what was given for each task of the set. Tasks without a prediction are in it, as
/// empty ones: they stay in the denominator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Predictions {
    /// Digest of the file.
    pub file: Option<Digest>,
    /// Digest of each task's filtered patch by task id; `None` for an empty one.
    pub patches: BTreeMap<String, Option<Digest>>,
    /// Ids in the file that the set does not have.
    pub unknown: Vec<String>,
}

/// Name of [`Predictions`] below the benchmark's prefix.
pub const PREDICTIONS: &str = "predictions.json";
/// Unknown ids that are kept by name.
const UNKNOWN_MAX: usize = 1_000;

/// Writes what was given, the groups of gradings, and the plan last.
///
/// # Errors
/// [`WorkerError::Rejected`] for a file that cannot be used.
pub async fn resolve(
    store: &dyn ArtifactStore,
    config: &ResolvePlan,
    spec: &BenchmarkSpec,
) -> Result<(), WorkerError> {
    let refuse = |problem: String| WorkerError::rejected(format!("predictions: {problem}"));
    let Some(source) = &spec.predictions else {
        return Err(refuse("no file is named; set `artifact:KEY` or `file:PATH`".into()));
    };
    let bytes = input::read(store, "predictions", source).await?;
    let given =
        humanevalfix::read_predictions(&bytes).map_err(|error| WorkerError::rejected(error.to_string()))?;
    let (list, tasks) = tasks(store, &config.task_keys).await?;
    if list.suite != Suite::HumanEvalFix {
        return Err(refuse(format!(
            "a file of bare solutions fits a TaskSet of HumanEvalFix, not of {}; use a model instead",
            list.suite.name()
        )));
    }
    let solutions: BTreeMap<&str, &str> =
        given.iter().map(|line| (line.task_id.as_str(), line.solution.as_str())).collect();
    let mut predictions = Predictions { file: Some(Digest::of_bytes(&bytes)), ..Predictions::default() };
    let mut work: Vec<(String, Vec<GradingItem>)> = Vec::new();
    for reference in &list.tasks {
        let Some(task) = tasks.get(&reference.digest) else { continue };
        let patch = solutions.get(task.id.as_str()).map_or_else(String::new, |text| patch_of(task, text));
        let mut digest = None;
        if !patch.is_empty() {
            let stored = settle_blob(store, patch.into_bytes()).await?;
            work.push((reference.image.clone(), vec![item_of(task, &reference.digest, &stored, 0)]));
            digest = Some(stored);
        }
        predictions.patches.insert(task.id.clone(), digest);
    }
    let is_unknown = |id: &&str| !predictions.patches.contains_key(*id);
    predictions.unknown =
        solutions.keys().copied().filter(is_unknown).take(UNKNOWN_MAX).map(str::to_owned).collect();
    let (_, digest) = settle_json(store, &config.keys.join(PREDICTIONS), &predictions).await?;
    let plan = PlanManifest {
        tasks: list.digest()?,
        spec: digest,
        task_count: u64::try_from(list.tasks.len()).unwrap_or(u64::MAX),
        item_count: 0,
        sandboxed: true,
        graded: true,
        groups: Vec::new(),
    };
    write_gradings(store, (&config.keys, &config.task_keys), groups::fill(work), plan).await
}

/// The filtered patch of a bare solution. One that cannot be filtered is kept as it is, and the grading says what is
/// wrong with it.
fn patch_of(task: &Task, solution: &str) -> String {
    let Some(patch) = humanevalfix::prediction_patch(task, solution) else { return String::new() };
    let filtered = Patch::parse(&patch).ok().and_then(|parsed| filter(task, &parsed).ok());
    filtered.map_or(patch, |filtered| filtered.patch)
}
