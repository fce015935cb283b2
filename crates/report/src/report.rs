//! The report as one value. Its JSON form is stable: fields are added, never renamed; `version` says which set it is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, ModelAttempts};
use crate::comparison::Comparison;
use crate::data::{Cost, DataStatistics, Provenance, TrainingStage};
use crate::summary::{ModelSummary, Rate};

/// Version of the JSON form.
pub const REPORT_VERSION: u32 = 1;

/// Everything that a report is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportInput {
    /// Title line.
    pub title: String,
    /// Name of the benchmark, for example `mini, evaluation split`.
    pub benchmark: String,
    /// Models in the order of the table, the base first.
    pub models: Vec<ModelAttempts>,
    /// Families that alignment data did not hold; results on them are also shown apart.
    pub held_out_families: BTreeSet<String>,
    /// The aligned data, where there is any.
    pub data: Option<DataStatistics>,
    /// Training steps in order.
    pub training: Vec<TrainingStage>,
    /// What attempts cost.
    pub cost: Vec<Cost>,
    /// What the report rests on.
    pub provenance: Vec<Provenance>,
    /// What a reader has to know to read the figures rightly.
    pub notes: Vec<String>,
}

/// A finished report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Title line.
    pub title: String,
    /// Name of the benchmark.
    pub benchmark: String,
    /// The before/after table.
    pub models: Vec<ModelSummary>,
    /// Each model against the one before it, and the last against the first; on all tasks and, where there are held-out
    /// families, on both groups.
    pub comparisons: Vec<Comparison>,
    /// Resolved by family.
    pub families: Vec<FamilyRow>,
    /// The paper's Table 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatistics>,
    /// Training steps.
    pub training: Vec<TrainingStage>,
    /// What attempts cost.
    pub cost: Vec<Cost>,
    /// What the report rests on, sorted by name.
    pub provenance: Vec<Provenance>,
    /// What a reader has to know, ours first.
    pub notes: Vec<String>,
}

/// One family's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyRow {
    /// The family.
    pub family: String,
    /// Alignment data did not hold it.
    pub is_held_out: bool,
    /// Resolved, in the order of the models.
    pub resolved: Vec<Rate>,
}

impl Report {
    /// Makes a report; a function of its input alone.
    pub fn new(input: ReportInput) -> Self {
        let models: Vec<ModelSummary> = input.models.iter().map(ModelSummary::new).collect();
        let comparisons = comparisons(&input);
        let notes = own_notes(&models, &comparisons).into_iter().chain(input.notes.iter().cloned()).collect();
        let families = family_rows(&input);
        let mut provenance = input.provenance;
        provenance.sort();
        Self {
            version: REPORT_VERSION,
            title: input.title,
            benchmark: input.benchmark,
            models,
            comparisons,
            families,
            data: input.data,
            training: input.training,
            cost: input.cost,
            provenance,
            notes,
        }
    }

    /// The report as indented JSON with a final line break.
    ///
    /// # Errors
    /// Never for a report made by [`Report::new`]; the signature is `serde_json`'s.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        crate::markdown::render(self)
    }

    /// The report as one HTML page without any outside asset.
    pub fn html(&self) -> String {
        crate::html::render(self)
    }
}

fn comparisons(input: &ReportInput) -> Vec<Comparison> {
    let mut steps: Vec<(&ModelAttempts, &ModelAttempts)> =
        input.models.windows(2).filter_map(|pair| Some((pair.first()?, pair.last()?))).collect();
    if let (Some(first), Some(last)) = (input.models.first(), input.models.last())
        && input.models.len() > 2
    {
        steps.push((first, last));
    }
    let held_out = |attempt: &Attempt| input.held_out_families.contains(&attempt.family);
    let all = input.models.iter().flat_map(|model| &model.attempts);
    let has_groups = all.clone().any(held_out) && all.clone().any(|attempt| !held_out(attempt));
    let mut found = Vec::new();
    for (from, to) in steps {
        found.push(Comparison::new(from, to, "", |_| true));
        if has_groups {
            found.push(Comparison::new(from, to, "aligned families", |attempt| !held_out(attempt)));
            found.push(Comparison::new(from, to, "held-out families", held_out));
        }
    }
    found
}

fn family_rows(input: &ReportInput) -> Vec<FamilyRow> {
    let attempts = input.models.iter().flat_map(|model| &model.attempts);
    let names: BTreeSet<&str> =
        attempts.map(|attempt| attempt.family.as_str()).filter(|family| !family.is_empty()).collect();
    let mut rows: Vec<FamilyRow> = names
        .into_iter()
        .map(|family| FamilyRow {
            family: family.to_owned(),
            is_held_out: input.held_out_families.contains(family),
            resolved: input.models.iter().map(|model| resolved_in(model, family)).collect(),
        })
        .collect();
    rows.sort_by(|a, b| (a.is_held_out, &a.family).cmp(&(b.is_held_out, &b.family)));
    rows
}

fn resolved_in(model: &ModelAttempts, family: &str) -> Rate {
    let counted = || model.attempts.iter().filter(|attempt| attempt.family == family && attempt.is_counted());
    let resolved = counted().filter(|attempt| attempt.is_resolved()).count();
    Rate::new(crate::summary::length(resolved), crate::summary::length(counted().count()))
}

/// Tasks below which an interval is so wide that a reader should be told.
const FEW_TASKS: u64 = 100;

/// What the figures themselves call for: few tasks, infrastructure failures, a side effect that rose, a step that shows
/// no difference.
fn own_notes(models: &[ModelSummary], comparisons: &[Comparison]) -> Vec<String> {
    let mut notes = Vec::new();
    if models.iter().any(|model| model.counted < FEW_TASKS) {
        notes.push(format!("Fewer than {FEW_TASKS} tasks: the intervals are wide; read the counts."));
    }
    for model in models.iter().filter(|model| model.counted < model.attempts) {
        notes.push(format!(
            "{}: {} of {} attempts are in no rate ({} infrastructure failures).",
            model.name,
            model.attempts - model.counted,
            model.attempts,
            model.infra
        ));
    }
    for pair in models.windows(2) {
        let [before, after] = pair else { continue };
        for (what, was, is) in
            [("Stuck", &before.stuck, &after.stuck), ("Empty", &before.empty, &after.empty)]
        {
            if is.tenths() > was.tenths() {
                let (from, to) = (&before.name, &after.name);
                notes.push(format!(
                    "{what} rises from {:.1} % ({from}) to {:.1} % ({to}).",
                    was.percent, is.percent
                ));
            }
        }
    }
    for comparison in comparisons.iter().filter(|comparison| comparison.on.is_empty()) {
        if comparison.reading() != "better" {
            notes.push(format!(
                "{} to {}: {} by the paired test.",
                comparison.from,
                comparison.to,
                comparison.reading()
            ));
        }
    }
    notes
}
