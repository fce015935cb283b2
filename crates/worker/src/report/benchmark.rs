//! The report of one benchmark: counts, intervals, and the paired test against each baseline.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealign_manifest::group::{ClosedSet, OutputRef, PlanManifest};
use sealign_manifest::key::Stage;
use sealign_manifest::record::outcome;
use sealign_manifest::{Digest, ItemKey, ObjectKeys, RolloutRecord, StopReason, Suite, Task, VerdictRecord};
use sealign_plan::config::BenchmarkReport;
use sealign_report::{Attempt, Comparison, ModelAttempts, Provenance, Report, ReportInput};
use sealign_storage::ArtifactStore;
use sealign_tasks::suites::humanevalfix::InvalidPatch;
use sealign_tasks::suites::mini::MiniTruth;
use serde::Serialize;

use super::{ATTEMPTS, Inputs, KeptAttempt, held_out_families, kept, pages};
use crate::error::WorkerError;
use crate::resolve::predictions::{PREDICTIONS, Predictions};
use crate::runner::grading::item_of;
use crate::runner::plan::{records, required, tasks};
use crate::saving::{output, read_json, settle_json};

/// `report.json` of a benchmark. The figures at its top are what the status of the Benchmark shows.
#[derive(Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    name: String,
    total: u64,
    resolved: u64,
    empty: u64,
    stuck: u64,
    invalid: u64,
    limit: u64,
    infra: u64,
    resolved_percent: f64,
    resolved_interval: Vec<f64>,
    comparisons: Vec<PairedTest>,
    /// What the report rests on.
    inputs: BTreeMap<String, Digest>,
    /// Its pages and the attempts.
    outputs: BTreeMap<String, OutputRef>,
    report: Report,
}

#[derive(Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PairedTest {
    baseline: String,
    wins: u64,
    losses: u64,
    p_value: f64,
}

pub(super) async fn write(store: &dyn ArtifactStore, config: &BenchmarkReport) -> Result<(), WorkerError> {
    let mut inputs = Inputs::default();
    inputs.take(store, "closed set", config.campaign.closed()).await?;
    let plan: PlanManifest = required(store, &config.campaign.plan()).await?;
    let (list, tasks) = tasks(store, &config.task_keys).await?;
    let attempts = attempts(store, &config.campaign, &plan, &tasks).await?;
    let attempts_ref = output(store, &config.keys, ATTEMPTS, serde_json::to_vec(&attempts)?).await?;
    let own = ModelAttempts {
        name: config.name.clone(),
        attempts: attempts.into_iter().map(Attempt::from).collect(),
    };
    let mut models = Vec::new();
    for baseline in &config.baselines {
        let name = format!("attempts of {}", baseline.name);
        models.push(kept(&baseline.name, &inputs.take(store, &name, baseline.keys.join(ATTEMPTS)).await?)?);
    }
    let mut provenance = vec![Provenance { name: "tasks".into(), digest: list.digest()?.to_string() }];
    provenance.extend(inputs.provenance());
    let comparisons = models.iter().map(|baseline| {
        let found = Comparison::new(baseline, &own, "", |_| true);
        PairedTest {
            baseline: baseline.name.clone(),
            wins: found.wins,
            losses: found.losses,
            p_value: found.p_value,
        }
    });
    let comparisons = comparisons.collect();
    models.push(own);
    let report = Report::new(ReportInput {
        title: format!("Benchmark {}", config.name),
        benchmark: format!("{}, {} tasks", list.suite.name(), plan.task_count),
        models,
        held_out_families: held_out_families(),
        provenance,
        ..ReportInput::default()
    });
    let mut outputs = pages(store, &config.keys, "report", &report).await?;
    outputs.insert(ATTEMPTS.to_owned(), attempts_ref);
    let own = report.models.last();
    let own = own.ok_or_else(|| WorkerError::Premise("the report has no model".into()))?;
    let manifest = Manifest {
        name: config.name.clone(),
        total: own.attempts,
        resolved: own.resolved.count,
        empty: own.empty.count,
        stuck: own.stuck.count,
        invalid: own.invalid.count,
        limit: own.limit.count,
        infra: own.infra,
        resolved_percent: own.resolved.percent,
        resolved_interval: vec![own.resolved.low, own.resolved.high],
        comparisons,
        inputs: inputs.digests,
        outputs,
        report,
    };
    settle_json(store, &config.keys.lineage("report"), &inputs.lineage).await?;
    settle_json(store, &config.keys.report(), &manifest).await?;
    Ok(())
}

