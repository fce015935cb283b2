//! A model folder from a checkpoint of a run that goes on, or that was never finished.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::checkpoint::{CheckpointError, Checkpoints};
use super::export::{self, ModelFolderManifest, Provenance};
use super::settings::TrainConfig;
use crate::model::directory::{self, DirectoryError};
use crate::model::tensors::SaveType;
use crate::model::{Decoder, adapter};

/// Why no model can be made of a checkpoint.
#[derive(Debug, Error)]
pub enum RetrieveError {
    /// The base model's folder cannot be used.
    #[error("the model cannot be used")]
    Model(#[from] DirectoryError),
    /// The checkpoint cannot be read or the model not written.
    #[error("a checkpoint failed")]
    Checkpoint(#[from] CheckpointError),
    /// There is no such checkpoint.
    #[error(
        "{folder} has no whole checkpoint{which}; give the configuration of a run that has come to its first one"
    )]
    None {
        /// Folder of the checkpoints.
        folder: String,
        /// Which was asked for.
        which: String,
    },
    /// A tensor of the adapters is not there.
    #[error("the checkpoint has no tensor {name:?} of the shape that lora in the settings asks for")]
    Adapter {
        /// Its name.
        name: String,
    },
}

/// Writes the model of the checkpoint after `step` steps, or of the newest whole one, with adapters merged.
pub fn checkpoint_model(
    config: &TrainConfig,
    step: Option<usize>,
    save_type: SaveType,
    out: &Path,
) -> Result<ModelFolderManifest, RetrieveError> {
    let folder = config.output.join("checkpoints");
    let nothing = || RetrieveError::None {
        folder: folder.display().to_string(),
        which: step.map(|step| format!(" after {step} steps")).unwrap_or_default(),
    };
    if !folder.is_dir() {
        return Err(nothing());
    }
    let checkpoints = Checkpoints::open(folder.clone())?;
    let state = checkpoints.state(step)?.ok_or_else(nothing)?;
    let model_config = directory::read_config(&config.model)?;
    let weights = match config.settings.lora {
        Some(lora) => {
            let mut weights = directory::read_weights(&config.model, &model_config)?;
            adapter::attach(&model_config, &mut weights, lora, config.settings.seed);
            adapter::fill(&weights, &checkpoints.read_named(state.step)?)
                .map_err(|name| RetrieveError::Adapter { name })?;
            adapter::merged(&weights)
        }
        None => checkpoints.read_weights(state.step, &model_config)?,
    };
    let provenance = Provenance {
        inputs: BTreeMap::from([("run".to_owned(), state.inputs)]),
        step: state.step,
        steps: state.step,
        metrics: BTreeMap::new(),
    };
    let model = Decoder { config: model_config, weights };
    let tokenizer = config.tokenizer.as_ref().unwrap_or(&config.model);
    Ok(export::write_model(out, &model, tokenizer, save_type, provenance)?)
}
