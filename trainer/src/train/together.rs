//! A training run's dealings with the other processes: what is divided, who reads and who writes.
//!
//! Checkpoints hold whole tensors under the same names however many processes wrote them, so a run can go on with another
//! number of them. Process 0 reads and writes; the others get what it read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sealign_manifest::Digest;

use super::checkpoint::{CheckpointError, Checkpoints, RunState};
use super::export::ModelFolderManifest;
use super::run::RunError;
use super::settings::{Sharding, StageSettings};
use super::step::{Computation, Place, ReferencePair};
use crate::dist::{CollectiveError, Group, Shards};
use crate::model::{Decoder, Recompute, Weights, adapter};
use crate::optim::{self, AdamW, AdamWSettings, Slot};
use crate::placement::Placement;

/// The processes of a run as the training loop sees them.
#[derive(Debug)]
pub struct Together<'run> {
    group: &'run Group,
    shards: Option<Shards<'run>>,
}

type References = [Vec<ReferencePair>; 2];

impl<'run> Together<'run> {
    /// Divides the model if the settings say so and there are others to divide it with, or if what is computed with is not
    /// what the optimiser updates. Adapters are never divided.
    pub fn new(group: &'run Group, sharding: Sharding, placement: Placement, model: &Decoder) -> Self {
        let divided = (sharding == Sharding::Everything && group.size() > 1) || !placement.is_plain();
        let divided = divided && !model.weights.is_adapted();
        Self { group, shards: divided.then(|| Shards::cut(&model.weights, group, placement)) }
    }

    /// True in the process that reads and writes.
    pub fn leads(&self) -> bool {
        self.group.leads()
    }

