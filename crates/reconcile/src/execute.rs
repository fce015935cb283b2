//! Act: runs commands in order and stops at the first error. Each is idempotent, so whoever comes next may begin again.

use bytes::Bytes;
use kube::core::DynamicObject;
use sealign_plan::{Command, labels};
use sealign_storage::CreateOutcome;

use crate::error::ReconcileError;
use crate::port::{Artifacts, Cluster, ClusterError, Kind};
use crate::settings::CrashPoints;

/// Bytes beyond our own length that are read of a document that was there already: enough to see that it differs.
const OTHER_BYTES: u64 = 1024 * 1024;

/// Where commands go.
#[derive(Clone, Copy)]
pub struct Hands<'a> {
    /// The cluster.
    pub cluster: &'a dyn Cluster,
    /// The store.
    pub artifacts: &'a dyn Artifacts,
    /// Where a simulation may end the process.
    pub crash_points: &'a dyn CrashPoints,
}

impl Hands<'_> {
    /// Runs `commands` in `namespace`; says how many were done, and the error at which it stopped.
    pub async fn run(&self, namespace: &str, commands: &[Command]) -> (usize, Result<(), ReconcileError>) {
        for (ordinal, command) in commands.iter().enumerate() {
            tracing::debug!(verb = command.verb(), target = command.target(), "command");
            let done = match self.one(namespace, command).await {
                Ok(()) => self.crash_points.after_command(ordinal),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                return (ordinal, Err(error));
            }
        }
        (commands.len(), Ok(()))
    }

    async fn one(&self, namespace: &str, command: &Command) -> Result<(), ReconcileError> {
        match command {
            Command::WriteArtifact { key, bytes } => self.write(key, bytes).await,
            Command::Create { kind, object } => self.create(*kind, namespace, object).await,
            Command::Delete { kind, name, uid } => {
                let deleted = self.cluster.delete(*kind, namespace, name, uid).await;
                deleted.map_err(|source| ReconcileError::Command {
                    verb: "delete",
                    target: name.clone(),
                    source,
                })
            }
        }
    }

    async fn write(&self, key: &str, bytes: &Bytes) -> Result<(), ReconcileError> {
        let outcome = self.artifacts.create(key, bytes.clone()).await;
        if outcome.map_err(ReconcileError::WriteStore)? == CreateOutcome::Created {
            return Ok(());
        }
        let bound = OTHER_BYTES.saturating_add(bytes.len() as u64);
        let present = self.artifacts.get_bounded(key, bound).await.map_err(ReconcileError::ReadStore)?;
        if present.as_ref() == Some(bytes) { Ok(()) } else { Err(ReconcileError::Superseded(key.to_owned())) }
    }

    async fn create(
        &self,
        kind: Kind,
        namespace: &str,
        object: &DynamicObject,
    ) -> Result<(), ReconcileError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        match self.cluster.create(kind, object).await {
            Ok(_) => return Ok(()),
            Err(ClusterError::AlreadyExists(_)) => {}
            Err(source) => return Err(ReconcileError::Command { verb: "create", target: name, source }),
        }
        // An answer that was lost, another process, or somebody else's object: only a look can tell.
        let present = self.cluster.get(kind, namespace, &name).await.map_err(ReconcileError::ReadCluster)?;
        let owner = |object: &DynamicObject| {
            object.metadata.labels.as_ref().and_then(|labels| labels.get(labels::OWNER_UID)).cloned()
        };
        match present {
            None => Err(ReconcileError::StillLeaving(name)),
            Some(present) if owner(&present) != owner(object) => {
                Err(ReconcileError::NameTaken { kind: kind.name(), name })
            }
            Some(present) if present.metadata.deletion_timestamp.is_some() => {
                Err(ReconcileError::StillLeaving(name))
            }
            Some(_) => Ok(()),
        }
    }
}
