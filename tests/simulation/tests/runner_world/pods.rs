//! A pod directory in memory, and the Job controller and operator that fill it: a round runs each index once, and what
//! is open when it is over goes into the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::group::{GroupItems, GroupManifest, PlanManifest, RoundMap};
use sealign_manifest::key::{Stage, record_item};
use sealign_manifest::{GradingItem, ItemKey, RolloutItem};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _};
use sealign_worker::runner::pods::{DirectoryError, Phase, Pod, PodDirectory};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::{Fault, Port, Process, Start, Switch};
use super::sandbox::{SimDoors, pod};

/// Silence of its runner after which a claimed sandbox ends.
const SILENCE: Duration = Duration::from_mins(1);
/// Time between two looks of the operator.
const LOOK: Duration = Duration::from_secs(1);

/// A stale list is so many looks old.
const STALE_LISTS: usize = 20;

#[derive(Default)]
pub struct SimPods {
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    /// What was listed last.
    lists: Mutex<VecDeque<Vec<Arc<Pod>>>>,
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

    /// Takes back that a pod runs.
    fn wait(&self, uid: &str) {
        let mut pods = self.pods.lock().unwrap();
        let pod = pods.get_mut(uid).unwrap();
        *pod = Arc::new(Pod { phase: Phase::Pending, ..(**pod).clone() });
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

/// The directory as one process sees it.
pub struct Directory(pub Arc<SimPods>, pub Process);

#[async_trait]
impl PodDirectory for Directory {
    async fn list(&self) -> Result<Vec<Arc<Pod>>, DirectoryError> {
        match self.1.call(Port::Pods).await {
            Some(Fault::Unlisted) => Err(DirectoryError("simulated".into())),
            Some(Fault::Stale) => Ok(self.0.lists.lock().unwrap().front().cloned().unwrap_or_default()),
            _ => {
                let pods: Vec<Arc<Pod>> = self.0.pods.lock().unwrap().values().cloned().collect();
                let mut lists = self.0.lists.lock().unwrap();
                lists.push_back(pods.clone());
                if lists.len() > STALE_LISTS {
                    lists.pop_front();
                }
                Ok(pods)
            }
        }
    }

    async fn changed(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.0.changed.notified()).await;
    }
}

/// What makes pods.
pub struct Operator {
    doors: Arc<SimDoors>,
    switch: Arc<Switch>,
    /// Pods so far.
    pub made: u64,
    /// Pods of the current round of a stage.
    jobs: BTreeMap<(String, Stage), (u32, Vec<String>)>,
}

impl Operator {
    pub fn new(doors: Arc<SimDoors>, switch: Arc<Switch>) -> Self {
        Self { doors, switch, made: 0, jobs: BTreeMap::new() }
    }

    /// Does what operator and kubelets do, for ever.
    pub async fn work(&mut self) {
        let plan: PlanManifest = self.doors.store.get_json(&self.doors.keys.plan()).await.unwrap().unwrap();
        loop {
            self.end_silent();
            for group in &plan.groups {
                self.drive(&group.id).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn end_silent(&self) {
        for uid in self.doors.pods.running() {
            let heard = self.doors.sandboxes.lock().unwrap().get(&uid).and_then(|sandbox| sandbox.heard);
            if heard.is_some_and(|at| Instant::now() - at > SILENCE) {
                self.doors.pods.end(&uid, Phase::Failed, Some(10), "Error");
            }
        }
    }

    async fn drive(&mut self, group: &str) {
        let manifest: Option<GroupManifest> =
            self.doors.store.get_json(&self.doors.keys.group_manifest(group, Stage::Rollout)).await.unwrap();
        let (stage, items): (Stage, Vec<ItemKey>) = match manifest {
            None => {
                let items: GroupItems =
                    self.doors.store.get_json(&self.doors.keys.group_items(group)).await.unwrap().unwrap();
                (Stage::Rollout, items.items.iter().map(RolloutItem::key).collect())
            }
            Some(manifest) => (Stage::Grade, manifest.gradings.iter().map(GradingItem::key).collect()),
        };
        let running = self.doors.pods.running();
        let job = self.jobs.get(&(group.to_owned(), stage));
        if job.is_some_and(|(_, uids)| uids.iter().any(|uid| running.contains(uid))) {
            return;
        }
        let names = self.doors.store.list_names(&self.doors.keys.records(group, stage)).await.unwrap();
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
                self.doors.pods.vanish(uid);
            }
        }
        let map = Arc::new(RoundMap { group: group.into(), stage, round, barren: 0, items });
        self.doors.store.create_json(&self.doors.keys.round(group, stage, round), &*map).await.unwrap();
        let mut uids = Vec::new();
        for index in 0..map.items.len() {
            let uid = format!("{group}-{}-{index}-r{round}", stage.name());
            self.doors.pods.add(pod(&uid, &map, index));
            match self.switch.plan().start(self.made) {
                Some(Start::Unschedulable) => self.doors.pods.end(&uid, Phase::Failed, None, "Unschedulable"),
                Some(Start::NoImage) => self.doors.pods.end(&uid, Phase::Failed, None, "ErrImagePull"),
                Some(Start::Preempted) => self.doors.pods.end(&uid, Phase::Failed, None, "Preempted"),
                Some(Start::Waits) => self.doors.pods.wait(&uid),
                None => {}
            }
            self.made += 1;
            uids.push(uid);
        }
        self.jobs.insert(key, (round, uids));
    }
}
