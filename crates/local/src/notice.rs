//! What the embedded cluster tells people beside statuses. A value: the caller decides where it goes.

use std::path::PathBuf;
use std::sync::Arc;

use crate::pods::Pod;

/// Something that people may want to see once.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A pod failed without having been asked to end.
    PodFailed {
        /// Its zone.
        zone: String,
        /// The pod.
        pod: Pod,
        /// The file with its output.
        log: PathBuf,
    },
    /// A Job cannot be run here.
    JobRefused {
        /// Why.
        problem: String,
    },
    /// Sandboxes run, and this is how they are limited.
    SandboxMeans {
        /// One line.
        line: String,
    },
    /// The control plane says something about an object.
    Event {
        /// The object, as `Kind name`.
        object: String,
        /// Whether somebody should act.
        is_warning: bool,
        /// A condition reason.
        reason: String,
        /// One sentence or two.
        note: String,
    },
}

/// Where notices go.
#[derive(Clone)]
pub struct NoticeSink(Arc<dyn Fn(Notice) + Send + Sync>);

impl NoticeSink {
    /// A sink that calls `take`, which must not block.
    pub fn new(take: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Hands a notice on.
    pub fn send(&self, notice: Notice) {
        (self.0)(notice);
    }
}

impl Default for NoticeSink {
    /// Nowhere.
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl std::fmt::Debug for NoticeSink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NoticeSink")
    }
}
