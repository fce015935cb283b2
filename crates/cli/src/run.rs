//! `sealign run`: a manifest to its end, on this machine.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use sealign_local::admission::Admission;
use sealign_local::engine::{Engine, EngineError, Options, RunResult};
use sealign_local::notice::NoticeSink;
use sealign_local::objects::{ObjectKey, key_of};

use crate::arguments::RunArguments;
use crate::documents;
use crate::error::{CliError, FAILED};
use crate::output::{Format, print, print_json, tell};
use crate::progress::Progress;
use crate::state::of_manifest;
use crate::summary::RunSummary;

/// Exit code after an interrupt, as shells have it.
const INTERRUPTED: u8 = 130;

/// Runs a manifest.
///
/// # Errors
/// [`CliError`] when it cannot be started; objects that fail are part of the result.
pub fn run(arguments: &RunArguments) -> Result<ExitCode, CliError> {
    let began = Instant::now();
    let admission = Arc::new(Admission::new()?);
    let objects = documents::read(&arguments.manifest, &admission)?;
    let state = of_manifest(arguments.state.as_deref(), &arguments.manifest);
    let progress = Progress::new();
    let notices = progress.clone();
    let options = Options {
        sandboxes_max: arguments.sandboxes.max(1),
        notices: NoticeSink::new(move |notice| notices.notice(notice)),
        ..Options::default()
    };
    let runtime = tokio::runtime::Runtime::new().map_err(CliError::Runtime)?;
    let outcome = runtime.block_on(async {
        let engine = Engine::open(&state, admission, options)?;
        tell(&format!("state folder: {}", engine.state().display()));
        let keys = objects.iter().map(|(kind, object)| key_of(*kind, object)).collect::<Result<Vec<_>, _>>();
        let keys: Vec<ObjectKey> = keys.map_err(EngineError::from)?;
        engine.apply(&objects)?;
        let ended = interruptible(engine.run(&keys, |objects| progress.look(objects))).await?;
        Ok::<_, CliError>(ended.map(|result| (result, engine.state().to_owned())))
    })?;
    let costs = progress.finish();
    let Some((result, state)) = outcome else {
        tell("interrupted; the same command goes on from here");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let mut summary = RunSummary::new(&result, &state)?;
    summary.manifest = arguments.manifest.display().to_string();
    summary.wall_seconds = began.elapsed().as_secs_f64();
    summary.costs = costs;
    match arguments.output {
        Format::Json => print_json(&summary)?,
        Format::Table => print(&summary.text()),
    }
    Ok(if result.is_success() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The result, or `None` when the user ends it. Children die with us; the store has everything that was done.
async fn interruptible(
    run: impl Future<Output = Result<RunResult, EngineError>>,
) -> Result<Option<RunResult>, CliError> {
    tokio::select! {
        ended = run => Ok(Some(ended?)),
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}
