//! The result of a run: objects and how they ended, before/after tables, and where pages lie.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kube::core::DynamicObject;
use sealign_local::engine::{RunResult, store_url};
use sealign_local::objects::ObjectKey;
use sealign_local::standing::Standing;
use sealign_plan::{labels, names};
use sealign_reconcile::port::Kind;
use sealign_report::{Cost, Report};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::CliError;
use crate::output::table;
use crate::state::{objects, stored};

/// What `sealign run --output json` prints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSummary {
    /// The manifest as it was named.
    pub manifest: String,
    /// The state folder.
    pub state: PathBuf,
    /// URL of the store.
    pub store: String,
    /// Every object succeeded.
    pub succeeded: bool,
    /// Everything had succeeded before, and nothing was done.
    pub already_complete: bool,
    /// Wall seconds of this command.
    pub wall_seconds: f64,
    /// The manifest's objects.
    pub objects: Vec<ObjectSummary>,
    /// The reports of the manifest's objects.
    pub reports: Vec<ReportSummary>,
    /// Pages that show forests.
    pub viewers: Vec<PathBuf>,
    /// What the attempts of this command cost, by campaign.
    pub costs: Vec<Cost>,
}

/// One object of a manifest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectSummary {
    /// Kind.
    pub kind: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// `Succeeded`, `Failed`, `Blocked`, `Waiting` or `Running`.
    pub result: &'static str,
    /// Condition reason; empty after success.
    pub reason: String,
    /// For people; empty after success.
    pub message: String,
    /// Digests of what it left, by name.
    pub digests: BTreeMap<String, String>,
}

/// One report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportSummary {
    /// Kind of the object that it is about.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its page.
    pub page: PathBuf,
    /// The same as Markdown.
    pub markdown: PathBuf,
    /// The same as data.
    pub data: PathBuf,
    /// Name of the benchmark.
    pub benchmark: String,
    /// The report itself.
    pub report: Report,
}

/// `report.json` of a run or of a benchmark.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReportManifest {
    outputs: BTreeMap<String, sealign_manifest::group::OutputRef>,
    #[serde(default)]
    report: Option<Report>,
    #[serde(default)]
    reports: BTreeMap<String, Report>,
}

