//! Checkpoints that are either whole or absent.
//!
//! A checkpoint is a folder `step-00000084` with `weights.safetensors`, `optimizer.safetensors`, `state.json` and, written
//! last, `manifest.json` with the digest of each. It is built under another name and renamed. There is no "latest" pointer:
//! the newest folder whose digests match is the one to resume from, so a torn write costs the steps since the one before.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use sealign_manifest::Digest;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use thiserror::Error;

use super::spikes::SpikeGuard;
use crate::model::tensors::{self, SaveType, TensorFileError};
use crate::model::weights::WeightsError;
use crate::model::{Decoder, ModelConfig, Weights};
use crate::optim::AdamW;

/// Checkpoints that are kept beside the best one.
const KEPT: usize = 2;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// Name of a checkpoint's manifest: without it, or with a digest in it that does not match, a checkpoint does not count.
pub const MANIFEST: &str = "manifest.json";
/// Files of a checkpoint in the order in which they are written.
pub const FILES: [&str; 4] = [WEIGHTS, OPTIMIZER, STATE, MANIFEST];

/// Why a checkpoint could not be written or used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{path} cannot be {action}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A tensor file failed.
    #[error("the checkpoint in {path} failed")]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// The reason.
        source: TensorFileError,
    },
    /// The stored weights do not fit the model.
    #[error("the checkpoint in {path} does not fit the model")]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// The reason.
        source: WeightsError,
    },
    /// The optimiser state does not fit the model.
    #[error(
        "the checkpoint in {path} has no usable optimiser state {tensor:?}; remove the folder to resume from an older one"
    )]
    Optimizer {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
    },
    /// The checkpoint belongs to a run with other inputs or settings.
    #[error(
        "{path} is a checkpoint of another run (inputs {found}, this run {expected}); give another output folder, or \
         remove that one"
    )]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// Digest of the run that wrote it.
        found: Digest,
        /// Digest of this run.
        expected: Digest,
    },
}

/// Where a run stands, beside weights and optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunState {
    /// Digest of settings, model and data.
    pub inputs: Digest,
    /// Optimiser steps done; with the seed this is also the position in the data.
    pub step: usize,
    /// Updates the optimiser has counted.
    pub optimizer_steps: u64,
    /// Step with the lowest validation loss so far.
    pub best: Option<Best>,
    /// Sums for the final report.
    pub totals: Totals,
    /// Gradient norms of the last steps.
    #[serde(default)]
    pub spikes: SpikeGuard,
}

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Best {
    /// Optimiser steps done at that time.
    pub step: usize,
    /// Validation loss in nats.
    pub validation_loss: f64,
    /// Further figures of that evaluation.
    pub figures: BTreeMap<String, f64>,
}

/// Sums over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Rows computed, shared prefixes once.
    pub rows: u64,
    /// Rows of the linear layout.
    pub linear_rows: u64,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Digest>,
}

