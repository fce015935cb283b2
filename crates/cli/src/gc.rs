//! `sealign gc`: removes what nothing needs any more. A dry run, unless `--yes` is given.
//!
//! What stays: everything of the objects that live in the state folder (or that `--root` names), everything that their
//! lineage rests on, every patch and verdict that one of these refers to, and every object whose key is not of our making.
//! Memory: eight bytes for each patch and verdict that is referred to, and one page of a listing.

mod mark;
mod sweep;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use kube::core::DynamicObject;
use sealign_local::folder::Folder;
use sealign_local::objects::ObjectKey;
use sealign_plan::names;
use sealign_storage::{Store, StoreOptions};
use serde_json::Value;

use crate::arguments::GcArguments;
use crate::error::{CliError, chain};
use crate::output::{Format, print, print_json, table};
use crate::state;
use sweep::{Collected, Count};

/// Hours in which an object of a shared bucket is left alone: a live run writes patches before the records that name them.
const GRACE_HOURS: u64 = 24;

/// Collects garbage.
///
/// # Errors
/// [`CliError`] where roots, folder or store cannot be used. Nothing is deleted before everything that stays is known.
pub fn run(arguments: &GcArguments) -> Result<ExitCode, CliError> {
    let mut roots: BTreeSet<String> = BTreeSet::new();
    for root in &arguments.root {
        let prefix = mark::resource(root).ok_or_else(|| {
            CliError::Argument(format!(
                "--root: `{root}` is no key of an object's artifacts; name its report, model or prefix, for example \
                 default/alignmentruns/first-1a2b3c4d/report.json"
            ))
        })?;
        roots.insert(prefix.to_owned());
    }
    // The folder is held until the end: a run that began meanwhile would write what nothing refers to yet.
    let (store, url, grace_hours, _held) = if let Some(url) = &arguments.store {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let options = StoreOptions { variables, ..StoreOptions::default() };
        let store = Store::open(url, &options).map_err(|error| CliError::Argument(chain(&error)))?;
        (store, url.clone(), arguments.grace_hours.unwrap_or(GRACE_HOURS), None)
    } else {
        let state = state::existing(arguments.state.as_deref())?;
        let held = if arguments.yes { Some(Folder::open(&state)?) } else { None };
        roots.extend(live(&state::objects(&state)?));
        let (store, url) = of_state(&state)?;
        (store, url, arguments.grace_hours.unwrap_or(0), held)
    };
    if roots.is_empty() {
        let text = "--root: nothing is named that is to stay, so everything would go; name at least one manifest, or \
                    delete the folder or bucket itself";
        return Err(CliError::Argument(text.to_owned()));
    }
    let before = SystemTime::now() - Duration::from_secs(grace_hours.saturating_mul(3600));
    let runtime = tokio::runtime::Runtime::new().map_err(CliError::Runtime)?;
    let collected = runtime.block_on(async {
        let needed = mark::mark(&store, roots).await?;
        sweep::sweep(&store, &needed, before, arguments.yes).await
    })?;
    let collected = Collected { store: url, ..collected };
    match arguments.output {
        Format::Json => print_json(&collected)?,
        Format::Table => print(&text(&collected)),
    }
    Ok(ExitCode::SUCCESS)
}

fn of_state(state: &Path) -> Result<(Store, String), CliError> {
    let root = state.canonicalize().map_err(CliError::file("read", state))?.join("store");
    let store = Store::open_directory(&root).map_err(|error| CliError::Input(chain(&error)))?;
    Ok((store, format!("file://{}", root.display())))
}

/// Prefixes of the objects of a state folder, and of everything that their specs name.
fn live(objects: &[(ObjectKey, DynamicObject)]) -> BTreeSet<String> {
    let mut roots = BTreeSet::new();
    for (key, object) in objects {
        roots.insert(names::keys(key.kind, object).prefix().to_owned());
        named(&object.data, &mut roots);
    }
    roots
}

/// `artifact:KEY` anywhere in a value.
fn named(value: &Value, roots: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            let key = text.strip_prefix("artifact:").and_then(mark::resource);
            roots.extend(key.map(str::to_owned));
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, roots)),
        Value::Object(members) => members.values().for_each(|item| named(item, roots)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn text(collected: &Collected) -> String {
    let row =
        |what: &str, count: &Count| vec![what.to_owned(), count.objects.to_string(), bytes(count.bytes)];
    let rows = vec![
        row("artifacts of objects that are gone", &collected.garbage.resources),
        row("patches", &collected.garbage.blobs),
        row("verdicts", &collected.garbage.verdicts),
        row("files of killed writers", &collected.garbage.staged),
        row("kept", &collected.kept),
        row("kept, too young to be judged", &collected.young),
        row("kept, not of our making", &collected.foreign),
    ];
    let mut text = table(&["WHAT", "OBJECTS", "SIZE"], rows);
    for prefix in &collected.prefixes {
        let _ = write!(text, "\n{prefix}");
    }
    let more = collected.prefix_count - u64::try_from(collected.prefixes.len()).unwrap_or(0);
    if more > 0 {
        let _ = write!(text, "\nand {more} more");
    }
    let end = if collected.dry_run { "nothing was deleted; --yes deletes the first four" } else { "deleted" };
    format!("{text}\n\n{end}")
}

/// Bytes as people read them.
fn bytes(count: u64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
    let (mut whole, mut unit) = (count, units.next().unwrap_or("B"));
    while whole >= 10 * 1024 && units.peek().is_some() {
        whole /= 1024;
        unit = units.next().unwrap_or(unit);
    }
    format!("{whole} {unit}")
}