impl RunSummary {
    /// Sums up a run whose state folder is `state`.
    ///
    /// # Errors
    /// [`CliError`] when what it left cannot be read.
    pub fn new(result: &RunResult, state: &Path) -> Result<Self, CliError> {
        let mut reports = Vec::new();
        for object in &result.objects {
            reports.extend(reports_of(state, object.kind, &object.object)?);
        }
        let roots: Vec<&str> =
            result.objects.iter().filter_map(|result| result.object.metadata.uid.as_deref()).collect();
        let viewers = viewers(state, &objects(state)?, |object| {
            let owner = object.metadata.labels.as_ref().and_then(|labels| labels.get(labels::OWNER_UID));
            let uid = object.metadata.uid.as_deref();
            uid.is_some_and(|uid| roots.contains(&uid))
                || owner.is_some_and(|uid| roots.contains(&uid.as_str()))
        });
        Ok(Self {
            manifest: String::new(),
            state: state.to_owned(),
            store: store_url(state),
            succeeded: result.is_success(),
            already_complete: result.was_complete,
            wall_seconds: 0.0,
            objects: result
                .objects
                .iter()
                .map(|one| object_summary(one.kind, &one.object, &one.standing))
                .collect(),
            reports,
            viewers: viewers.into_iter().map(|(_, path)| path).collect(),
            costs: Vec::new(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let rows = self.objects.iter().map(|object| {
            let said = [object.reason.as_str(), object.message.as_str()];
            let said: Vec<&str> = said.into_iter().filter(|part| !part.is_empty()).collect();
            vec![object.kind.to_owned(), object.name.clone(), object.result.to_owned(), said.join(": ")]
        });
        let _ = writeln!(text, "{}", table(&["KIND", "NAME", "RESULT", ""], rows.collect()));
        for report in &self.reports {
            let _ = write!(text, "\n{}", before_after(report));
        }
        if !self.costs.is_empty() {
            text.push('\n');
        }
        for cost in &self.costs {
            let _ = writeln!(text, "{}: {} attempts, {}", cost.what, cost.attempts, cost.text());
        }
        text.push('\n');
        for report in &self.reports {
            let _ = writeln!(text, "report: {}", report.page.display());
        }
        for viewer in &self.viewers {
            let _ = writeln!(text, "viewer: {}", viewer.display());
        }
        let _ = match (self.already_complete, self.succeeded) {
            (true, _) => writeln!(text, "already complete: nothing was done ({:.1} s)", self.wall_seconds),
            (false, true) => writeln!(text, "complete in {:.1} s", self.wall_seconds),
            (false, false) => writeln!(text, "not complete after {:.1} s", self.wall_seconds),
        };
        text
    }
}

fn object_summary(kind: Kind, object: &DynamicObject, standing: &Standing) -> ObjectSummary {
    let meta = &object.metadata;
    let mut digests = BTreeMap::new();
    let mut note = |name: &str, digest: Option<&Value>| {
        if let Some(digest) = digest.and_then(Value::as_str) {
            digests.insert(name.to_owned(), digest.to_owned());
        }
    };
    note("digest", object.data.pointer("/status/digest"));
    for step in object.data.pointer("/status/steps").and_then(Value::as_array).into_iter().flatten() {
        let name = step.get("name").and_then(Value::as_str).unwrap_or_default();
        note(name, step.get("digest"));
    }
    ObjectSummary {
        kind: kind.name(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        result: standing.word(),
        reason: standing.reason().to_owned(),
        message: standing.message().to_owned(),
        digests,
    }
}

/// The reports that an object has written; none while it has not.
///
/// # Errors
/// [`CliError::Input`] for a report that is not readable.
pub fn reports_of(state: &Path, kind: Kind, object: &DynamicObject) -> Result<Vec<ReportSummary>, CliError> {
    if !matches!(kind, Kind::AlignmentRun | Kind::Benchmark) {
        return Ok(Vec::new());
    }
    let keys = names::keys(kind, object);
    let data = stored(state, &keys.report());
    let bytes = match std::fs::read(&data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(CliError::file("read", &data))?,
    };
    let manifest: ReportManifest = serde_json::from_slice(&bytes).map_err(|error| {
        CliError::Input(format!("{}: is not a report of this version: {error}", data.display()))
    })?;
    let name = object.metadata.name.clone().unwrap_or_default();
    let single = manifest.report.map(|report| (report.benchmark.clone(), report));
    let all = single.into_iter().chain(manifest.reports);
    let summary = |(benchmark, report): (String, Report)| {
        // A run's first benchmark has the page `report.html`; each further one a page of its own.
        let own = format!("report-{benchmark}");
        let stem =
            if manifest.outputs.contains_key(&format!("{own}.html")) { own } else { "report".to_owned() };
        ReportSummary {
            kind: kind.name(),
            name: name.clone(),
            page: stored(state, &keys.join(&format!("{stem}.html"))),
            markdown: stored(state, &keys.join(&format!("{stem}.md"))),
            data: data.clone(),
            benchmark,
            report,
        }
    };
    Ok(all.map(summary).collect())
}

/// The viewers of forests that `is_wanted`, by name of the forest.
pub fn viewers(
    state: &Path,
    objects: &[(ObjectKey, DynamicObject)],
    is_wanted: impl Fn(&DynamicObject) -> bool,
) -> Vec<(String, PathBuf)> {
    let forests =
        objects.iter().filter(|(key, object)| key.kind == Kind::TrajectoryForest && is_wanted(object));
    let page = |(key, object): &(ObjectKey, DynamicObject)| {
        let page = stored(state, object.data.pointer("/status/viewer")?.as_str()?);
        page.is_file().then(|| (key.name.clone(), page))
    };
    forests.filter_map(page).collect()
}

/// The before/after table of a report, with its paired tests.
pub fn before_after(summary: &ReportSummary) -> String {
    let report = &summary.report;
    let mut text = format!("{} {}, {}:\n", summary.kind, summary.name, report.benchmark);
    let rows = report.models.iter().map(|model| {
        let rates = [&model.resolved, &model.empty, &model.stuck, &model.invalid];
        std::iter::once(model.name.clone()).chain(rates.map(sealign_report::Rate::text)).collect()
    });
    let _ = writeln!(text, "{}", table(&["MODEL", "RESOLVED", "EMPTY", "STUCK", "INVALID"], rows.collect()));
    for comparison in &report.comparisons {
        let on = if comparison.on.is_empty() { String::new() } else { format!(", {}", comparison.on) };
        let _ = writeln!(
            text,
            "{} -> {}{on}: {} wins, {} losses, p = {} ({})",
            comparison.from,
            comparison.to,
            comparison.wins,
            comparison.losses,
            sealign_report::comparison::p_text(comparison.p_value),
            comparison.reading(),
        );
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
