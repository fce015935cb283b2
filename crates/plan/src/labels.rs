//! Labels and annotations that we set; nobody else sets them.

use std::collections::BTreeMap;

/// Who made the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "sealign";
/// Trust zone of a pod; network and admission policies select by it.
pub const ZONE: &str = "sealign.dev/zone";
/// UID of the custom resource that owns the object.
pub const OWNER_UID: &str = "sealign.dev/owner-uid";
/// Name of the worker (`resolve`, `run`, `sft`, ...) or the stage of a sandbox (`rollout`, `grade`).
pub const STAGE: &str = "sealign.dev/stage";
/// Group of a sandbox.
pub const GROUP: &str = "sealign.dev/group";
/// Round number.
pub const ROUND: &str = "sealign.dev/round";
/// Policy that a model server serves.
pub const POLICY: &str = "sealign.dev/policy";
/// Annotation of sandbox pods: the JSON of their round map.
pub const ROUND_MAP: &str = "sealign.dev/round-map";
/// Annotation of a trusted worker's Job: digest of its configuration. A live worker that was told something else is replaced.
pub const CONFIG: &str = "sealign.dev/config";
/// Kueue's queue.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Kueue's priority class.
pub const PRIORITY_CLASS: &str = "kueue.x-k8s.io/priority-class";
/// Kueue: the smallest parallelism that a Job may be admitted with.
pub const MIN_PARALLELISM: &str = "kueue.x-k8s.io/job-min-parallelism";

/// A trust zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Freezes work.
    Resolve,
    /// Drives sandboxes.
    Runner,
    /// Hostile.
    Sandbox,
    /// Builds forests.
    Forest,
    /// Trains.
    Trainer,
    /// Serves a model.
    Server,
    /// Writes reports.
    Report,
}

impl Zone {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Runner => "runner",
            Self::Sandbox => "sandbox",
            Self::Forest => "forest",
            Self::Trainer => "trainer",
            Self::Server => "server",
            Self::Report => "report",
        }
    }
}

/// The labels that select everything of one owner.
pub fn of_owner(uid: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(MANAGED_BY.into(), MANAGER.into()), (OWNER_UID.into(), uid.into())])
}
