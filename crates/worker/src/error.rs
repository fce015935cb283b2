//! Why a worker stops, and with which exit code.

use sealign_storage::StoreError;

/// Why a worker did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The input cannot be used, today or tomorrow. The text names the field or file and the remedy; it becomes a
    /// [`Rejection`](sealign_manifest::group::Rejection), and the object fails.
    #[error("{0}")]
    Rejected(String),
    /// The store failed, after every repetition. Another round may do better.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Something that should exist by now does not, or is not what it should be.
    #[error("{0}")]
    Premise(String),
    /// A value of ours cannot be written as JSON.
    #[error("a document cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}

/// Exit code of a worker whose input cannot be used: no further round is tried.
pub const EXIT_REJECTED: u8 = 64;
/// Exit code of a worker that another round may help.
pub const EXIT_FAILED: u8 = 1;

impl WorkerError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Rejected(_) => EXIT_REJECTED,
            Self::Store(_) | Self::Premise(_) | Self::Encode(_) => EXIT_FAILED,
        }
    }

    /// A rejection in one sentence of cause and one of remedy.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::Rejected(message.into())
    }

    /// Whether a simulated process is dead: everything must unwind.
    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_crash())
    }
}
