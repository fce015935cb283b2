//! `sealign grade`: a file of predictions through sandbox and grader. It is a TaskSet and a Benchmark, run embedded: the
//! same path as in a cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use sealign_local::admission::Admission;
use sealign_local::engine::{Engine, EngineError, Options};
use sealign_local::notice::NoticeSink;
use sealign_local::objects::{ObjectKey, key_of};
use sealign_local::standing::Standing;
use sealign_manifest::Digest;
use sealign_manifest::record::Outcome;
use sealign_plan::{Kind, names};
use sealign_worker::report::{ATTEMPTS, KeptAttempt};
use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::GradeArguments;
use crate::error::{CliError, FAILED};
use crate::output::{Format, print, print_json, table};
use crate::progress::Progress;
use crate::state::stored;

/// Suites whose predictions can be graded from files.
const SUITES: [&str; 1] = ["humanevalfix"];

/// What `sealign grade --output json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Grades {
    /// Tasks of the rows: the denominator.
    total: usize,
    /// Tasks whose tests pass.
    resolved: usize,
    /// Verdict of each task.
    per_task: BTreeMap<String, Outcome>,
}

/// Grades predictions.
///
/// # Errors
/// [`CliError`] for arguments and files, and when grading cannot end.
pub fn run(arguments: &GradeArguments) -> Result<ExitCode, CliError> {
    if !SUITES.contains(&arguments.suite.as_str()) {
        let known = SUITES.join(", ");
        return Err(CliError::Argument(format!(
            "--suite: `{}` is not known; use one of {known}",
            arguments.suite
        )));
    }
    let rows = absolute(&arguments.rows)?;
    let predictions = absolute(&arguments.predictions)?;
    let state = match &arguments.state {
        Some(state) => state.clone(),
        // Equal files are one run: graded again, they say at once what they said before.
        None => Path::new(".sealign").join(format!("grade-{}", digest(&rows, &predictions)?.short(12))),
    };
    let runtime = tokio::runtime::Runtime::new().map_err(CliError::Runtime)?;
    let grades = runtime.block_on(graded(arguments, &rows, &predictions, &state))?;
    match arguments.output {
        Format::Json => print_json(&grades)?,
        Format::Table => print(&text(&grades)),
    }
    let has_infra = grades.per_task.values().any(|outcome| *outcome == Outcome::Infra);
    Ok(if has_infra { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

async fn graded(
    arguments: &GradeArguments,
    rows: &Path,
    predictions: &Path,
    state: &Path,
) -> Result<Grades, CliError> {
    let progress = Progress::new();
    let notices = progress.clone();
    let options = Options {
        sandboxes_max: arguments.parallelism.max(1),
        notices: NoticeSink::new(move |notice| notices.notice(notice)),
        ..Options::default()
    };
    let admission = Arc::new(Admission::new()?);
    let documents = documents(rows, predictions, arguments.parallelism);
    let mut objects = Vec::new();
    for document in &documents {
        objects.push(admission.read(document).map_err(|refused| CliError::Argument(refused.to_string()))?);
    }
    let engine = Engine::open(state, admission, options)?;
    engine.apply(&objects)?;
    let keys = objects.iter().map(|(kind, object)| key_of(*kind, object)).collect::<Result<Vec<_>, _>>();
    let keys: Vec<ObjectKey> = keys.map_err(EngineError::from)?;
    let result = engine.run(&keys, |objects| progress.look(objects)).await?;
    progress.finish();
    for one in &result.objects {
        if one.standing != Standing::Succeeded {
            let (reason, message) = (one.standing.reason(), one.standing.message());
            return Err(CliError::Input(format!("{} {}: {message}", one.kind.name(), reason)));
        }
    }
    let benchmark = result.objects.iter().find(|one| one.kind == Kind::Benchmark);
    let benchmark = benchmark.ok_or_else(|| CliError::Input("the benchmark is gone".to_owned()))?;
    let keys = names::keys(Kind::Benchmark, &benchmark.object);
    let path = stored(engine.state(), &keys.join(ATTEMPTS));
    let bytes = std::fs::read(&path).map_err(CliError::file("read", &path))?;
    let attempts: Vec<KeptAttempt> = serde_json::from_slice(&bytes)?;
    let per_task: BTreeMap<String, Outcome> =
        attempts.into_iter().map(|attempt| (attempt.task, attempt.outcome)).collect();
    let resolved = per_task.values().filter(|outcome| **outcome == Outcome::Resolved).count();
    Ok(Grades { total: per_task.len(), resolved, per_task })
}

fn documents(rows: &Path, predictions: &Path, parallelism: usize) -> [Value; 2] {
    let version = Kind::TaskSet.api_version();
    let parallelism = i32::try_from(parallelism.max(1)).unwrap_or(1);
    let task_set = json!({
        "apiVersion": version, "kind": "TaskSet", "metadata": { "name": "rows" },
        "spec": {
            "source": { "humanEvalFix": { "rows": format!("file:{}", rows.display()) } },
            // The rows are asked about as they are: what is wrong with them shows in the verdicts.
            "health": { "repeats": 0 },
        },
    });
    let benchmark = json!({
        "apiVersion": version, "kind": "Benchmark", "metadata": { "name": "predictions" },
        "spec": {
            "taskSetRef": { "name": "rows" },
            "predictions": format!("file:{}", predictions.display()),
            "parallelism": parallelism,
        },
    });
    [task_set, benchmark]
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    path.canonicalize().map_err(CliError::file("read", path))
}

fn digest(rows: &Path, predictions: &Path) -> Result<Digest, CliError> {
    let mut both = String::new();
    for path in [rows, predictions] {
        let bytes = std::fs::read(path).map_err(CliError::file("read", path))?;
        both.push_str(&Digest::of_bytes(&bytes).to_string());
    }
    Ok(Digest::of_bytes(both.as_bytes()))
}

fn text(grades: &Grades) -> String {
    let rows = grades.per_task.iter().map(|(task, outcome)| {
        let word = serde_json::to_value(outcome).ok().and_then(|word| word.as_str().map(str::to_owned));
        vec![task.clone(), word.unwrap_or_default()]
    });
    format!(
        "{}\n\nresolved {} of {}",
        table(&["TASK", "VERDICT"], rows.collect()),
        grades.resolved,
        grades.total
    )
}
