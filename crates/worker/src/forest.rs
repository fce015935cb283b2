//! The forest worker: records of closed campaigns and imported files in, trees, pairs, examples and a viewer out.
//!
//! What is merged, scored and paired, and how, is `sealign_forest`'s; this worker reads, joins verdicts, and writes. The
//! manifest comes last. It names the digests of everything that went in, and its lineage the keys.

use std::collections::{BTreeMap, BTreeSet};

use sealign_crds::TrajectoryForestSpec;
use sealign_crds::trajectory_forest::{self as crd, ImportSource};
use sealign_forest::viewer::{ViewerOptions, render};
use sealign_forest::{DataRatio, Exclusion, Filters, Forest, NodeKey, Options, Overlap, PairMode};
use sealign_forest::{PairOptions, ScoreEstimator, Selection, SftOptions, Threshold};
use sealign_manifest::group::{ForestManifest, Lineage, PlanManifest};
use sealign_manifest::key::Stage;
use sealign_manifest::record::{Outcome, outcome};
use sealign_manifest::{Digest, ItemKey, ObjectKeys, RolloutRecord, Verdict, VerdictRecord};
use sealign_plan::config::{BuildForest, ClosedCampaign};
use sealign_storage::ArtifactStore;
use sealign_storage::artifact::JSON_BYTES_MAX;
use sealign_trajectory::chat::ChatOptions;
use sealign_trajectory::export::write_rows;
use sealign_trajectory::import::{Format, ImportOptions, Importer, wants};
use sealign_trajectory::{Origin, Trajectory, UnknownCause};

use crate::error::WorkerError;
use crate::input;
use crate::runner::grading::item_of;
use crate::runner::plan::{records, required, task_keys, tasks};
use crate::saving::{exists, output, read, settle_json};

/// Refused records that are named in a log.
const REFUSED_SHOWN: usize = 20;

/// Builds the forest of `config`, unless it exists.
///
/// # Errors
/// [`WorkerError::Rejected`] for imports and options that cannot be used.
pub async fn build(store: &dyn ArtifactStore, config: &BuildForest) -> Result<(), WorkerError> {
    let keys = &config.keys;
    if exists(store, &keys.forest()).await? {
        return Ok(());
    }
    let mut inputs = BTreeMap::new();
    let mut lineage = Lineage::new();
    let mut trajectories = Vec::new();
    for campaign in &config.campaigns {
        trajectories.extend(attempts(store, campaign).await?);
        inputs.insert(campaign.name.clone(), campaign.digest.clone());
        lineage.insert(campaign.name.clone(), campaign.keys.closed());
    }
    for (index, source) in config.spec.imports.iter().enumerate() {
        let (digest, imported) = import(store, &format!("spec.imports[{index}]"), source).await?;
        inputs.insert(source.name.clone(), digest);
        trajectories.extend(imported);
    }
    let mut options = options(&config.spec)?;
    options.exclusion = exclusion(store, &config.excluded).await?;
    let forest = sealign_forest::build(&trajectories, &options)
        .map_err(|error| WorkerError::rejected(format!("spec: {error}")))?;
    let mut outputs = BTreeMap::new();
    for (name, file, bytes) in pages(&forest, &trajectories, keys.name())? {
        outputs.insert(name.to_owned(), output(store, keys, file, bytes).await?);
    }
    settle_json(store, &keys.lineage("forest"), &lineage).await?;
    let manifest = ForestManifest {
        inputs,
        options: Digest::of_json(&options)?,
        outputs,
        statistics: serde_json::to_value(&forest.statistics)?,
        sft_examples: count(forest.sft.len()),
        pairs: count(forest.training_pairs().count()),
    };
    settle_json(store, &keys.forest(), &manifest).await?;
    Ok(())
}

/// An object of a forest: name in the manifest, file name, bytes.
type Page = (&'static str, &'static str, Vec<u8>);

fn pages(forest: &Forest, trajectories: &[Trajectory], title: &str) -> Result<Vec<Page>, WorkerError> {
    let chat = ChatOptions::default();
    let broken = |error: sealign_forest::RowsError| WorkerError::Premise(error.to_string());
    let sft = forest.sft_rows(trajectories, &chat).map_err(broken)?;
    let dpo = forest.preference_rows(trajectories, &chat).map_err(broken)?;
    let viewer = render(forest, trajectories, title, ViewerOptions::default());
    Ok(vec![
        ("trees", "trees.json", forest.to_bytes()?),
        ("pairs", "pairs.json", serde_json::to_vec(&forest.pairs)?),
        ("sft", "sft.jsonl", write_rows(&sft)?.into_bytes()),
        ("dpo", "dpo.jsonl", write_rows(&dpo)?.into_bytes()),
        ("statistics", "statistics.json", serde_json::to_vec(&forest.summary())?),
        ("viewer", "viewer.html", viewer.into_bytes()),
    ])
}

