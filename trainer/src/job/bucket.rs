//! The store as blocking code sees it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use sealign_plan::config::{CONFIG_VARIABLE, STORE_VARIABLE, WorkerConfig};
use sealign_storage::{Store, StoreOptions};
use tokio::runtime::Runtime;

use super::JobError;

/// The store and a runtime for its requests.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The store.
    pub store: Arc<Store>,
    runtime: Arc<Runtime>,
}

impl Bucket {
    /// Opens the store that the environment names.
    pub fn from_environment() -> Result<Self, JobError> {
        let url = variable(STORE_VARIABLE)?;
        let variables: BTreeMap<String, String> = std::env::vars()
            .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        let store = Store::open(&url, &StoreOptions { variables, ..StoreOptions::default() })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|source| JobError::Local { path: "runtime".into(), source })?;
        Ok(Self { store: Arc::new(store), runtime: Arc::new(runtime) })
    }

    /// Waits for a request.
    pub fn wait<F: Future>(&self, request: F) -> F::Output {
        self.runtime.block_on(request)
    }
}

/// What the environment tells this pod to do.
pub fn configuration() -> Result<WorkerConfig, JobError> {
    let text = variable(CONFIG_VARIABLE)?;
    serde_json::from_str(&text).map_err(|error| JobError::Environment {
        variable: CONFIG_VARIABLE,
        problem: format!("is not a worker configuration ({error})"),
    })
}

fn variable(name: &'static str) -> Result<String, JobError> {
    std::env::var(name)
        .map_err(|_| JobError::Environment { variable: name, problem: "is not set".to_owned() })
}
