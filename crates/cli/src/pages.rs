//! `sealign view` and `sealign report`: the pages that a run has made.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use sealign_forest::Forest;
use sealign_local::shape::shown;
use serde_json::json;

use crate::arguments::{PageArguments, ViewArguments};
use crate::error::{CliError, chain};
use crate::outline;
use crate::output::{Format, print, print_json, tell};
use crate::state;
use crate::summary::{reports_of, viewers};

/// Bytes of trees that are read for printing one.
const TREES_BYTES_MAX: u64 = 1 << 30;
/// Bytes of a report page that are printed.
const MARKDOWN_BYTES_MAX: u64 = 16 << 20;

/// Prints a tree of each forest and says where its viewer is. With `--open` the page is enough.
///
/// # Errors
/// [`CliError`] when there are none.
pub fn view(arguments: &ViewArguments) -> Result<ExitCode, CliError> {
    let ViewArguments { page: arguments, task } = arguments;
    let state = state::existing(arguments.state.as_deref())?;
    let objects = state::objects(&state)?;
    let mut found = viewers(&state, &objects, |_| true);
    if let Some(name) = &arguments.name {
        found.retain(|(forest, _)| forest == name);
    }
    if found.is_empty() {
        return Err(nothing(arguments, "TrajectoryForest", "viewer"));
    }
    match arguments.output {
        Format::Json => {
            let items: Vec<_> =
                found.iter().map(|(forest, page)| json!({ "forest": forest, "page": page })).collect();
            print_json(&items)?;
        }
        Format::Table => {
            for (forest, page) in &found {
                print(&format!("{forest}: {}", page.display()));
                if !arguments.open {
                    print(&format!("\n{}\n", tree(page, task.as_deref())?));
                }
            }
        }
    }
    open(arguments, found.into_iter().map(|(_, page)| page));
    Ok(ExitCode::SUCCESS)
}

/// The tree that is asked for, of the forest whose viewer is `page`.
fn tree(page: &Path, task: Option<&str>) -> Result<String, CliError> {
    let path = page.with_file_name("trees.json");
    let size = std::fs::metadata(&path).map_err(CliError::file("read", &path))?.len();
    if size > TREES_BYTES_MAX {
        return Ok(format!("{}: too large to be printed; open the page", path.display()));
    }
    let bytes = std::fs::read(&path).map_err(CliError::file("read", &path))?;
    let forest = Forest::from_bytes(&bytes)
        .map_err(|error| CliError::Input(format!("{}: {}", path.display(), chain(&error))))?;
    match (outline::choose(&forest, task), task) {
        (Some((index, tree)), _) => Ok(outline::outline(&forest, index, tree)),
        (None, None) => Ok("the forest has no tree: nothing was left to merge".to_owned()),
        (None, Some(task)) => {
            let known: Vec<&str> = forest.trees.iter().map(|tree| tree.task.as_str()).take(10).collect();
            Err(CliError::Argument(format!(
                "--task: the forest has no tree of `{}`; there is {}",
                shown(task),
                shown(&known.join(", "))
            )))
        }
    }
}

/// Prints reports.
///
/// # Errors
/// [`CliError`] when there are none.
pub fn report(arguments: &PageArguments) -> Result<ExitCode, CliError> {
    let state = state::existing(arguments.state.as_deref())?;
    let mut reports = Vec::new();
    for (key, object) in state::objects(&state)? {
        // Reports of benchmarks that a run owns are parts of the run's own.
        let is_wanted = match &arguments.name {
            Some(name) => *name == key.name,
            None => object.metadata.owner_references.is_none(),
        };
        if is_wanted {
            reports.extend(reports_of(&state, key.kind, &object)?);
        }
    }
    if reports.is_empty() {
        return Err(nothing(arguments, "AlignmentRun or Benchmark", "report"));
    }
    match arguments.output {
        Format::Json => print_json(&reports)?,
        Format::Table => {
            for report in &reports {
                let size =
                    std::fs::metadata(&report.markdown).map_err(CliError::file("read", &report.markdown))?;
                if size.len() > MARKDOWN_BYTES_MAX {
                    return Err(CliError::Input(format!(
                        "{}: is too large to print",
                        report.markdown.display()
                    )));
                }
                let text = std::fs::read_to_string(&report.markdown);
                print(&text.map_err(CliError::file("read", &report.markdown))?);
                print(&format!("\npage: {}", report.page.display()));
            }
        }
    }
    open(arguments, reports.into_iter().map(|report| report.page));
    Ok(ExitCode::SUCCESS)
}

fn nothing(arguments: &PageArguments, kinds: &str, what: &str) -> CliError {
    CliError::Argument(match &arguments.name {
        Some(name) => format!("NAME: no {kinds} `{name}` with a {what} is here; `sealign get` lists what is"),
        None => format!("no {kinds} has a {what} yet; `sealign get` shows how far the run is"),
    })
}

fn open(arguments: &PageArguments, pages: impl Iterator<Item = PathBuf>) {
    for page in pages.filter(|_| arguments.open) {
        let mut command = Command::new("xdg-open");
        command.arg(&page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = command.spawn() {
            tell(&format!("{} cannot be opened ({error}); open it with a browser", page.display()));
        }
    }
}
