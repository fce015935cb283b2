//! What can go wrong with a bed, said so that the reader knows what to do.

use std::io;
use std::path::PathBuf;

/// Why there is no bed.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// The machine lacks something that a bed cannot do without.
    #[error("no bed on this machine: {0}")]
    Requirement(String),
    /// Every run number is taken by a live bed.
    #[error("all {0} run numbers are taken by live beds: end one of them")]
    Full(u8),
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("`{program}` could not be started")]
    Start {
        /// Which one.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// What was run.
        command: String,
        /// The end of what it printed.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what} within {seconds} s; {detail}")]
    Deadline {
        /// What was waited for, as "no X".
        what: String,
        /// For how long.
        seconds: u64,
        /// What was seen instead.
        detail: String,
    },
}

impl BedError {
    /// For `map_err`: a failure at `path`.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// The usual result of this crate.
pub type Result<T, E = BedError> = std::result::Result<T, E>;
