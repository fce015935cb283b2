//! Training runs: one stage (SFT or DPO) from rows in JSONL files to a model folder.
//!
//! Everything is a local file. Start with [`settings`] for what can be set, [`run`] for the loop, [`step`] for what one
//! optimiser step computes. A run is a function of its inputs and settings: stopped anywhere and started again, it continues
//! from the newest valid [`checkpoint`] and ends with the same bytes.

pub mod checkpoint;
pub mod data;
pub mod export;
pub mod metrics;
pub mod plan;
pub mod progress;
pub mod reference;
pub mod retrieve;
pub mod run;
pub mod settings;
pub mod spikes;
pub mod step;
pub mod tensorboard;
pub mod together;

pub use progress::{ArtifactSink, LocalSink, SilentSink};
pub use retrieve::checkpoint_model;
pub use run::{RunError, RunSummary, run, run_in};
pub use settings::{Stage, StageSettings, TrainConfig};
