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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use futures::executor::block_on;
    use sealign_storage::Store;
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::NoCrash;

    type Answer<T> = Result<T, ClusterError>;

    /// A cluster in which every name is taken, by this object.
    struct Taken(Option<DynamicObject>);

    #[async_trait::async_trait]
    impl Cluster for Taken {
        async fn get(&self, _: Kind, _: &str, _: &str) -> Answer<Option<DynamicObject>> {
            Ok(self.0.clone())
        }
        async fn create(&self, _: Kind, _: &DynamicObject) -> Answer<DynamicObject> {
            Err(ClusterError::AlreadyExists("j".into()))
        }
        async fn list(
            &self,
            _: Kind,
            _: Option<&str>,
            _: &BTreeMap<String, String>,
        ) -> Answer<Vec<DynamicObject>> {
            unreachable!("commands list nothing")
        }
        async fn patch_status(&self, _: Kind, _: &str, _: &str, _: &str, _: &Value) -> Answer<DynamicObject> {
            unreachable!("commands write no status")
        }
        async fn patch_metadata(&self, _: Kind, _: &str, _: &str, _: &Value) -> Answer<DynamicObject> {
            unreachable!("commands patch nothing")
        }
        async fn delete(&self, _: Kind, _: &str, _: &str, _: &str) -> Answer<()> {
            Ok(())
        }
        async fn changed(&self, _: Duration) {}
    }

    fn job(owner: &str) -> DynamicObject {
        serde_json::from_value(json!({ "metadata": { "name": "j", "labels": { labels::OWNER_UID: owner } } }))
            .unwrap()
    }

    fn write(bytes: &'static [u8]) -> Command {
        Command::WriteArtifact { key: "rounds/0.json".into(), bytes: Bytes::from_static(bytes) }
    }

    fn run(
        present: Option<DynamicObject>,
        store: &Store,
        commands: &[Command],
    ) -> Result<(), ReconcileError> {
        let cluster = Taken(present);
        block_on(Hands { cluster: &cluster, artifacts: store, crash_points: &NoCrash }.run("demo", commands))
            .1
    }

    #[test]
    fn an_object_that_is_there_already_is_ours_or_anothers_or_on_its_way_out() {
        let create = |present| {
            run(
                present,
                &Store::memory(),
                &[Command::Create { kind: Kind::Job, object: Box::new(job("me")) }],
            )
        };
        assert!(create(Some(job("me"))).is_ok(), "an answer was lost, or another process was faster");
        assert!(matches!(create(Some(job("other"))), Err(ReconcileError::NameTaken { .. })));
        assert!(matches!(create(None), Err(ReconcileError::StillLeaving(_))));
        let mut leaving = job("me");
        leaving.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert!(matches!(create(Some(leaving)), Err(ReconcileError::StillLeaving(_))));
    }

    #[test]
    fn a_document_of_another_process_ends_the_decision_and_an_equal_one_does_not() {
        let store = Store::memory();
        assert!(run(None, &store, &[write(b"1")]).is_ok());
        assert!(run(None, &store, &[write(b"1")]).is_ok());
        assert!(matches!(run(None, &store, &[write(b"2")]), Err(ReconcileError::Superseded(_))));
    }

    #[test]
    fn what_follows_a_command_that_failed_is_not_done() {
        let store = Store::memory();
        let create = Command::Create { kind: Kind::Job, object: Box::new(job("me")) };
        assert!(run(Some(job("other")), &store, &[create, write(b"1")]).is_err());
        assert!(!block_on(store.exists("rounds/0.json")).unwrap());
    }
}
