//! One campaign: a store of its own, the kubelet that plays its pods, and the objects, from their creation to the
//! last of them being gone.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use sealign_manifest::ObjectKeys;
use sealign_operator::cluster::resource;
use sealign_plan::Kind;
use sealign_simulation::scripted::POLICIES;
use sealign_storage::{Store, StoreOptions};
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, NAMESPACE};
use crate::ended::{self, Ended};
use crate::kubelet::{Conditions, Kubelet};
use crate::trip::Switch;

/// Names of the two objects of every campaign.
const TASKS: &str = "tasks";
const CAMPAIGN: &str = "c";
/// Time between two looks at the campaign.
const LOOK: Duration = Duration::from_millis(500);
/// Time until everything of a campaign is gone.
const CLEAR_MAX: Duration = Duration::from_mins(5);
/// Largest custom resource that is accepted.
const OBJECT_BYTES_MAX: usize = 64 * 1024;
/// Stores so far: each has a number.
static STORES: AtomicU32 = AtomicU32::new(0);

/// What a campaign is made of.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Tasks with an image each, so a group each as long as it holds its samples.
    pub tasks: u32,
    pub samples: u32,
    pub parallelism: u32,
}

impl Size {
    pub fn attempts(self) -> u64 {
        u64::from(self.tasks) * u64::from(self.samples)
    }
}

/// A campaign's site.
pub struct Site {
    pub client: Client,
    pub store: Store,
    pub store_url: String,
    pub kubelet: Kubelet,
    pub size: Size,
    folder: PathBuf,
}

/// What was seen of the campaign's object on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    pub wall: Duration,
    /// Largest size of the object in bytes.
    pub bytes_max: usize,
}

impl Site {
    /// A site whose sandboxes wait for their runners as long as real ones.
    pub fn new(plane: &ControlPlane, size: Size) -> Self {
        Self::under(plane, size, Duration::from_mins(1), Switch::off())
    }

    /// A site under other conditions: time of silence, and kills of the runner.
    pub fn under(plane: &ControlPlane, size: Size, silence: Duration, switch: Arc<Switch>) -> Self {
        let folder = plane.path(&format!("store-{}", STORES.fetch_add(1, Ordering::Relaxed)));
        let store_url = format!("file://{}", folder.display());
        let store = Store::open(&store_url, &StoreOptions::default()).unwrap();
        let client = plane.client();
        let conditions = Conditions { store: store.clone(), silence, switch };
        let kubelet = Kubelet::start(client.clone(), conditions);
        Self { client, store, store_url, kubelet, size, folder }
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource(kind))
    }

    async fn create(&self, kind: Kind, name: &str, spec: Value) -> DynamicObject {
        let object = json!({ "apiVersion": kind.api_version(), "kind": kind.name(),
            "metadata": { "name": name }, "spec": spec });
        let object = serde_json::from_value(object).unwrap();
        self.api(kind).create(&PostParams::default(), &object).await.unwrap()
    }

    /// Creates the task set and the campaign.
    pub async fn apply(&self) -> [DynamicObject; 2] {
        let Size { tasks, samples, parallelism } = self.size;
        let set = json!({ "source": { "mini": { "split": "Train", "count": tasks } },
            "image": { "template": "tasks/{id}" }, "health": { "repeats": 0 } });
        let set = self.create(Kind::TaskSet, TASKS, set).await;
        let policy = |name: &str| json!({ "name": name, "model": { "scripted": { "policy": "strong" } } });
        let campaign = json!({ "taskSetRef": { "name": TASKS }, "samplesPerTask": samples, "parallelism": parallelism,
            "policies": POLICIES.map(policy), "harness": { "profile": "compact" }, "retry": { "maxRounds": 100 } });
        [set, self.create(Kind::RolloutCampaign, CAMPAIGN, campaign).await]
    }

    /// The campaign's object.
    pub async fn campaign(&self) -> DynamicObject {
        self.api(Kind::RolloutCampaign).get(CAMPAIGN).await.unwrap()
    }

    /// Waits until the campaign has succeeded; fails with what it says of itself when it takes longer than `limit`.
    pub async fn succeeded(&self, limit: Duration) -> Watched {
        let begun = Instant::now();
        let mut watched = Watched::default();
        let mut told = String::new();
        loop {
            let object = self.campaign().await;
            watched.bytes_max = watched.bytes_max.max(serde_json::to_vec(&object).unwrap().len());
            watched.wall = begun.elapsed();
            let status = object.data.get("status").cloned().unwrap_or_default();
            let succeeded = condition(&status, "Succeeded");
            if succeeded.is_some_and(|found| found["status"] == "True") {
                assert!(
                    watched.bytes_max <= OBJECT_BYTES_MAX,
                    "the campaign has {} bytes",
                    watched.bytes_max
                );
                return watched;
            }
            if let Some(found) = succeeded {
                told = format!("{}: {}", found["reason"], found["message"]);
            }
            assert!(succeeded.is_none_or(|found| found["status"] != "False"), "the campaign failed: {told}");
            assert!(begun.elapsed() < limit, "no end in {limit:?}: {told}\n{}", self.stand().await);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Jobs and pods as they stand, for people.
    async fn stand(&self) -> String {
        let mut text = String::new();
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), NAMESPACE);
        for job in jobs.list(&ListParams::default()).await.unwrap().items.into_iter().take(20) {
            let status = serde_json::to_string(&job.status).unwrap();
            writeln!(text, "  {}: {status}", job.metadata.name.unwrap_or_default()).unwrap();
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        for pod in pods.list(&ListParams::default()).await.unwrap().items.into_iter().take(10) {
            let phase = pod.status.and_then(|status| status.phase);
            writeln!(text, "  {}: {phase:?}", pod.metadata.name.unwrap_or_default()).unwrap();
        }
        text
    }

    /// Keys of the campaign.
    pub async fn keys(&self) -> ObjectKeys {
        sealign_plan::names::keys(Kind::RolloutCampaign, &self.campaign().await)
    }

    /// What the campaign came to; fails where anything is lost or was done twice.
    pub async fn ended(&self) -> Ended {
        ended::collect(self).await
    }

    /// Deletes the objects, waits until nothing of them is left, and forgets the store.
    pub async fn close(self) {
        delete(&self.client).await;
        drop(self.kubelet);
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// A condition of a status.
pub fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status.get("conditions")?.as_array()?.iter().find(|found| found["type"] == kind)
}

/// Removes what a failed scenario left.
pub async fn clear(plane: &ControlPlane) {
    delete(&plane.client()).await;
}

/// Deletes both objects and waits until their Jobs and pods are gone.
async fn delete(client: &Client) {
    for (kind, name) in [(Kind::RolloutCampaign, CAMPAIGN), (Kind::TaskSet, TASKS)] {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource(kind));
        match api.delete(name, &DeleteParams::background()).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            deleted => drop(deleted.unwrap()),
        }
    }
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let few = ListParams::default().limit(5);
    let deadline = Instant::now() + CLEAR_MAX;
    loop {
        let (jobs, pods) =
            (jobs.list_metadata(&few).await.unwrap().items, pods.list_metadata(&few).await.unwrap().items);
        if jobs.is_empty() && pods.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not gone: {} Jobs, {} pods", jobs.len(), pods.len());
        tokio::time::sleep(LOOK).await;
    }
}