type Tasks = BTreeMap<Digest, Arc<Task>>;

/// The attempts of a closed campaign, or the gradings of predictions, in order of task.
async fn attempts(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
    plan: &PlanManifest,
    tasks: &Tasks,
) -> Result<Vec<KeptAttempt>, WorkerError> {
    let _: ClosedSet = required(store, &keys.closed()).await?;
    let mut verdicts = BTreeMap::new();
    for group in &plan.groups {
        let prefix = keys.records(&group.id, Stage::Grade);
        verdicts.extend(records(store, &prefix, |record: VerdictRecord, _| record).await?);
    }
    let mut attempts = Vec::new();
    if plan.item_count == 0 {
        let given: Option<Predictions> = read_json(store, &keys.join(PREDICTIONS)).await?;
        let given = given.ok_or_else(|| WorkerError::Premise("the campaign has no attempts".into()))?;
        attempts.extend(predicted(&given, &verdicts, tasks));
    }
    for group in &plan.groups {
        let prefix = keys.records(&group.id, Stage::Rollout);
        let found: BTreeMap<ItemKey, RolloutRecord> = records(store, &prefix, |record, _| record).await?;
        for record in found.into_values() {
            let Some(task) = tasks.get(&record.item.task) else { continue };
            let verdict = record
                .patch
                .as_ref()
                .and_then(|patch| verdicts.get(&item_of(task, &record.item.task, patch, 0).key()));
            attempts.push((record.item.sample, attempt(task, &record, verdict, plan.graded)));
        }
    }
    attempts.sort_by(|(sample, a), (other, b)| (&a.task, sample).cmp(&(&b.task, other)));
    Ok(attempts.into_iter().map(|(_, attempt)| attempt).collect())
}

fn attempt(
    task: &Task,
    record: &RolloutRecord,
    verdict: Option<&VerdictRecord>,
    graded: bool,
) -> KeptAttempt {
    let property = |name: &str| record.properties.get(name).copied().unwrap_or(0);
    let was_run = !matches!(record.stop, StopReason::Infra | StopReason::NotRun);
    let is_empty = was_run && record.patch.is_none();
    KeptAttempt {
        task: task.id.clone(),
        family: family(task),
        outcome: outcome(record.stop, verdict.map(|record| record.verdict), graded),
        is_empty,
        is_stuck: property("stuck") > 0,
        is_invalid: match task.suite {
            Suite::HumanEvalFix => is_empty || is_invalid_patch(verdict),
            Suite::Mini | Suite::SweBench => property("invalidTurns") > 0,
        },
        invalid_turns: property("invalidTurns"),
        turns: u64::try_from(record.turns.len()).unwrap_or(u64::MAX),
        tokens: record.usage.prompt_tokens + record.usage.completion_tokens,
    }
}

fn is_invalid_patch(verdict: Option<&VerdictRecord>) -> bool {
    verdict.is_some_and(|record| InvalidPatch::of_detail(&record.detail).is_some())
}

fn family(task: &Task) -> String {
    MiniTruth::of(task).map_or_else(|_| String::new(), |truth| truth.family.name().to_owned())
}

fn predicted(
    given: &Predictions,
    verdicts: &BTreeMap<ItemKey, VerdictRecord>,
    tasks: &Tasks,
) -> Vec<(u32, KeptAttempt)> {
    let of = |(digest, task): (&Digest, &Arc<Task>)| {
        let patch = given.patches.get(&task.id)?;
        let verdict = patch.as_ref().and_then(|patch| verdicts.get(&item_of(task, digest, patch, 0).key()));
        let kept = KeptAttempt {
            task: task.id.clone(),
            family: family(task),
            outcome: outcome(StopReason::Finished, verdict.map(|record| record.verdict), true),
            is_empty: patch.is_none(),
            is_stuck: false,
            is_invalid: patch.is_none() || is_invalid_patch(verdict),
            invalid_turns: 0,
            turns: 0,
            tokens: 0,
        };
        Some((0, kept))
    };
    tasks.iter().filter_map(of).collect()
}