/// The attempts of a closed campaign, joined with their verdicts.
///
/// # Errors
/// [`WorkerError`] where the set is not the promised one, or something of it is missing.
pub async fn attempts(
    store: &dyn ArtifactStore,
    campaign: &ClosedCampaign,
) -> Result<Vec<Trajectory>, WorkerError> {
    let key = campaign.keys.closed();
    let closed = read(store, &key, JSON_BYTES_MAX).await?;
    if closed.is_none_or(|bytes| Digest::of_bytes(&bytes) != campaign.digest) {
        return Err(WorkerError::Premise(format!(
            "`{key}` is not the closed set that the forest was made for"
        )));
    }
    let plan: PlanManifest = required(store, &campaign.keys.plan()).await?;
    let (_, tasks) = tasks(store, &task_keys(store, &campaign.keys).await?).await?;
    let mut attempts = Vec::new();
    for group in &plan.groups {
        let graded = campaign.keys.records(&group.id, Stage::Grade);
        let verdicts: BTreeMap<ItemKey, Verdict> =
            records(store, &graded, |record: VerdictRecord, _| record.verdict).await?;
        let rolled_out = campaign.keys.records(&group.id, Stage::Rollout);
        let found: BTreeMap<ItemKey, RolloutRecord> = records(store, &rolled_out, |record, _| record).await?;
        for (item, record) in found {
            let verdict = record.patch.as_ref().and_then(|patch| {
                let task = tasks.get(&record.item.task)?;
                verdicts.get(&item_of(task, &record.item.task, patch, 0).key()).copied()
            });
            let how = outcome(record.stop, verdict, plan.graded);
            attempts.push(trajectory(record, &item, &campaign.name, &group.id, how));
        }
    }
    Ok(attempts)
}

/// A record as the forest takes it. Its origin is named below the campaign's prefix, which holds a UID.
fn trajectory(record: RolloutRecord, item: &ItemKey, source: &str, group: &str, how: Outcome) -> Trajectory {
    let parts = record.turns.iter().map(|turn| 1 + turn.observation.as_ref().map_or(0, Vec::len));
    Trajectory {
        id: item.as_str().to_owned(),
        source: source.to_owned(),
        task: record.task_id,
        message_count: count(record.prompt.len() + parts.sum::<usize>()),
        prompt: record.prompt,
        first_observation: None,
        turns: record.turns,
        outcome: known(how),
        patch: None,
        exit_status: Some(format!("{:?}", record.stop)),
        model: Some(record.item.policy),
        origin: Origin {
            format: "sealign".to_owned(),
            path: format!("groups/{group}/rollout/{item}.json"),
            line: 1,
        },
        extra: BTreeMap::new(),
    }
}

/// Success, failure, or nothing that may be concluded.
fn known(how: Outcome) -> sealign_trajectory::Outcome {
    use sealign_trajectory::Outcome as Known;
    match how {
        Outcome::Resolved => Known::Success,
        Outcome::Unresolved
        | Outcome::Stuck
        | Outcome::ContextExceeded
        | Outcome::TurnLimit
        | Outcome::Timeout
        | Outcome::Limit
        | Outcome::Tampered => Known::Failure,
        Outcome::Infra | Outcome::ReplayDiverged => Known::Unknown(UnknownCause::Infrastructure),
        Outcome::NotRun | Outcome::Ungraded => Known::Unknown(UnknownCause::NoVerdict),
    }
}

