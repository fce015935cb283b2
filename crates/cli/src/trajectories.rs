//! `sealign import` and `sealign forest`: trajectories that lie in files, without a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sealign_forest::viewer::{ViewerOptions, render};
use sealign_forest::{Forest, Options, Threshold};
use sealign_trajectory::Trajectory;
use sealign_trajectory::chat::ChatOptions;
use sealign_trajectory::export::write_rows;
use sealign_trajectory::import::{Format as Source, ImportOptions, Imported, Importer, Refused, wants};
use serde::Serialize;

use crate::arguments::{ForestArguments, ImportArguments};
use crate::error::CliError;
use crate::output::{Format, print, print_json, table, tell};

/// Files of one command at most.
const FILES_MAX: usize = 200_000;
/// Bytes of one file: larger sets are split by their makers.
const FILE_BYTES_MAX: u64 = 2 << 30;
/// Deepest folder that is entered.
const DEPTH_MAX: u32 = 32;
/// Refused records that are named one by one on standard error.
const REFUSED_TOLD_MAX: usize = 10;

/// What `sealign import --output json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImportSummary {
    /// Attempts that were read.
    trajectories: usize,
    /// Tasks among them.
    tasks: usize,
    /// Attempts by format.
    formats: BTreeMap<String, usize>,
    /// Attempts by outcome.
    outcomes: BTreeMap<String, usize>,
    /// Records that were refused, by reason.
    refused: BTreeMap<String, usize>,
    /// Files without a trajectory.
    ignored: usize,
    /// The folder with the result.
    out: PathBuf,
}