    /// For [`super::step::compute_across`].
    pub fn place(&self) -> Place<'_> {
        Place { group: self.group, shards: self.shards.as_ref() }
    }

    /// How steps are computed; a divided model has to recompute its layers.
    pub fn computation(&self, settings: &StageSettings) -> Computation {
        let computation = Computation::of(settings);
        match self.shards {
            Some(_) => Computation { recompute: Recompute::Layers, ..computation },
            None => computation,
        }
    }

    /// What this process's optimiser updates.
    pub fn slots(&self, model: &Decoder) -> Vec<Slot> {
        self.shards.as_ref().map_or_else(|| optim::slots(&model.weights), Shards::slots)
    }

    /// Fresh optimiser state.
    pub fn optimizer(&self, settings: AdamWSettings, model: &Decoder) -> AdamW {
        AdamW::over(settings, &self.slots(model))
    }

    /// Before the first microbatch of a step.
    pub fn zero_gradients(&self, model: &Decoder) {
        match &self.shards {
            Some(shards) => shards.zero_gradients(),
            None => model.weights.zero_gradients(),
        }
    }

    /// Euclidean norm over all gradients of all processes.
    pub fn gradient_norm(&self, model: &Decoder) -> Result<f64, CollectiveError> {
        match &self.shards {
            Some(shards) => Ok(shards.gradient_squares()?.sqrt()),
            None => Ok(optim::gradient_norm(&model.weights)),
        }
    }

    /// The newest valid checkpoint of process 0.
    pub fn newest(
        &self,
        checkpoints: &Checkpoints,
        inputs: &Digest,
        torn: &mut Vec<PathBuf>,
    ) -> Result<Option<RunState>, RunError> {
        let found = if self.leads() { checkpoints.newest(inputs, torn)? } else { None };
        Ok(self.share(found)?)
    }

    /// Continues from a checkpoint of process 0.
    pub fn load(
        &self,
        checkpoints: &Checkpoints,
        state: &RunState,
        model: &mut Decoder,
        optimizer: &mut AdamW,
    ) -> Result<(), RunError> {
        let Some(shards) = &self.shards else {
            if self.leads() && model.weights.is_adapted() {
                Self::fill_adapters(checkpoints, state.step, model)?;
                let missing =
                    |tensor| CheckpointError::Optimizer { path: checkpoints.path(state.step), tensor };
                let moments = checkpoints.read_optimizer(state.step)?;
                optimizer.restore(state.optimizer_steps, moments).map_err(missing)?;
            } else if self.leads() {
                checkpoints.load(state, model, optimizer)?;
            }
            for (_, tensor) in model.weights.trained() {
                self.group.broadcast(&tensor.detach(), 0)?;
            }
            for tensor in optimizer.state().values() {
                self.group.broadcast(tensor, 0)?;
            }
            optimizer.set_steps(state.optimizer_steps);
            return Ok(());
        };
        let (mut parameters, mut moments) = (BTreeMap::new(), BTreeMap::new());
        if self.leads() {
            parameters = checkpoints.read_weights(state.step, &model.config)?.into_parameters();
            moments = checkpoints.read_optimizer(state.step)?;
        }
        let missing = |tensor| CheckpointError::Optimizer { path: checkpoints.path(state.step), tensor };
        shards.take_parameters(&parameters)?.map_err(missing)?;
        let parts = shards.take_state(&moments)?.map_err(missing)?;
        optimizer.restore(state.optimizer_steps, parts).map_err(missing)?;
        Ok(())
    }

    /// Writes a checkpoint in process 0 and returns its folder there.
    pub fn save(
        &self,
        checkpoints: &Checkpoints,
        state: &RunState,
        model: &Decoder,
        optimizer: &AdamW,
    ) -> Result<Option<PathBuf>, RunError> {
        let moments = match &self.shards {
            Some(shards) => shards.whole_state(&optimizer.state())?,
            None => optimizer.state(),
        };
        let named = if model.weights.is_adapted() {
            adapter::to_peft(&model.weights)
        } else {
            self.whole_weights(model)?.to_hub(&model.config)
        };
        if !self.leads() {
            return Ok(None);
        }
        Ok(Some(checkpoints.save(state, &named, &moments)?))
    }

    fn fill_adapters(checkpoints: &Checkpoints, step: usize, model: &Decoder) -> Result<(), CheckpointError> {
        let missing = |tensor| CheckpointError::Optimizer { path: checkpoints.path(step), tensor };
        adapter::fill(&model.weights, &checkpoints.read_named(step)?).map_err(missing)
    }

    fn whole_weights(&self, model: &Decoder) -> Result<Weights, CollectiveError> {
        match &self.shards {
            Some(shards) => {
                let mut named = shards.whole()?;
                Ok(model.weights.with_values(|name| named.remove(name)))
            }
            None => Ok(model.weights.with_values(|_| None)),
        }
    }

    /// In process 0 the weights after `step` steps: those of a checkpoint, or the present ones after `present` steps. Adapters
    /// are merged into them, and the model's own are those of that step afterwards.
    pub fn weights_after(
        &self,
        checkpoints: &Checkpoints,
        step: usize,
        present: usize,
        model: &Decoder,
    ) -> Result<Option<Weights>, RunError> {
        if model.weights.is_adapted() {
            if !self.leads() {
                return Ok(None);
            }
            if step != present {
                Self::fill_adapters(checkpoints, step, model)?;
            }
            return Ok(Some(adapter::merged(&model.weights)));
        }
        if step == present {
            let weights = self.whole_weights(model)?;
            return Ok(self.leads().then_some(weights));
        }
        if self.leads() { Ok(Some(checkpoints.read_weights(step, &model.config)?)) } else { Ok(None) }
    }

    /// The manifest that process 0 has written.
    pub fn agree(
        &self,
        manifest: Option<ModelFolderManifest>,
    ) -> Result<Option<ModelFolderManifest>, CollectiveError> {
        self.share(manifest)
    }

    /// The stored reference log-probabilities of process 0.
    pub fn agree_references(
        &self,
        stored: Option<References>,
    ) -> Result<Option<References>, CollectiveError> {
        if self.group.size() == 1 {
            return Ok(stored);
        }
        // As bits: a decimal form might round.
        let bits = stored.map(|sets| {
            sets.map(|set| {
                set.iter().map(|pair| (pair.chosen.to_bits(), pair.rejected.to_bits())).collect::<Vec<_>>()
            })
        });
        let pair = |(chosen, rejected)| ReferencePair {
            chosen: f64::from_bits(chosen),
            rejected: f64::from_bits(rejected),
        };
        Ok(self.share(bits)?.map(|sets| sets.map(|set| set.into_iter().map(pair).collect())))
    }

    /// The value of process 0.
    fn share<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        value: Option<T>,
    ) -> Result<Option<T>, CollectiveError> {
        if self.group.size() == 1 {
            return Ok(value);
        }
        let bytes = self.group.broadcast_bytes(serde_json::to_vec(&value).unwrap_or_default())?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.group.error("read what was shared", error.to_string()))
    }
}
