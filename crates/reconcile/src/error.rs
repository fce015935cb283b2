//! Why a reconcile did not get through, and what that means for the object.

use sealign_crds::condition::reason;
use sealign_plan::NoDecision;
use sealign_plan::policies::reference::Obstacle;
use sealign_storage::StoreError;

use crate::port::ClusterError;

/// What a failure is about; also a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// The store.
    Store,
    /// The cluster's API.
    Cluster,
    /// Somebody else was faster; looking again is all there is to do.
    Conflict,
    /// The object or a child of it is refused.
    Invalid,
    /// A child's name belongs to another.
    NameTaken,
    /// A document of the store or an object is not what it should be.
    Undecodable,
    /// The process ends.
    Crash,
}

impl Category {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Cluster => "cluster",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::NameTaken => "name_taken",
            Self::Undecodable => "undecodable",
            Self::Crash => "crash",
        }
    }
}

/// Why a reconcile did not get through.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The store could not be read.
    #[error("the store could not be read")]
    ReadStore(#[source] StoreError),
    /// The store could not be written.
    #[error("the store could not be written")]
    WriteStore(#[source] StoreError),
    /// The cluster could not be read.
    #[error("the cluster could not be read")]
    ReadCluster(#[source] ClusterError),
    /// A command on the cluster failed.
    #[error("{verb} {target} failed")]
    Command {
        /// `create` or `delete`.
        verb: &'static str,
        /// Name of the object.
        target: String,
        /// What the cluster says.
        #[source]
        source: ClusterError,
    },
    /// The status could not be written.
    #[error("the status could not be written")]
    WriteStatus(#[source] ClusterError),
    /// A document exists with other content: another process decided first.
    #[error("`{0}` was decided by another process meanwhile")]
    Superseded(String),
    /// An object of the same name is on its way out.
    #[error("{0} is still being deleted")]
    StillLeaving(String),
    /// An object of the same name belongs to another.
    #[error("{kind} `{name}` exists and is not ours: delete or rename it")]
    NameTaken {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// No decision could be made.
    #[error("nothing could be decided")]
    Decide(#[source] NoDecision),
    /// A decision asked for more and more.
    #[error("a decision asked more than {0} times for further answers: a fault of ours, please report it")]
    Endless(usize),
    /// A simulation ended the process.
    #[error("the process was ended")]
    Crashed,
}

impl ReconcileError {
    /// What the failure is about.
    pub fn category(&self) -> Category {
        match self {
            Self::ReadStore(error) | Self::WriteStore(error) if error.is_crash() => Category::Crash,
            Self::ReadStore(_) | Self::WriteStore(_) => Category::Store,
            Self::ReadCluster(error) | Self::WriteStatus(error) => of_cluster(error),
            Self::Command { source, .. } => of_cluster(source),
            Self::Superseded(_) | Self::StillLeaving(_) => Category::Conflict,
            Self::NameTaken { .. } => Category::NameTaken,
            Self::Decide(_) | Self::Endless(_) => Category::Undecodable,
            Self::Crashed => Category::Crash,
        }
    }

    /// What the object's conditions should say of it; `None` where looking again is all there is to do.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let reason = match self.category() {
            Category::Conflict | Category::Crash => return None,
            Category::Store | Category::Undecodable => reason::STORE_UNAVAILABLE,
            // A refused child is not a refused object: the refusal may pass, and what depends on us must not give up.
            Category::Cluster | Category::Invalid => reason::CLUSTER_UNAVAILABLE,
            Category::NameTaken => reason::NAME_TAKEN,
        };
        Some(Obstacle { succeeded: None, reason, message: chain(self) })
    }
}

fn of_cluster(error: &ClusterError) -> Category {
    match error {
        ClusterError::Conflict(_) | ClusterError::NotFound(_) | ClusterError::AlreadyExists(_) => {
            Category::Conflict
        }
        ClusterError::Invalid(_) => Category::Invalid,
        ClusterError::Forbidden(_) | ClusterError::Unavailable(_) => Category::Cluster,
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
