//! One training step of an AlignmentRun.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use sealign_manifest::group::{Lineage, OutputRef, Rejection};
use sealign_manifest::train::{AdapterManifest, ModelManifest, ModelSource, TrainStep};
use sealign_manifest::{Digest, ObjectKeys};
use sealign_plan::config::WorkerConfig;
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _, StoreError};

use super::settings::StepSettings;
use super::sink::{StoreSink, restore};
use super::{Bucket, JobError, bucket, fetch, ranks};
use crate::dist::Group;
use crate::train::metrics::MetricsSink;
use crate::train::{self, ArtifactSink, RunSummary, SilentSink, Stage, TrainConfig};

/// Runs the step that the environment describes. An input that cannot be used is left as a rejection in the store first.
pub fn run(scratch: &Path) -> Result<(), JobError> {
    let WorkerConfig::Train(step) = bucket::configuration()? else {
        return Err(JobError::Environment {
            variable: sealign_plan::config::CONFIG_VARIABLE,
            problem: "is not the configuration of a training step".to_owned(),
        });
    };
    if ranks::launch()? {
        return Ok(());
    }
    let bucket = Bucket::from_environment()?;
    let result = run_step(&bucket, &step, scratch);
    if let Err(error) = &result
        && error.is_input()
    {
        let rejection = Rejection { message: chain(error) };
        let key = step.keys.rejection(&step.name);
        bucket.wait(bucket.store.create_json(&key, &rejection))?;
    }
    result
}

fn run_step(bucket: &Bucket, step: &TrainStep, scratch: &Path) -> Result<(), JobError> {
    let key = step.keys.model();
    if bucket.wait(bucket.store.exists(&key))? {
        println!("already complete: {key}");
        return Ok(());
    }
    let settings = StepSettings::read(&step.settings)?;
    let model = fetch::model(bucket, &step.model, scratch)?;
    let forest = fetch::forest(bucket, &step.forest)?;
    let data = scratch.join("data");
    fetch::create(&data)?;
    let mut config = TrainConfig {
        model,
        model_name: Some(public_name(&step.model)),
        tokenizer: None,
        sft: Vec::new(),
        preferences: Vec::new(),
        output: scratch.join("output"),
        settings: settings.to_stage(),
    };
    if settings.wants_sft() {
        let rows = fetch::examples(bucket, &forest, "sft", &data)?;
        if !settings.masks_invalid_turns() {
            fetch::learn_every_turn(&rows)?;
        }
        config.sft.push(rows);
    }
    if settings.stage() == Stage::Dpo {
        config.preferences.push(fetch::examples(bucket, &forest, "dpo", &data)?);
    }
    fetch::create(&config.output)?;
    crate::process::set_threads(config.settings.threads);
    let group = ranks::meet(&config.settings)?;
    if !group.leads() {
        run_shown(&group, &config, &mut SilentSink)?;
        return Ok(());
    }
    if let Some(step) = restore(bucket, &step.keys, &config.output)? {
        println!("resuming after step {step}");
    }
    let local = |source| JobError::Local { path: config.output.clone(), source };
    let mut sink = StoreSink::open(&config.output, bucket.clone(), step.keys.clone()).map_err(local)?;
    let summary = run_shown(&group, &config, &mut sink)?;
    publish(bucket, step, &forest.digest, &summary, base_note(&config.model))
}

/// Trains, with the figures on the port that the operator names to this pod, if it does.
fn run_shown(
    group: &Group,
    config: &TrainConfig,
    sink: &mut dyn ArtifactSink,
) -> Result<RunSummary, JobError> {
    let Some(port) = ranks::metrics_port()? else { return Ok(train::run_in(group, config, sink)?) };
    // The first one takes questions of both kinds, where the node has the new kind at all.
    let addresses = [IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into()];
    let addresses = addresses.map(|address| SocketAddr::from((address, port)));
    let (mut sink, _) = MetricsSink::listen(&addresses[..], sink).map_err(JobError::Metrics)?;
    Ok(train::run_in(group, config, &mut sink)?)
}

