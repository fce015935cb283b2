//! The trainer as a pod: inputs come from the store, checkpoints and the model go back to it.
//!
//! A pod is told one [`WorkerConfig`](sealign_plan::config::WorkerConfig) by its environment and needs nothing else but
//! the store. Training itself works on local folders ([`crate::train`]); this module only carries. Whatever was carried is
//! checked by digest, and the result exists when its create-only model manifest does.

mod bucket;
pub mod builtin;
mod fetch;
mod ranks;
pub mod serve;
mod settings;
mod sink;
pub mod step;

pub use bucket::Bucket;

use std::path::PathBuf;

use sealign_storage::StoreError;

/// Why a pod's work failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A variable of the environment is missing or wrong.
    #[error("{variable} {problem}; the operator sets it")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Open(#[from] sealign_storage::OpenError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// An input cannot be used: a person has to change it.
    #[error("{0}")]
    Input(String),
    /// A local file failed.
    #[error("{path} failed")]
    Local {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The figures cannot be shown.
    #[error("the port of the metrics cannot be listened on")]
    Metrics(#[source] std::io::Error),
    /// Training failed.
    #[error("training failed")]
    Train(#[from] crate::train::RunError),
    /// The variables that name the ranks are wrong.
    #[error("the ranks cannot be told apart")]
    World(#[from] crate::dist::world::WorldError),
    /// The ranks did not meet.
    #[error("the ranks lost each other")]
    Collective(#[from] crate::dist::CollectiveError),
    /// A rank of this pod failed.
    #[error("a process of this pod failed")]
    Launch(#[from] crate::dist::launch::LaunchError),
    /// The server failed.
    #[error("serving failed")]
    Serve(#[from] crate::serve::http::ServeError),
}

impl JobError {
    /// True when the same inputs will fail the same way.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Input(_) => true,
            Self::Train(error) => error.is_input(),
            Self::Environment { .. }
            | Self::Open(_)
            | Self::Store(_)
            | Self::Local { .. }
            | Self::Metrics(_)
            | Self::World(_)
            | Self::Collective(_)
            | Self::Launch(_)
            | Self::Serve(_) => false,
        }
    }
}