async fn import(
    store: &dyn ArtifactStore,
    field: &str,
    source: &ImportSource,
) -> Result<(Digest, Vec<Trajectory>), WorkerError> {
    let format = Format::from_name(&source.format).ok_or_else(|| {
        let names: Vec<&str> = Format::NAMES.iter().map(|(name, _)| *name).collect();
        WorkerError::rejected(format!(
            "{field}.format `{}` is not known; use {}",
            source.format,
            names.join(", ")
        ))
    })?;
    let files = input::read_all(store, &format!("{field}.from"), &source.from, wants).await?;
    let require_instance_folder = files.len() > 1;
    let options =
        ImportOptions { format, require_instance_folder, ..ImportOptions::new(source.name.clone()) };
    let mut importer = Importer::new(options);
    let mut digests = Vec::new();
    for (path, bytes) in &files {
        digests.push((path, Digest::of_bytes(bytes)));
        importer.add(path, bytes);
    }
    let result = importer.finish();
    for refused in result.refused.iter().take(REFUSED_SHOWN) {
        tracing::warn!(set = source.name, "{refused}");
    }
    tracing::info!(
        set = source.name,
        trajectories = result.trajectories.len(),
        refused = result.refused.len(),
        ignored = result.ignored.len(),
        "imported"
    );
    if result.trajectories.is_empty() {
        let first = result.refused.first().map_or_else(
            || "no file there holds trajectories; name the folder or file that does".to_owned(),
            |refused| {
                format!("every record is refused, first {refused}; name the format, or correct the files")
            },
        );
        return Err(WorkerError::rejected(format!("{field}.from: {first}")));
    }
    Ok((Digest::of_json(&digests)?, result.trajectories))
}

/// What benchmarks measure on.
async fn exclusion(store: &dyn ArtifactStore, sets: &[ObjectKeys]) -> Result<Exclusion, WorkerError> {
    let mut exclusion = Exclusion::default();
    let mut statements = BTreeSet::new();
    for keys in sets {
        let (_, tasks) = tasks(store, keys).await?;
        for task in tasks.into_values() {
            exclusion.tasks.insert(task.id.clone());
            exclusion.repositories.extend(task.repo.clone());
            statements.insert(task.problem_statement.clone());
        }
    }
    exclusion.problem_statements = statements.into_iter().collect();
    Ok(exclusion)
}

/// A spec in the forest's terms.
///
/// # Errors
/// [`WorkerError::Rejected`] for a threshold that is none.
pub fn options(spec: &TrajectoryForestSpec) -> Result<Options, WorkerError> {
    let crd::Filters { deduplicate, loop_min_repeats, loop_require_same_observation, overlap_min_prefix } =
        spec.filters;
    let threshold: Threshold = spec
        .pairs
        .threshold
        .as_str()
        .parse()
        .map_err(|error| WorkerError::rejected(format!("spec.pairs.threshold: {error}")))?;
    let seed = u64::try_from(spec.seed).unwrap_or(0);
    Ok(Options {
        node_key: match spec.node_key {
            crd::NodeKey::Call => NodeKey::Call,
            crd::NodeKey::FullText => NodeKey::FullText,
            crd::NodeKey::CallAndObservation => NodeKey::CallAndObservation,
        },
        filters: Filters {
            deduplicate,
            loop_min_repeats: whole(loop_min_repeats),
            loop_require_same_observation,
            overlap: if overlap_min_prefix == 0 { Overlap::Off } else { Overlap::Prefix },
            overlap_min_prefix: whole(overlap_min_prefix),
        },
        pairs: pair_options(&spec.pairs, threshold, seed),
        sft: SftOptions {
            deduplicate: spec.sft.deduplicate,
            max_per_task: spec.sft.max_per_task.map(whole),
            seed,
        },
        data_ratio: DataRatio { percent: whole(spec.data_percent), seed, pairs_only: false },
        ..Options::default()
    })
}

fn pair_options(rule: &crd::PairRule, threshold: Threshold, seed: u64) -> PairOptions {
    PairOptions {
        mode: match rule.mode {
            crd::PairMode::Critical => PairMode::Critical,
            crd::PairMode::WholeTrajectory => PairMode::WholeTrajectory,
        },
        threshold,
        score_estimator: match rule.score_estimator {
            crd::ScoreEstimator::Raw => ScoreEstimator::Raw,
            crd::ScoreEstimator::Laplace => ScoreEstimator::Laplace,
        },
        min_support: whole(rule.min_support),
        selection: match rule.selection {
            crd::PairSelection::BestAgainstWorst => Selection::BestWorst,
            crd::PairSelection::BestAgainstEach => Selection::BestVsEach,
            crd::PairSelection::All => Selection::AllPairs,
        },
        require_different_kind: rule.require_different_kind,
        max_pairs_per_decision: Some(whole(rule.max_pairs_per_decision)),
        drop_divergent: rule.drop_divergent,
        seed,
        ..PairOptions::default()
    }
}

/// The schema allows no negative number here.
fn whole(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
