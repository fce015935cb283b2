//! `sealign verify`: every digest between a run's results and its tasks, computed again.

use std::fmt::Write as _;
use std::process::ExitCode;

use sealign_plan::{Kind, names};
use sealign_storage::{ArtifactStore as _, Store};
use sealign_worker::verify::{Walk, walk};
use serde::Serialize;

use crate::arguments::PageArguments;
use crate::error::{CliError, FAILED, chain};
use crate::output::{Format, print, print_json, table};
use crate::state;

/// One object's walk, as `sealign verify --output json` lists it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    kind: &'static str,
    name: String,
    /// Key of the manifest that the walk began at.
    from: String,
    #[serde(flatten)]
    walk: Walk,
}

/// Walks the lineage of a run.
///
/// # Errors
/// [`CliError`] when there is nothing to walk or the store cannot be read; findings are part of the result.
pub fn run(arguments: &PageArguments) -> Result<ExitCode, CliError> {
    let state = state::existing(arguments.state.as_deref())?;
    let root = state.canonicalize().map_err(CliError::file("read", &state))?.join("store");
    let unreadable = |error: &dyn std::error::Error| CliError::Input(format!("the store: {}", chain(error)));
    let store = Store::open_directory(&root).map_err(|error| unreadable(&error))?;
    let runtime = tokio::runtime::Runtime::new().map_err(CliError::Runtime)?;
    let mut verified = Vec::new();
    for (key, object) in state::objects(&state)? {
        let is_wanted = match &arguments.name {
            Some(name) => *name == key.name,
            // What others own is reached from their owners, once those have ended.
            None => object.metadata.owner_references.is_none(),
        };
        let keys = names::keys(key.kind, &object);
        let from = match key.kind {
            Kind::TaskSet => keys.tasks(),
            Kind::RolloutCampaign => keys.closed(),
            Kind::TrajectoryForest => keys.forest(),
            Kind::AlignmentRun | Kind::Benchmark => keys.report(),
            Kind::Job => continue,
        };
        let exists = runtime.block_on(store.exists(&from)).map_err(|error| unreadable(&error))?;
        if is_wanted && exists {
            let walk = runtime.block_on(walk(&store, &from)).map_err(|error| unreadable(&error))?;
            verified.push(Verified { kind: key.kind.name(), name: key.name, from, walk });
        }
    }
    if verified.is_empty() {
        let text = "nothing has ended yet that could be verified; `sealign get` shows how far the run is";
        return Err(CliError::Argument(text.to_owned()));
    }
    match arguments.output {
        Format::Json => print_json(&verified)?,
        Format::Table => print(&text(&verified)),
    }
    let is_sound = verified.iter().all(|one| one.walk.finding_count == 0);
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn text(verified: &[Verified]) -> String {
    let rows = verified.iter().map(|one| {
        let word = if one.walk.finding_count == 0 {
            "sound".to_owned()
        } else {
            format!("{} findings", one.walk.finding_count)
        };
        vec![one.kind.to_owned(), one.name.clone(), one.walk.objects.to_string(), word]
    });
    let mut text = table(&["KIND", "NAME", "OBJECTS", "LINEAGE"], rows.collect());
    for finding in verified.iter().flat_map(|one| &one.walk.findings) {
        let _ = write!(text, "\n{}: {}", finding.key, finding.problem);
    }
    text
}
