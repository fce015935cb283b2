//! What the installation decides and no object can: images, the store, accounts, which namespaces take part.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Settings of an installation. The operator reads them from its configuration, the embedded cluster has its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Installation {
    /// Namespaces whose objects are worked on; all when absent.
    pub namespaces: Option<BTreeSet<String>>,
    /// Image of resolver, runner, forest and report workers.
    pub worker_image: String,
    /// Image of trainers and of our model server.
    pub trainer_image: String,
    /// Image that holds the static sandbox server, copied into every sandbox by an init container.
    pub sandbox_image: String,
    /// URL of the store, for trusted pods.
    pub store_url: String,
    /// Secret whose keys become the storage credentials of trusted pods; workload identity when absent.
    pub store_secret: Option<String>,
    /// Prefix of the service accounts, one a zone: `<prefix>-runner`, ...
    pub service_account_prefix: String,
    /// RuntimeClass of sandboxes that name none.
    pub runtime_class_name: Option<String>,
    /// Whether sandboxes run in a user namespace of their own; off, images that need root are refused by the cluster.
    pub user_namespaces: bool,
    /// Headless Service that gives trainer ranks their addresses.
    pub rank_service: String,
    /// Seconds that a worker pod may take to pull its image and start.
    pub worker_start_seconds: i64,
    /// Seconds that one round of a worker may take; a runner or trainer that needs longer goes on in the next.
    pub worker_round_seconds: i64,
    /// Wait before the second round in a row that brought nothing; doubled before each further one.
    pub barren_wait_seconds: i64,
    /// Steps of an AlignmentRun one after the other, as on a machine whose cores they would fight for.
    pub is_serial: bool,
}

impl Default for Installation {
    fn default() -> Self {
        Self {
            namespaces: None,
            worker_image: "sealign-worker".into(),
            trainer_image: "sealign-trainer".into(),
            sandbox_image: "sealign-sandbox".into(),
            store_url: String::new(),
            store_secret: None,
            service_account_prefix: "sealign".into(),
            runtime_class_name: None,
            user_namespaces: true,
            rank_service: "sealign-ranks".into(),
            worker_start_seconds: 1_800,
            worker_round_seconds: 7 * 24 * 3_600,
            barren_wait_seconds: 10,
            is_serial: false,
        }
    }
}

impl Installation {
    /// Whether objects of `namespace` are worked on.
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|enabled| enabled.contains(namespace))
    }
}
