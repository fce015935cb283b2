//! A pod directory in memory, and the Job controller and operator that fill it: a round runs each index once, and what
//! is open when it is over goes into the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::group::{GroupItems, GroupManifest, PlanManifest, RoundMap};
use sealign_manifest::key::{Stage, record_item};
use sealign_manifest::{GradingItem, ItemKey, ObjectKeys, RolloutItem};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _, Store};
use sealign_worker::runner::pods::{DirectoryError, Phase, Pod, PodDirectory};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::sandbox::{SimDoors, pod};

/// Silence of its runner after which a claimed sandbox ends.
const SILENCE: Duration = Duration::from_mins(1);
/// Time between two looks of the operator.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct SimPods {
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    changed: Notify,
}

impl SimPods {
    fn add(&self, pod: Pod) {
        self.pods.lock().unwrap().insert(pod.uid.clone(), Arc::new(pod));
        self.changed.notify_one();
    }

    pub fn is_running(&self, uid: &str) -> bool {
        self.pods.lock().unwrap().get(uid).is_some_and(|pod| pod.phase == Phase::Running)
    }

    pub fn end(&self, uid: &str, phase: Phase, exit_code: Option<i32>, reason: &str) {
        let mut pods = self.pods.lock().unwrap();
        if let Some(pod) = pods.get_mut(uid).filter(|pod| pod.phase == Phase::Running) {
            *pod = Arc::new(Pod { phase, exit_code, reason: reason.into(), ..(**pod).clone() });
        }
        self.changed.notify_one();
    }

    pub fn vanish(&self, uid: &str) {
        self.pods.lock().unwrap().remove(uid);
        self.changed.notify_one();
    }

    fn running(&self) -> Vec<String> {
        let pods = self.pods.lock().unwrap();
        pods.values().filter(|pod| pod.phase == Phase::Running).map(|pod| pod.uid.clone()).collect()
    }
}

/// A shared directory.
pub struct SharedPods(pub Arc<SimPods>);

#[async_trait]
impl PodDirectory for SharedPods {
    async fn list(&self) -> Result<Vec<Arc<Pod>>, DirectoryError> {
        Ok(self.0.pods.lock().unwrap().values().cloned().collect())
    }

    async fn changed(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.0.changed.notified()).await;
    }
}

/// What happens to a pod before anybody claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It never gets a node.
    Unschedulable,
    /// Its image cannot be pulled.
    NoImage,
    /// It is preempted at once.
    Preempted,
}

impl Start {
    pub const ALL: [Self; 3] = [Self::Unschedulable, Self::NoImage, Self::Preempted];
}

/// What makes pods.
pub struct Operator {
    pub store: Store,
    pub keys: ObjectKeys,
    pub pods: Arc<SimPods>,
    pub doors: Arc<SimDoors>,
    /// The pod of this number meets that fate.
    pub start: Option<(usize, Start)>,
    pub made: usize,
    /// Pods of the current round of a stage.
    jobs: BTreeMap<(String, Stage), (u32, Vec<String>)>,
}

impl Operator {
    pub fn new(doors: Arc<SimDoors>, start: Option<(usize, Start)>) -> Self {
        let (store, keys) = (doors.store.clone(), doors.keys.clone());
        Self { store, keys, pods: doors.pods.clone(), doors, start, made: 0, jobs: BTreeMap::new() }
    }

    /// Does what operator and kubelets do, for ever.
    pub async fn work(&mut self) {
        let plan: PlanManifest = self.store.get_json(&self.keys.plan()).await.unwrap().unwrap();
        loop {
            self.end_silent();
            for group in &plan.groups {
                self.drive(&group.id).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn end_silent(&self) {
        for uid in self.pods.running() {
            let heard = self.doors.sandboxes.lock().unwrap().get(&uid).and_then(|sandbox| sandbox.heard);
            if heard.is_some_and(|at| Instant::now() - at > SILENCE) {
                self.pods.end(&uid, Phase::Failed, Some(10), "Error");
            }
        }
    }

    async fn drive(&mut self, group: &str) {
        let manifest: Option<GroupManifest> =
            self.store.get_json(&self.keys.group_manifest(group, Stage::Rollout)).await.unwrap();
        let (stage, items): (Stage, Vec<ItemKey>) = match manifest {
            None => {
                let items: GroupItems =
                    self.store.get_json(&self.keys.group_items(group)).await.unwrap().unwrap();
                (Stage::Rollout, items.items.iter().map(RolloutItem::key).collect())
            }
            Some(manifest) => (Stage::Grade, manifest.gradings.iter().map(GradingItem::key).collect()),
        };
        let running = self.pods.running();
        let job = self.jobs.get(&(group.to_owned(), stage));
        if job.is_some_and(|(_, uids)| uids.iter().any(|uid| running.contains(uid))) {
            return;
        }
        let names = self.store.list_names(&self.keys.records(group, stage)).await.unwrap();
        let recorded: Vec<ItemKey> = names.iter().filter_map(|name| record_item(name)).collect();
        let open: Vec<ItemKey> = items.into_iter().filter(|item| !recorded.contains(item)).collect();
        if !open.is_empty() {
            let round = job.map_or(0, |(round, _)| round + 1);
            self.begin(group, stage, round, open).await;
        }
    }

    async fn begin(&mut self, group: &str, stage: Stage, round: u32, items: Vec<ItemKey>) {
        let key = (group.to_owned(), stage);
        if let Some((_, uids)) = self.jobs.remove(&key) {
            for uid in &uids {
                self.pods.vanish(uid);
            }
        }
        let map = Arc::new(RoundMap { group: group.into(), stage, round, barren: 0, items });
        self.store.create_json(&self.keys.round(group, stage, round), &*map).await.unwrap();
        let mut uids = Vec::new();
        for index in 0..map.items.len() {
            let uid = format!("{group}-{}-{index}-r{round}", stage.name());
            self.pods.add(pod(&uid, &map, index));
            if let Some((number, start)) = self.start
                && number == self.made
            {
                let reason = match start {
                    Start::Unschedulable => "Unschedulable",
                    Start::NoImage => "ErrImagePull",
                    Start::Preempted => "Preempted",
                };
                self.pods.end(&uid, Phase::Failed, None, reason);
            }
            self.made += 1;
            uids.push(uid);
        }
        self.jobs.insert(key, (round, uids));
    }
}
