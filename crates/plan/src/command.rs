//! What a decision says: commands in order, the status, events and when to look again.

use std::time::Duration;

use bytes::Bytes;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::Kind;

/// One write. Doing it twice is doing it once.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Creates a document of the store. One that holds the same bytes is success; one that holds others means that another
    /// process decided first, and this decision ends there.
    WriteArtifact {
        /// Key below the store's root.
        key: String,
        /// Content.
        bytes: Bytes,
    },
    /// Creates an object under its fixed name. One of the same name and owner is success; one of another owner is
    /// `NameTaken`.
    Create {
        /// Kind.
        kind: Kind,
        /// The object, complete.
        object: Box<DynamicObject>,
    },
    /// Deletes the object of this UID, and what it owns in the background. One that is gone is success.
    Delete {
        /// Kind.
        kind: Kind,
        /// Name.
        name: String,
        /// UID: another object of the same name stays.
        uid: String,
    },
}

impl Command {
    /// One word for logs and metrics.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::WriteArtifact { .. } => "write",
            Self::Create { .. } => "create",
            Self::Delete { .. } => "delete",
        }
    }

    /// What the command is about, for logs.
    pub fn target(&self) -> &str {
        match self {
            Self::WriteArtifact { key, .. } => key,
            Self::Create { object, .. } => object.metadata.name.as_deref().unwrap_or_default(),
            Self::Delete { name, .. } => name,
        }
    }
}

/// Something that people should see once. A value: the caller decides where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether somebody should act.
    pub is_warning: bool,
    /// A condition reason.
    pub reason: String,
    /// One sentence or two.
    pub note: String,
}

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Writes, in order; the first that fails is the last that is tried.
    pub commands: Vec<Command>,
    /// The whole status.
    pub status: Value,
    /// When to look again though nothing was heard; `None` is the installation's poll interval.
    pub requeue: Option<Duration>,
    /// The object has reached its end; only a change of its spec can matter.
    pub is_finished: bool,
}
