//! The report of a whole run: before and after, the aligned data, the training, the provenance, and the gate.

use std::collections::BTreeMap;

use sealign_manifest::Digest;
use sealign_manifest::group::{ForestManifest, OutputRef};
use sealign_manifest::train::ModelManifest;
use sealign_plan::config::{AlignmentReport, MeasuredModel, PromotionGate};
use sealign_report::{
    Comparison, DataStatistics, ModelAttempts, Provenance, Report, ReportInput, TrainingStage,
};
use sealign_storage::ArtifactStore;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ATTEMPTS, Inputs, held_out_families, kept, pages};
use crate::error::WorkerError;
use crate::saving::settle_json;

/// `report.json` of a run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    name: String,
    /// Whether the gate was passed; absent without a gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promoted: Option<bool>,
    /// What the report rests on.
    inputs: BTreeMap<String, Digest>,
    /// Its pages.
    outputs: BTreeMap<String, OutputRef>,
    /// One report a benchmark, by the name of its template.
    reports: BTreeMap<String, Report>,
}

/// `promoted.json`: the gate was passed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promoted {
    benchmark: String,
    model: String,
    wins: u64,
    losses: u64,
    p_value: f64,
    max_p_value: f64,
}

pub(super) async fn write(store: &dyn ArtifactStore, config: &AlignmentReport) -> Result<(), WorkerError> {
    let mut inputs = Inputs::default();
    let bytes = inputs.take(store, "forest", config.forest.forest()).await?;
    let forest: ForestManifest = serde_json::from_slice(&bytes)?;
    let mut provenance: Vec<Provenance> = forest
        .inputs
        .iter()
        .map(|(name, digest)| Provenance { name: format!("forest input {name}"), digest: digest.to_string() })
        .collect();
    let (mut training, mut notes) = (Vec::new(), Vec::new());
    for step in &config.steps {
        let bytes = inputs.take(store, &format!("model {}", step.name), step.keys.model()).await?;
        let model: ModelManifest = serde_json::from_slice(&bytes)?;
        notes.extend(model.metrics.get("base").and_then(Value::as_str).map(|base| {
            format!(
                "{} began with {base}: what is learnt from there shows that the path works, not more",
                step.name
            )
        }));
        training.push(stage(&step.name, &model));
    }
    let mut tables: BTreeMap<String, Vec<ModelAttempts>> = BTreeMap::new();
    for measured in &config.benchmarks {
        let MeasuredModel { benchmark, model, keys } = measured;
        inputs.take(store, &format!("benchmark {benchmark} of {model}"), keys.report()).await?;
        let attempts =
            inputs.take(store, &format!("attempts {benchmark} of {model}"), keys.join(ATTEMPTS)).await?;
        tables.entry(benchmark.clone()).or_default().push(kept(&title(model), &attempts)?);
    }
    provenance.extend(inputs.provenance());
    let promoted = match &config.promotion {
        Some(gate) => Some(promote(store, config, gate, &tables).await?),
        None => None,
    };
    let data: DataStatistics = serde_json::from_value(forest.statistics)?;
    let (mut outputs, mut reports) = (BTreeMap::new(), BTreeMap::new());
    for (ordinal, benchmark) in names(&config.benchmarks).into_iter().enumerate() {
        let report = Report::new(ReportInput {
            title: format!("Alignment run {}", config.name),
            benchmark: benchmark.clone(),
            models: tables.remove(&benchmark).unwrap_or_default(),
            held_out_families: held_out_families(),
            data: Some(data.clone()),
            training: training.clone(),
            cost: Vec::new(),
            provenance: provenance.clone(),
            notes: notes.clone(),
        });
        // The first benchmark's page is the run's own.
        let stem = if ordinal == 0 { "report".to_owned() } else { format!("report-{benchmark}") };
        outputs.extend(pages(store, &config.keys, &stem, &report).await?);
        reports.insert(benchmark, report);
    }
    let manifest = Manifest { name: config.name.clone(), promoted, inputs: inputs.digests, outputs, reports };
    settle_json(store, &config.keys.lineage("report"), &inputs.lineage).await?;
    settle_json(store, &config.keys.report(), &manifest).await?;
    Ok(())
}

/// Names of the benchmarks in their order; a run without any still has its data and training to report.
fn names(benchmarks: &[MeasuredModel]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for measured in benchmarks {
        if !names.contains(&measured.benchmark) {
            names.push(measured.benchmark.clone());
        }
    }
    if names.is_empty() {
        names.push("none".to_owned());
    }
    names
}

/// How tables name a model of the run.
fn title(model: &str) -> String {
    match model {
        "sft" => "SFT".to_owned(),
        "dpo" => "SFT + DPO".to_owned(),
        other => other.to_owned(),
    }
}

/// A step's figures, those that are one number.
fn stage(name: &str, model: &ModelManifest) -> TrainingStage {
    let text = |value: &Value| match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map(|number| format!("{number:.4}")),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let figures =
        model.metrics.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect();
    TrainingStage { name: name.to_owned(), steps: model.steps, figures }
}

/// Compares the last model with the first on the benchmark that decides, and marks the run when it won.
async fn promote(
    store: &dyn ArtifactStore,
    config: &AlignmentReport,
    gate: &PromotionGate,
    tables: &BTreeMap<String, Vec<ModelAttempts>>,
) -> Result<bool, WorkerError> {
    let models = tables.get(&gate.benchmark).map_or(&[][..], Vec::as_slice);
    let [base, .., last] = models else {
        return Err(WorkerError::rejected(format!(
            "spec.promotion.benchmark: `{}` did not measure the base and an aligned model; name a benchmark that does",
            gate.benchmark
        )));
    };
    let found = Comparison::new(base, last, "", |_| true);
    let is_won = found.wins > found.losses && found.p_value < gate.max_p_value;
    if is_won {
        let mark = Promoted {
            benchmark: gate.benchmark.clone(),
            model: last.name.clone(),
            wins: found.wins,
            losses: found.losses,
            p_value: found.p_value,
            max_p_value: gate.max_p_value,
        };
        settle_json(store, &config.keys.promoted(), &mark).await?;
    }
    Ok(is_won)
}
