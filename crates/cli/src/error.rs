//! What can go wrong at the rim, and the exit codes.

use std::io;
use std::path::{Path, PathBuf};

use sealign_local::engine::EngineError;

use crate::documents::ManifestError;

/// Exit code of a run whose objects did not all succeed.
pub const FAILED: u8 = 1;
/// Exit code of input that cannot be used; clap's own errors have it too.
pub const INPUT: u8 = 2;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The embedded run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] sealign_local::folder::FolderError),
    /// Our schemas, a fault of ours.
    #[error(transparent)]
    Schema(#[from] sealign_local::admission::SchemaFault),
    /// A file.
    #[error("{}: cannot be {action}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// An argument that cannot be meant; the text names it and the remedy.
    #[error("{0}")]
    Argument(String),
    /// What a command reads is not what it should be.
    #[error("{0}")]
    Input(String),
    /// The system gives no threads.
    #[error("the program cannot start its threads")]
    Runtime(#[source] io::Error),
    /// A result that cannot be written, a fault of ours.
    #[error("the result cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    /// A failed file operation.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(_) | Self::Json(_) | Self::Schema(_) | Self::Engine(_) => FAILED,
            _ => INPUT,
        }
    }
}

/// An error and its causes, in one text.
pub fn chain(error: &dyn std::error::Error) -> String {
    sealign_reconcile::error::chain(error)
}
