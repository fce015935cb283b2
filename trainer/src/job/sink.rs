//! Carries progress and checkpoints to the store, and checkpoints back.

use std::path::Path;
use std::time::{Duration, Instant};

use sealign_manifest::ObjectKeys;
use sealign_manifest::train::TrainProgress;
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _};
use serde_json::{Map, Value};

use super::fetch::create;
use super::{Bucket, JobError};
use crate::train::checkpoint::{self, Checkpoints};
use crate::train::{ArtifactSink, LocalSink};

/// Time between two progress objects: a status line needs no more, and a store bills for each.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// A checkpoint file at most.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;

/// A sink whose checkpoints and progress also go to the store.
pub struct StoreSink {
    local: LocalSink,
    bucket: Bucket,
    keys: ObjectKeys,
    told: Option<Instant>,
}

impl StoreSink {
    /// Keeps everything in `folder` and carries it to `keys`.
    pub fn open(folder: &Path, bucket: Bucket, keys: ObjectKeys) -> std::io::Result<Self> {
        Ok(Self { local: LocalSink::open(folder, false)?, bucket, keys, told: None })
    }

    fn tell(&mut self, progress: &TrainProgress) {
        let is_last = progress.step == progress.steps;
        if !is_last && self.told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let key = self.keys.progress();
        let told = self.bucket.wait(self.bucket.store.overwrite_json(&key, progress));
        // A hint: losing it costs a line of a status, stopping for it would cost the run.
        if let Err(error) = told {
            tracing::warn!(%error, "progress could not be told");
        }
    }
}

impl ArtifactSink for StoreSink {
    fn progress(&mut self, progress: &TrainProgress) -> std::io::Result<()> {
        self.local.progress(progress)?;
        self.tell(progress);
        Ok(())
    }

    fn log(&mut self, record: &Map<String, Value>) -> std::io::Result<()> {
        self.local.log(record)
    }

    fn checkpoint(&mut self, step: usize, folder: &Path) -> std::io::Result<()> {
        self.local.checkpoint(step, folder)?;
        for file in checkpoint::FILES {
            let key = checkpoint_key(&self.keys, step, file);
            self.bucket
                .wait(self.bucket.store.upload_file(&key, &folder.join(file)))
                .map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

/// Brings the newest whole checkpoint of the store into `output`, and the best one that it names. Returns the newest's step.
pub fn restore(bucket: &Bucket, keys: &ObjectKeys, output: &Path) -> Result<Option<usize>, JobError> {
    let names = bucket.wait(bucket.store.list_names(&keys.join("checkpoints")))?;
    let newest = names.iter().filter_map(|name| whole_step(name)).max();
    let Some(step) = newest else { return Ok(None) };
    let local = |source| JobError::Train(crate::train::RunError::Checkpoint(source));
    let checkpoints = Checkpoints::open(output.join("checkpoints")).map_err(local)?;
    bring(bucket, keys, step, &checkpoints.path(step))?;
    // The model of the run is the best checkpoint, which need not be the newest.
    if let Some(best) = checkpoints.best_step(step) {
        bring(bucket, keys, best, &checkpoints.path(best))?;
    }
    Ok(Some(step))
}

/// Downloads a checkpoint unless it is there.
fn bring(bucket: &Bucket, keys: &ObjectKeys, step: usize, folder: &Path) -> Result<(), JobError> {
    if folder.join(checkpoint::MANIFEST).exists() {
        return Ok(());
    }
    create(folder)?;
    for file in checkpoint::FILES {
        let target = folder.join(file);
        if target.exists() {
            std::fs::remove_file(&target)
                .map_err(|source| JobError::Local { path: target.clone(), source })?;
        }
        let key = checkpoint_key(keys, step, file);
        bucket.wait(bucket.store.download_file(&key, &target, FILE_BYTES_MAX, None))?;
    }
    Ok(())
}

fn checkpoint_key(keys: &ObjectKeys, step: usize, file: &str) -> String {
    keys.join(&format!("checkpoints/{step}/{file}"))
}

/// The step of a checkpoint's manifest, by the manifest's name.
fn whole_step(name: &str) -> Option<usize> {
    let folder = name.strip_suffix("/manifest.json")?;
    folder.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checkpoint_with_its_manifest_is_whole() {
        assert_eq!(whole_step("a/checkpoints/120/manifest.json"), Some(120));
        assert_eq!(whole_step("a/checkpoints/120/state.json"), None);
        assert_eq!(whole_step("a/model/manifest.json"), None);
    }
}
