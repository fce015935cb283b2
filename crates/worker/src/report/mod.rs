//! The report worker: of one benchmark, or of a whole run.
//!
//! Rates, intervals and tests are `sealign_report`'s; this worker collects attempts and provenance and writes the pages,
//! the manifest `report.json` last. A benchmark's attempts are kept beside its report (`attempts.json`), so that baselines
//! and runs compare task by task without reading records again.

mod alignment;
mod benchmark;

use std::collections::{BTreeMap, BTreeSet};

use sealign_manifest::group::{Lineage, OutputRef};
use sealign_manifest::record::Outcome;
use sealign_manifest::{Digest, ObjectKeys};
use sealign_plan::config::Report as Config;
use sealign_report::{Attempt, ModelAttempts, Provenance, Report};
use sealign_storage::ArtifactStore;
use sealign_storage::artifact::JSON_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::error::WorkerError;
use crate::saving::{exists, output, read};

/// Name of a benchmark's attempts below its prefix.
pub const ATTEMPTS: &str = "attempts.json";

/// One attempt of a benchmark, as it is kept for comparisons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptAttempt {
    /// Task id.
    pub task: String,
    /// Bug family; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub family: String,
    /// How it counts.
    pub outcome: Outcome,
    /// Left no patch.
    pub is_empty: bool,
    /// Three equal actions in a row.
    pub is_stuck: bool,
    /// The suite's notion of invalid.
    pub is_invalid: bool,
    /// Turns that the harness refused.
    pub invalid_turns: u64,
    /// Model turns.
    pub turns: u64,
    /// Prompt and completion tokens.
    pub tokens: u64,
}

impl From<KeptAttempt> for Attempt {
    fn from(kept: KeptAttempt) -> Self {
        let KeptAttempt {
            task,
            family,
            outcome,
            is_empty,
            is_stuck,
            is_invalid,
            invalid_turns,
            turns,
            tokens,
        } = kept;
        Self { task, family, outcome, is_empty, is_stuck, is_invalid, invalid_turns, turns, tokens }
    }
}

/// Writes the report of `config`, unless it exists.
///
/// # Errors
/// [`WorkerError`] where something that the report rests on is missing.
pub async fn write(store: &dyn ArtifactStore, config: &Config) -> Result<(), WorkerError> {
    let keys = match config {
        Config::Benchmark(config) => &config.keys,
        Config::Alignment(config) => &config.keys,
    };
    if exists(store, &keys.report()).await? {
        return Ok(());
    }
    match config {
        Config::Benchmark(config) => benchmark::write(store, config).await,
        Config::Alignment(config) => alignment::write(store, config).await,
    }
}

/// What a report rests on: digests by name, which its manifest holds, and keys, which it does not.
#[derive(Debug, Default)]
struct Inputs {
    digests: BTreeMap<String, Digest>,
    lineage: Lineage,
}

impl Inputs {
    /// Reads the object at `key` and notes it as `name`.
    async fn take(
        &mut self,
        store: &dyn ArtifactStore,
        name: &str,
        key: String,
    ) -> Result<Vec<u8>, WorkerError> {
        let missing = || WorkerError::Premise(format!("`{key}` is missing: the step before has not ended"));
        let bytes = read(store, &key, JSON_BYTES_MAX).await?.ok_or_else(missing)?;
        self.digests.insert(name.to_owned(), Digest::of_bytes(&bytes));
        self.lineage.insert(name.to_owned(), key);
        Ok(bytes)
    }

    /// As a report's page lists them.
    fn provenance(&self) -> impl Iterator<Item = Provenance> {
        let of = |(name, digest): (&String, &Digest)| Provenance {
            name: name.clone(),
            digest: digest.to_string(),
        };
        self.digests.iter().map(of)
    }
}

/// The attempts in an `attempts.json`.
fn kept(name: &str, bytes: &[u8]) -> Result<ModelAttempts, WorkerError> {
    let attempts: Vec<KeptAttempt> = serde_json::from_slice(bytes)?;
    let attempts = attempts.into_iter().map(Attempt::from).collect();
    Ok(ModelAttempts { name: name.to_owned(), attempts })
}

/// Writes the pages of a report; `stem` is their file name without ending.
async fn pages(
    store: &dyn ArtifactStore,
    keys: &ObjectKeys,
    stem: &str,
    report: &Report,
) -> Result<BTreeMap<String, OutputRef>, WorkerError> {
    let mut outputs = BTreeMap::new();
    for (ending, page) in [("md", report.markdown()), ("html", report.html())] {
        let file = format!("{stem}.{ending}");
        outputs.insert(file.clone(), output(store, keys, &file, page.into_bytes()).await?);
    }
    Ok(outputs)
}

/// Families that alignment data never holds.
fn held_out_families() -> BTreeSet<String> {
    use sealign_tasks::suites::mini::Family;
    Family::HELD_OUT.into_iter().map(|family| family.name().to_owned()).collect()
}