/// Uploads the model's files and the adapter's, then the create-only manifests, the model's last.
fn publish(
    bucket: &Bucket,
    step: &TrainStep,
    forest: &Digest,
    summary: &RunSummary,
    base: Option<String>,
) -> Result<(), JobError> {
    let names = summary.manifest.files.keys().map(String::as_str);
    let files = upload(bucket, &ObjectKeys::beside(&step.keys.model()), &summary.model, names)?;
    let folder = summary.adapter.as_deref();
    let adapter = folder.map(|folder| publish_adapter(bucket, step, summary, folder)).transpose()?;
    let count = |steps: usize| u64::try_from(steps).unwrap_or(u64::MAX);
    let mut inputs = summary.manifest.inputs.clone();
    inputs.insert("forest".to_owned(), forest.clone());
    let mut metrics = summary.manifest.metrics.clone();
    metrics.extend(base.map(|note| ("base".to_owned(), note.into())));
    let manifest = ModelManifest {
        files,
        inputs,
        step: count(summary.manifest.step),
        steps: count(summary.manifest.steps),
        metrics,
        adapter,
    };
    let mut lineage = Lineage::from([("forest".to_owned(), step.forest.clone())]);
    if let ModelSource::Manifest(base) = &step.model {
        lineage.insert("model".to_owned(), base.clone());
    }
    bucket.wait(bucket.store.create_json(&step.keys.lineage("model"), &lineage))?;
    let key = step.keys.model();
    bucket.wait(bucket.store.create_json(&key, &manifest))?;
    println!("finished: {key}");
    Ok(())
}

/// Uploads the adapter in `folder` and its create-only manifest, whose digest is returned.
fn publish_adapter(
    bucket: &Bucket,
    step: &TrainStep,
    summary: &RunSummary,
    folder: &Path,
) -> Result<Digest, JobError> {
    let key = step.keys.adapter();
    let files = upload(bucket, &ObjectKeys::beside(&key), folder, train::export::ADAPTER_FILES.into_iter())?;
    let of_model = |name: &&String| name.starts_with("model/");
    let inputs = summary.manifest.inputs.iter().filter(|(name, _)| of_model(name));
    let inputs = inputs.map(|(name, digest)| (name.clone(), digest.clone())).collect();
    let manifest = AdapterManifest { files, inputs };
    bucket.wait(bucket.store.create_json(&key, &manifest))?;
    Digest::of_json(&manifest).map_err(|source| JobError::Store(StoreError::Json { key, source }))
}

/// Uploads files of a folder and says what they are.
fn upload<'name>(
    bucket: &Bucket,
    keys: &ObjectKeys,
    folder: &Path,
    names: impl Iterator<Item = &'name str>,
) -> Result<BTreeMap<String, OutputRef>, JobError> {
    let mut files = BTreeMap::new();
    for name in names {
        let sent = bucket.wait(bucket.store.upload_file(&keys.join(name), &folder.join(name)))?;
        let file = OutputRef { file: name.to_owned(), digest: sent.digest, bytes: sent.bytes };
        files.insert(name.to_owned(), file);
    }
    Ok(files)
}

/// What the model is called where this pod's folders do not exist.
fn public_name(model: &ModelSource) -> String {
    match model {
        ModelSource::Builtin(name) => format!("builtin:{name}"),
        ModelSource::Directory(path) => path.clone(),
        ModelSource::Manifest(key) => format!("artifact:{key}"),
    }
}

/// What a reader has to know of the model that training began with: that nobody has trained it before.
fn base_note(folder: &Path) -> Option<String> {
    let manifest = train::export::read_manifest(folder)?;
    let seed = manifest.metrics.get("seed").filter(|_| manifest.steps == 0)?;
    Some(format!("seeded random weights (seed {seed})"))
}

/// An error with its causes, on one line.
fn chain(error: &JobError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.chars().take(1000).collect()
}