/// The checkpoint folder of a run.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Opens (and creates) the folder.
    pub fn open(folder: PathBuf) -> Result<Self, CheckpointError> {
        std::fs::create_dir_all(&folder).map_err(|source| io(&folder, "created", source))?;
        Ok(Self { folder })
    }

    /// Folder of the checkpoint after `step` steps.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Writes a checkpoint and removes those that are neither recent nor the best. Weights are under their Hub names,
    /// optimiser state under the names of [`AdamW::state`].
    pub fn save(
        &self,
        state: &RunState,
        weights: &BTreeMap<String, Tensor>,
        optimizer: &BTreeMap<String, Tensor>,
    ) -> Result<PathBuf, CheckpointError> {
        let target = self.path(state.step);
        let partial = self.folder.join(format!("partial-{:08}-{}", state.step, std::process::id()));
        if partial.exists() {
            remove(&partial)?;
        }
        std::fs::create_dir_all(&partial).map_err(|source| io(&partial, "created", source))?;
        let tensors = |source| CheckpointError::Tensors { path: partial.clone(), source };
        tensors::write(&partial.join(WEIGHTS), weights, SaveType::F32).map_err(tensors)?;
        tensors::write(&partial.join(OPTIMIZER), optimizer, SaveType::F32).map_err(tensors)?;
        let json = serde_json::to_vec_pretty(state).map_err(|error| io(&partial, "written", error.into()))?;
        write_whole(&partial.join(STATE), &json).map_err(|source| io(&partial, "written", source))?;
        let mut files = BTreeMap::new();
        for name in [WEIGHTS, OPTIMIZER, STATE] {
            files.insert(name.to_owned(), digest_file(&partial.join(name))?);
        }
        let json = serde_json::to_vec_pretty(&Manifest { files })
            .map_err(|error| io(&partial, "written", error.into()))?;
        write_whole(&partial.join(MANIFEST), &json).map_err(|source| io(&partial, "written", source))?;
        if target.exists() {
            remove(&target)?;
        }
        std::fs::rename(&partial, &target).map_err(|source| io(&target, "renamed", source))?;
        sync_folder(&self.folder);
        self.prune(state)?;
        Ok(target)
    }

    /// The step of the best checkpoint so far, as the valid checkpoint after `step` steps says.
    pub fn best_step(&self, step: usize) -> Option<usize> {
        read_valid(&self.path(step))?.best.map(|best| best.step)
    }

    /// State of the newest valid checkpoint. Checkpoints that fail their digests are skipped and named in `torn`.
    pub fn newest(
        &self,
        inputs: &Digest,
        torn: &mut Vec<PathBuf>,
    ) -> Result<Option<RunState>, CheckpointError> {
        for step in self.steps()?.into_iter().rev() {
            let path = self.path(step);
            let Some(state) = read_valid(&path) else {
                torn.push(path);
                continue;
            };
            if state.inputs != *inputs {
                return Err(CheckpointError::OtherRun {
                    path,
                    found: state.inputs,
                    expected: inputs.clone(),
                });
            }
            return Ok(Some(state));
        }
        Ok(None)
    }

    /// State of the checkpoint after `step` steps, or of the newest; `None` when it is not there or not whole.
    pub fn state(&self, step: Option<usize>) -> Result<Option<RunState>, CheckpointError> {
        let mut steps = self.steps()?;
        steps.retain(|found| step.is_none_or(|step| step == *found));
        Ok(steps.into_iter().rev().find_map(|step| read_valid(&self.path(step))))
    }

    /// Loads weights and optimiser of the checkpoint after `step` steps.
    pub fn load(
        &self,
        state: &RunState,
        model: &mut Decoder,
        optimizer: &mut AdamW,
    ) -> Result<(), CheckpointError> {
        let weights = self.read_weights(state.step, &model.config)?;
        weights.enable_gradients();
        model.weights = weights;
        optimizer
            .restore(state.optimizer_steps, self.read_optimizer(state.step)?)
            .map_err(|tensor| CheckpointError::Optimizer { path: self.path(state.step), tensor })
    }

    /// The weights of a checkpoint.
    pub fn read_weights(&self, step: usize, config: &ModelConfig) -> Result<Weights, CheckpointError> {
        Weights::from_hub(config, self.read_named(step)?)
            .map_err(|source| CheckpointError::Weights { path: self.path(step), source })
    }

    /// The weights of a checkpoint by name: all, or those of adapters.
    pub fn read_named(&self, step: usize) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
        let path = self.path(step);
        tensors::read(&path.join(WEIGHTS)).map_err(|source| CheckpointError::Tensors { path, source })
    }

    /// The optimiser state of a checkpoint, by name.
    pub fn read_optimizer(&self, step: usize) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
        let path = self.path(step);
        tensors::read(&path.join(OPTIMIZER)).map_err(|source| CheckpointError::Tensors { path, source })
    }

    fn steps(&self) -> Result<Vec<usize>, CheckpointError> {
        let entries = std::fs::read_dir(&self.folder).map_err(|source| io(&self.folder, "listed", source))?;
        let mut steps: Vec<usize> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn prune(&self, state: &RunState) -> Result<(), CheckpointError> {
        let steps = self.steps()?;
        let best = state.best.as_ref().map(|best| best.step);
        let removable = steps.len().saturating_sub(KEPT);
        for step in steps.into_iter().take(removable).filter(|step| Some(*step) != best) {
            remove(&self.path(step))?;
        }
        Ok(())
    }
}

fn read_valid(path: &Path) -> Option<RunState> {
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(path.join(MANIFEST)).ok()?).ok()?;
    for name in [WEIGHTS, OPTIMIZER, STATE] {
        if manifest.files.get(name)? != &digest_file(&path.join(name)).ok()? {
            return None;
        }
    }
    serde_json::from_slice(&std::fs::read(path.join(STATE)).ok()?).ok()
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), action, source }
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    std::fs::remove_dir_all(path).map_err(|source| io(path, "removed", source))
}

/// Digest of a file's bytes, read in blocks.
pub fn digest_file(path: &Path) -> Result<Digest, CheckpointError> {
    let mut file = std::fs::File::open(path).map_err(|source| io(path, "read", source))?;
    let mut hasher = sha2::Sha256::default();
    std::io::copy(&mut file, &mut hasher).map_err(|source| io(path, "read", source))?;
    Ok(digest_of(hasher))
}

/// The digest that a hasher has come to.
pub fn digest_of(hasher: sha2::Sha256) -> Digest {
    let mut text = String::with_capacity(64);
    for byte in sha2::Digest::finalize(hasher) {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
    }
    // 64 hexadecimal digits always parse.
    Digest::parse(&text).unwrap_or_else(|_| Digest::of_bytes(b""))
}

/// Writes a file under another name, flushes it and renames it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    if let Some(parent) = path.parent() {
        sync_folder(parent);
    }
    Ok(())
}

/// Makes renames in a folder durable. Some file systems cannot; the digests find what that loses.
fn sync_folder(folder: &Path) {
    if let Ok(handle) = std::fs::File::open(folder) {
        let _ = handle.sync_all();
    }
}
