//! The two ports: a cluster and a store. The operator's adapter speaks to an API server, the embedded one to memory.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use kube::core::DynamicObject;
use serde_json::Value;

/// The store, as the control plane uses it: bounded reads, create-only writes, names below a prefix.
pub use sealign_storage::ArtifactStore as Artifacts;

pub use sealign_plan::Kind;

/// What a cluster answers when it does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The object does not exist.
    #[error("{0} not found")]
    NotFound(String),
    /// An object of this name exists already.
    #[error("{0} exists already")]
    AlreadyExists(String),
    /// The object changed since it was read.
    #[error("{0} was changed by someone else meanwhile")]
    Conflict(String),
    /// The schema or a rule refuses the object; the text names the field.
    #[error("{0}")]
    Invalid(String),
    /// The caller may not do this.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// No answer, or a passing fault: the request may or may not have been applied.
    #[error("the cluster did not answer: {0}")]
    Unavailable(String),
}

/// A cluster of objects.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// One object, or `None`.
    async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, ClusterError>;

    /// Objects of `kind` that carry every one of `labels`, sorted by name; over all namespaces when `namespace` is `None`.
    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<DynamicObject>, ClusterError>;

    /// Creates `object` as it is; the answer carries UID and version.
    async fn create(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, ClusterError>;

    /// Replaces the status of an object, if its version is still `version`.
    async fn patch_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
        status: &Value,
    ) -> Result<DynamicObject, ClusterError>;

    /// Merges `metadata` (labels, annotations) into an object.
    async fn patch_metadata(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        metadata: &Value,
    ) -> Result<DynamicObject, ClusterError>;

    /// Deletes an object with this UID and, in the background, what it owns. Deleting what is gone is success.
    async fn delete(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError>;

    /// Waits until something may have changed, at most `limit`.
    async fn changed(&self, limit: Duration);
}
