//! Why a store operation failed, and what a caller may do about it.

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// May succeed when tried again. The operation may have been applied: a lost reply looks the same.
    Transient,
    /// Will fail again.
    Permanent,
    /// The object is not what its name or type says.
    Corrupt,
    /// The credentials do not allow it.
    Denied,
}

impl Category {
    /// The name for metric labels and condition reasons.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key is not one that this store accepts; nothing was sent.
    #[error("object key `{key}` is not allowed: {problem}")]
    Key {
        /// The key, cut to a readable length.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The object is larger than the caller is ready to read.
    #[error("object `{key}` has {size} bytes, more than the {limit} that are read here")]
    TooLarge {
        /// Its key.
        key: String,
        /// Its size in bytes.
        size: u64,
        /// The caller's bound in bytes.
        limit: u64,
    },
    /// More objects lie under a prefix than a listing returns.
    #[error("more than {limit} objects lie under `{prefix}`")]
    TooMany {
        /// The prefix.
        prefix: String,
        /// The bound.
        limit: usize,
    },
    /// The object is not the JSON document it should be.
    #[error("object `{key}` is not the expected JSON document")]
    Json {
        /// Its key.
        key: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A value cannot be written as JSON; nothing was sent.
    #[error("the document for `{key}` cannot be written as JSON")]
    Encode {
        /// Its key.
        key: String,
        /// What the writer says.
        #[source]
        source: serde_json::Error,
    },
    /// A blob's bytes are not those that its name promises.
    #[error("object `{key}` does not hold the bytes of its digest; its bytes have digest {actual}")]
    Digest {
        /// Its key.
        key: String,
        /// The digest of what it holds.
        actual: String,
    },
    /// A blob that something refers to is not there.
    #[error("object `{key}` is missing")]
    Missing {
        /// Its key.
        key: String,
    },
    /// The credentials do not allow the operation.
    #[error("{operation} `{key}` was denied; check the storage credentials and their permissions")]
    Denied {
        /// The operation.
        operation: &'static str,
        /// Its key.
        key: String,
        /// What the store says.
        #[source]
        source: Source,
    },
    /// The store did not answer as it should, after every retry. A write may have been applied.
    #[error("{operation} `{key}` failed")]
    Unavailable {
        /// The operation.
        operation: &'static str,
        /// Its key.
        key: String,
        /// What the store says.
        #[source]
        source: Source,
    },
    /// The store cannot do the operation at all.
    #[error(
        "{operation} `{key}` is not supported by this store; conditional writes (If-None-Match) are needed"
    )]
    Unsupported {
        /// The operation.
        operation: &'static str,
        /// Its key.
        key: String,
        /// What the store says.
        #[source]
        source: Source,
    },
    /// A local file beside the store could not be read or written.
    #[error("local file `{path}` could not be used")]
    LocalFile {
        /// The path.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A fault that a test asked for (see [`crate::faulty`]).
    #[error("{operation} `{key}`: injected fault ({fault})")]
    Injected {
        /// The operation.
        operation: &'static str,
        /// Its key.
        key: String,
        /// Which fault.
        fault: &'static str,
    },
}

impl StoreError {
    /// What the failure means for the caller.
    pub fn category(&self) -> Category {
        match self {
            Self::Key { .. }
            | Self::TooMany { .. }
            | Self::Encode { .. }
            | Self::Unsupported { .. }
            | Self::LocalFile { .. } => Category::Permanent,
            Self::TooLarge { .. } | Self::Json { .. } | Self::Digest { .. } | Self::Missing { .. } => {
                Category::Corrupt
            }
            Self::Denied { .. } => Category::Denied,
            // A dead process retries nothing: whatever loops on transient errors has to unwind.
            Self::Injected { .. } if self.is_crash() => Category::Permanent,
            Self::Unavailable { .. } | Self::Injected { .. } => Category::Transient,
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.category() == Category::Transient
    }

    /// Whether this is the end of the (simulated) process: the caller must unwind and may not try again.
    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Injected { fault, .. } if *fault == crate::faulty::CRASHED)
    }

    pub(crate) fn from_object_store(operation: &'static str, key: &str, error: object_store::Error) -> Self {
        let key = key.to_owned();
        match &error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied { operation, key, source: error.into() }
            }
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                Self::Unsupported { operation, key, source: error.into() }
            }
            _ => Self::Unavailable { operation, key, source: error.into() },
        }
    }
}
