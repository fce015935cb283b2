//! `sealign export`: what a run made, as files that other programs read.
//!
//! `sft` and `dpo` are JSON Lines as TRL reads them (conversational `messages`; `prompt`, `chosen`, `rejected`),
//! `trajectories` one attempt a line in the format that `sealign import` writes, `model` a folder in Hugging Face layout and
//! `adapter` one in PEFT's.
//! Every byte is compared with the digest that the run's own manifest has for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kube::core::DynamicObject;
use sealign_local::objects::ObjectKey;
use sealign_manifest::group::{ForestManifest, OutputRef};
use sealign_manifest::train::{AdapterManifest, ModelManifest};
use sealign_manifest::{Digest, ObjectKeys};
use sealign_plan::config::ClosedCampaign;
use sealign_plan::{Kind, names};
use sealign_storage::{ArtifactStore as _, Store};
use sealign_trajectory::export::write_rows;
use serde::Serialize;

use crate::arguments::{ExportArguments, Exported};
use crate::error::{CliError, chain};
use crate::output::{Format, print, print_json, table};
use crate::state;

/// A file of a model or of examples at most.
const FILE_BYTES_MAX: u64 = 256 << 30;
/// A closed set at most.
const CLOSED_BYTES_MAX: u64 = 1 << 20;

/// What `sealign export --output json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    /// What was exported.
    what: &'static str,
    /// Kind of the object that made it.
    kind: &'static str,
    /// Its name.
    name: String,
    /// Key of the manifest that names the bytes.
    from: String,
    /// Digest of that manifest: the export's provenance.
    digest: Digest,
    /// Rows of the file; absent for a model or an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    /// What was written.
    files: Vec<PathBuf>,
    /// Bytes of all of it.
    bytes: u64,
}