/// Imports trajectories.
///
/// # Errors
/// [`CliError`] for arguments and files; records that cannot be read are counted and do not stop it.
pub fn import(arguments: &ImportArguments) -> Result<ExitCode, CliError> {
    let imported = read(&arguments.paths, &arguments.format)?;
    let out = &arguments.out;
    std::fs::create_dir_all(out).map_err(CliError::file("made", out))?;
    write(out, "trajectories.jsonl", write_rows(&imported.trajectories)?.as_bytes())?;
    write(out, "refused.jsonl", write_rows(&imported.refused)?.as_bytes())?;
    let summary = ImportSummary {
        trajectories: imported.trajectories.len(),
        tasks: tally(&imported.trajectories, |one| one.task.clone()).len(),
        formats: tally(&imported.trajectories, |one| one.origin.format.clone()),
        outcomes: tally(&imported.trajectories, outcome),
        refused: tally(&imported.refused, |one| one.reason.clone()),
        ignored: imported.ignored.len(),
        out: out.clone(),
    };
    write(out, "summary.json", &serde_json::to_vec_pretty(&summary)?)?;
    tell_refused(&imported.refused);
    if arguments.output == Format::Json {
        print_json(&summary)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![
        vec!["trajectories".to_owned(), summary.trajectories.to_string()],
        vec!["tasks".to_owned(), summary.tasks.to_string()],
    ];
    let mut add = |what: &str, counts: &BTreeMap<String, usize>| {
        rows.extend(counts.iter().map(|(name, count)| vec![format!("{what} {name}"), count.to_string()]));
    };
    add("format", &summary.formats);
    add("outcome", &summary.outcomes);
    add("refused:", &summary.refused);
    print(&format!("{}\n\nwritten to {}", table(&["WHAT", "COUNT"], rows), out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Builds a forest.
///
/// # Errors
/// [`CliError`] for arguments, files and sets that cannot be merged.
pub fn forest(arguments: &ForestArguments) -> Result<ExitCode, CliError> {
    let argument = |name: &str, error: &dyn std::error::Error| CliError::Argument(format!("{name}: {error}"));
    let mut options = Options {
        node_key: arguments.node_key.parse().map_err(|error| argument("--node-key", &error))?,
        ..Options::default()
    };
    options.pairs.threshold =
        arguments.threshold.parse::<Threshold>().map_err(|error| argument("--threshold", &error))?;
    let imported = read(&arguments.paths, &arguments.format)?;
    tell_refused(&imported.refused);
    if imported.trajectories.is_empty() {
        let text =
            "PATH: holds no trajectory that can be read; `sealign import` lists what was refused and why";
        return Err(CliError::Input(text.to_owned()));
    }
    let forest = sealign_forest::build(&imported.trajectories, &options)
        .map_err(|error| CliError::Input(error.to_string()))?;
    if let Some(out) = &arguments.out {
        write_forest(out, &forest, &imported.trajectories)?;
    }
    match arguments.output {
        Format::Json => print_json(&forest.summary())?,
        Format::Table => print(&statistics_text(&forest, arguments.out.as_deref())),
    }
    Ok(ExitCode::SUCCESS)
}

fn write_forest(out: &Path, forest: &Forest, trajectories: &[Trajectory]) -> Result<(), CliError> {
    std::fs::create_dir_all(out).map_err(CliError::file("made", out))?;
    let chat = ChatOptions::default();
    let broken = |error: sealign_forest::RowsError| CliError::Input(error.to_string());
    let sft = forest.sft_rows(trajectories, &chat).map_err(broken)?;
    let dpo = forest.preference_rows(trajectories, &chat).map_err(broken)?;
    let title = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    write(out, "trees.json", &forest.to_bytes()?)?;
    write(out, "pairs.json", &serde_json::to_vec(&forest.pairs)?)?;
    write(out, "sft.jsonl", write_rows(&sft)?.as_bytes())?;
    write(out, "dpo.jsonl", write_rows(&dpo)?.as_bytes())?;
    write(out, "viewer.html", render(forest, trajectories, &title, ViewerOptions::default()).as_bytes())?;
    write(out, "statistics.json", &serde_json::to_vec_pretty(&forest.summary())?)
}

fn statistics_text(forest: &Forest, out: Option<&Path>) -> String {
    let s = &forest.statistics;
    let rows: Vec<(&str, String)> = vec![
        ("tasks", s.instances.to_string()),
        ("rollouts collected", s.collected.to_string()),
        ("rollouts after filtering", s.after_filtering.to_string()),
        ("successful rollouts", s.successful.to_string()),
        ("wrong rollouts", s.wrong.to_string()),
        ("average path length (messages)", format!("{:.1}", s.average_path_messages)),
        ("average path length (actions)", format!("{:.1}", s.average_path_actions)),
        ("nodes", s.nodes.to_string()),
        ("branch points", s.branch_points.to_string()),
        ("critical decision points", s.critical_decision_points.to_string()),
        ("critical pairs", s.critical_pairs.to_string()),
        ("of these resting on a single path", s.single_path_pairs.either.to_string()),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let mut text = table(&["WHAT", "VALUE"], rows);
    if let Some(out) = out {
        let _ =
            write!(text, "\n\nwritten to {}\nviewer: {}", out.display(), out.join("viewer.html").display());
    }
    text
}

/// Reads every trajectory below `paths`. A path named by the user is a set of its own, called as the file or folder is.
fn read(paths: &[PathBuf], format: &str) -> Result<Imported, CliError> {
    let Some(format) = Source::from_name(format) else {
        let known = Source::NAMES.map(|(name, _)| name).join(", ");
        return Err(CliError::Argument(format!("--format: `{format}` is not known; use one of {known}")));
    };
    let mut all = Imported::default();
    let mut sources: BTreeMap<String, usize> = BTreeMap::new();
    for path in paths {
        let files = files(path)?;
        let mut source = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let count = sources.entry(source.clone()).or_default();
        *count += 1;
        if *count > 1 {
            // Two sets of one name: their attempts must stay apart.
            source = format!("{source}-{count}");
        }
        let mut options = ImportOptions::new(source);
        (options.format, options.require_instance_folder) = (format, path.is_dir());
        let mut importer = Importer::new(options);
        for (name, file) in files {
            importer.add(&name, &read_file(&file)?);
        }
        let Imported { trajectories, refused, ignored } = importer.finish();
        all.trajectories.extend(trajectories);
        all.refused.extend(refused);
        all.ignored.extend(ignored);
    }
    Ok(all)
}

/// The files below a path that may hold trajectories: name relative to it, and where it lies.
fn files(path: &Path) -> Result<Vec<(String, PathBuf)>, CliError> {
    let data = std::fs::metadata(path).map_err(CliError::file("read", path))?;
    if data.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(name, path.to_owned())]);
    }
    let mut found = Vec::new();
    walk(path, path, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(root: &Path, folder: &Path, depth: u32, found: &mut Vec<(String, PathBuf)>) -> Result<(), CliError> {
    for entry in std::fs::read_dir(folder).map_err(CliError::file("read", folder))? {
        let entry = entry.map_err(CliError::file("read", folder))?;
        let path = entry.path();
        // Links are not followed: a set of trajectories is what lies in its folder.
        let kind = entry.file_type().map_err(CliError::file("read", &path))?;
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(root, &path, depth + 1, found)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if wants(&name) {
                found.push((name, path));
            }
        }
        if found.len() > FILES_MAX {
            let text = format!("{}: holds more than {FILES_MAX} files; name parts of it", root.display());
            return Err(CliError::Input(text));
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let bytes = std::fs::metadata(path).map_err(CliError::file("read", path))?.len();
    if bytes > FILE_BYTES_MAX {
        let text =
            format!("{}: has {bytes} bytes; split it into files of at most {FILE_BYTES_MAX}", path.display());
        return Err(CliError::Input(text));
    }
    std::fs::read(path).map_err(CliError::file("read", path))
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CliError> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(CliError::file("written", &path))
}

fn tell_refused(refused: &[Refused]) {
    for one in refused.iter().take(REFUSED_TOLD_MAX) {
        tell(&format!("refused: {}", sealign_local::shape::shown(&one.to_string())));
    }
    if refused.len() > REFUSED_TOLD_MAX {
        tell(&format!("refused: {} more", refused.len() - REFUSED_TOLD_MAX));
    }
}

fn outcome(trajectory: &Trajectory) -> String {
    match trajectory.outcome {
        sealign_trajectory::Outcome::Success => "success".to_owned(),
        sealign_trajectory::Outcome::Failure => "failure".to_owned(),
        sealign_trajectory::Outcome::Unknown(_) => "unknown".to_owned(),
    }
}

fn tally<T>(items: &[T], name: impl Fn(&T) -> String) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(name(item)).or_default() += 1;
    }
    counts
}