/// Exports.
///
/// # Errors
/// [`CliError`] where the object is not there or has not ended, a file is in the way, or bytes are not those promised.
pub fn run(arguments: &ExportArguments) -> Result<ExitCode, CliError> {
    let state = state::existing(arguments.state.as_deref())?;
    let root = state.canonicalize().map_err(CliError::file("read", &state))?.join("store");
    let store = Store::open_directory(&root).map_err(|error| CliError::Input(chain(&error)))?;
    let objects = state::objects(&state)?;
    std::fs::create_dir_all(&arguments.out).map_err(CliError::file("made", &arguments.out))?;
    let runtime = tokio::runtime::Runtime::new().map_err(CliError::Runtime)?;
    let exported = runtime.block_on(async {
        match arguments.what {
            Exported::Sft => rows(&store, &objects, arguments, "sft").await,
            Exported::Dpo => rows(&store, &objects, arguments, "dpo").await,
            Exported::Trajectories => trajectories(&store, &objects, arguments).await,
            Exported::Model => model(&store, &objects, arguments).await,
            Exported::Adapter => adapter(&store, &objects, arguments).await,
        }
    })?;
    match arguments.output {
        Format::Json => print_json(&exported)?,
        Format::Table => {
            let files = exported.files.iter().map(|file| vec![file.display().to_string()]);
            print(&format!(
                "{}\n\nof {} {}, {}",
                table(&["FILE"], files.collect()),
                exported.kind,
                exported.name,
                exported.from
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The examples of a forest.
async fn rows(
    store: &Store,
    objects: &[(ObjectKey, DynamicObject)],
    arguments: &ExportArguments,
    what: &'static str,
) -> Result<Export, CliError> {
    let (name, keys, _) = the(objects, arguments, Kind::TrajectoryForest)?;
    let from = keys.forest();
    let (forest, digest): (ForestManifest, Digest) = manifest(store, &from, &name).await?;
    let output = forest.outputs.get(what).ok_or_else(|| {
        CliError::Input(format!("{from}: has no output `{what}`; it is of another version, build it again"))
    })?;
    let target = free(&arguments.out, &format!("{what}.jsonl"))?;
    let bytes = bring(store, &keys.join(&output.file), &target, &output.digest).await?;
    let count = if what == "sft" { forest.sft_examples } else { forest.pairs };
    let kind = Kind::TrajectoryForest.name();
    Ok(Export { what, kind, name, from, digest, rows: Some(count), files: vec![target], bytes })
}

/// The attempts of a closed campaign with their verdicts.
async fn trajectories(
    store: &Store,
    objects: &[(ObjectKey, DynamicObject)],
    arguments: &ExportArguments,
) -> Result<Export, CliError> {
    let (name, keys, _) = the(objects, arguments, Kind::RolloutCampaign)?;
    let from = keys.closed();
    let bytes = store.get_bounded(&from, CLOSED_BYTES_MAX).await;
    let bytes = bytes.map_err(|error| CliError::Input(chain(&error)))?.ok_or_else(|| unfinished(&name))?;
    let digest = Digest::of_bytes(&bytes);
    let campaign = ClosedCampaign { name: name.clone(), keys, digest: digest.clone() };
    let attempts = sealign_worker::forest::attempts(store, &campaign).await;
    let attempts = attempts.map_err(|error| CliError::Input(format!("{from}: {}", chain(&error))))?;
    let target = free(&arguments.out, "trajectories.jsonl")?;
    let text = write_rows(&attempts)?;
    std::fs::write(&target, &text).map_err(CliError::file("written", &target))?;
    Ok(Export {
        what: "trajectories",
        kind: Kind::RolloutCampaign.name(),
        name,
        from,
        digest,
        rows: Some(u64::try_from(attempts.len()).unwrap_or(u64::MAX)),
        files: vec![target],
        bytes: u64::try_from(text.len()).unwrap_or(u64::MAX),
    })
}

/// A trained model.
async fn model(
    store: &Store,
    objects: &[(ObjectKey, DynamicObject)],
    arguments: &ExportArguments,
) -> Result<Export, CliError> {
    let (name, from) = trained(objects, arguments)?;
    let (model, digest): (ModelManifest, Digest) = manifest(store, &from, &name).await?;
    let (files, bytes) = bring_all(store, &from, &model.files, &arguments.out).await?;
    let kind = Kind::AlignmentRun.name();
    Ok(Export { what: "model", kind, name, from, digest, rows: None, files, bytes })
}

/// The low-rank adapter of a trained model.
async fn adapter(
    store: &Store,
    objects: &[(ObjectKey, DynamicObject)],
    arguments: &ExportArguments,
) -> Result<Export, CliError> {
    let (name, model_key) = trained(objects, arguments)?;
    let (model, _): (ModelManifest, Digest) = manifest(store, &model_key, &name).await?;
    let promised = model.adapter.ok_or_else(|| {
        CliError::Argument(format!(
            "adapter: the step of {model_key} trained all weights; `spec.trainer.lora` trains an adapter, and \
             `sealign export model` writes the model itself"
        ))
    })?;
    let from = ObjectKeys::beside(ObjectKeys::beside(&model_key).prefix()).adapter();
    let (adapter, digest): (AdapterManifest, Digest) = manifest(store, &from, &name).await?;
    if digest != promised {
        return Err(CliError::Input(format!("{from}: has digest {digest}, and {promised} was promised")));
    }
    let (files, bytes) = bring_all(store, &from, &adapter.files, &arguments.out).await?;
    let kind = Kind::AlignmentRun.name();
    Ok(Export { what: "adapter", kind, name, from, digest, rows: None, files, bytes })
}

/// The files that the manifest at `from` names, into `out`: their paths and the bytes of all.
async fn bring_all(
    store: &Store,
    from: &str,
    files: &BTreeMap<String, OutputRef>,
    out: &Path,
) -> Result<(Vec<PathBuf>, u64), CliError> {
    let folder = ObjectKeys::beside(from);
    let (mut brought, mut bytes) = (Vec::new(), 0);
    for (file, reference) in files {
        if file.contains(['/', '\\']) || file.starts_with('.') {
            return Err(CliError::Input(format!("{from}: names `{file}`, which lies outside of its folder")));
        }
        let target = free(out, file)?;
        bytes += bring(store, &folder.join(&reference.file), &target, &reference.digest).await?;
        brought.push(target);
    }
    Ok((brought, bytes))
}

/// The object that is meant: the one named, else the only one of its kind.
fn the<'objects>(
    objects: &'objects [(ObjectKey, DynamicObject)],
    arguments: &ExportArguments,
    kind: Kind,
) -> Result<(String, ObjectKeys, &'objects DynamicObject), CliError> {
    let of_kind: Vec<_> = objects.iter().filter(|(key, _)| key.kind == kind).collect();
    let names = || of_kind.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match (&arguments.name, of_kind.as_slice()) {
        (Some(name), _) => of_kind.iter().find(|(key, _)| key.name == *name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let (key, object) = found.ok_or_else(|| {
        let kind = kind.name();
        CliError::Argument(match &arguments.name {
            _ if of_kind.is_empty() => {
                format!("NAME: the run has no {kind}; `sealign get` lists what it has")
            }
            Some(name) => format!("NAME: there is no {kind} `{name}`; there is {}", names()),
            None => format!("NAME: name one {kind} of {}", names()),
        })
    })?;
    Ok((key.name.clone(), names::keys(kind, object), object))
}

/// Name of the run that is meant and key of its model: of the step that is named, else the last that it trained.
fn trained(
    objects: &[(ObjectKey, DynamicObject)],
    arguments: &ExportArguments,
) -> Result<(String, String), CliError> {
    let (name, keys, run) = the(objects, arguments, Kind::AlignmentRun)?;
    if let Some(step) = &arguments.step {
        return Ok((name, keys.step(step).model()));
    }
    let model = run.data.pointer("/status/model").and_then(|model| model.as_str());
    let model = model.ok_or_else(|| unfinished(&name))?.to_owned();
    Ok((name, model))
}

async fn manifest<T: serde::de::DeserializeOwned>(
    store: &Store,
    key: &str,
    name: &str,
) -> Result<(T, Digest), CliError> {
    let unreadable = |error: &dyn std::error::Error| CliError::Input(format!("{key}: {}", chain(error)));
    let bytes = store.get_bounded(key, sealign_storage::artifact::JSON_BYTES_MAX).await;
    let bytes = bytes.map_err(|error| unreadable(&error))?.ok_or_else(|| unfinished(name))?;
    let value = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    Ok((value, Digest::of_bytes(&bytes)))
}

fn unfinished(name: &str) -> CliError {
    CliError::Argument(format!("NAME: `{name}` has not made it yet; `sealign get` shows how far the run is"))
}

/// A file of the folder `out` that is not there yet.
fn free(out: &Path, name: &str) -> Result<PathBuf, CliError> {
    let path = out.join(name);
    if path.exists() {
        let text = format!("--out: {} is there already; name another folder", path.display());
        return Err(CliError::Argument(text));
    }
    Ok(path)
}

async fn bring(store: &Store, key: &str, target: &Path, digest: &Digest) -> Result<u64, CliError> {
    let brought = store.download_file(key, target, FILE_BYTES_MAX, Some(digest)).await;
    brought
        .map(|brought| brought.bytes)
        .map_err(|error| CliError::Input(format!("the store: {}", chain(&error))))
}
