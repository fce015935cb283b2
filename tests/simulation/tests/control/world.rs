//! The world around the control plane: a Job controller, pods that fail as scripted, workers. It makes no mistakes and is
//! never crashed; whatever goes wrong goes wrong in between.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::executor::block_on;
use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use sealign_local::job_spec::JobSpec;
use sealign_local::job_state::JobState;
use sealign_local::memory::Sources;
use sealign_manifest::group::RoundMap;
use sealign_manifest::key::Stage;
use sealign_manifest::{Digest, ItemKey, ObjectKeys};
use sealign_plan::config::{CONFIG_VARIABLE, WorkerConfig};
use sealign_plan::labels;
use sealign_reconcile::port::{Cluster, Kind};

use super::cluster::{SimCluster, Snapshot};
use super::store::{Contents, MapStore};
use super::workers;

/// Time between two ticks: the poll interval of a cluster.
pub const TICK: SignedDuration = SignedDuration::from_secs(10);

/// Time and UIDs that a seed gives.
#[derive(Debug)]
pub struct Counted {
    second: AtomicU64,
    uids: AtomicU64,
}

impl Sources for Counted {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(i64::try_from(self.second.load(Ordering::Relaxed)).unwrap()).unwrap()
    }

    fn uid(&self) -> String {
        let number = self.uids.fetch_add(1, Ordering::Relaxed);
        // The first eight digits are what names are told apart by.
        format!("{:08x}-0000-4000-8000-{number:012x}", number.wrapping_mul(2_654_435_761) & 0xffff_ffff)
    }
}

/// Everything that a run can be forked from.
#[derive(Clone)]
pub struct State {
    objects: Snapshot,
    contents: Arc<Contents>,
    jobs: Arc<BTreeMap<String, Job>>,
    leftovers: Vec<String>,
    second: u64,
    uids: u64,
}

#[derive(Clone)]
struct Job {
    spec: Arc<JobSpec>,
    state: JobState,
    role: Role,
    round: u32,
    ticks: u32,
}

#[derive(Clone)]
enum Role {
    Worker(Arc<WorkerConfig>),
    Sandbox(Arc<Sandboxes>),
}

struct Sandboxes {
    map: RoundMap,
    /// Keys of the object that they belong to.
    keys: ObjectKeys,
    /// Where their records go.
    records: String,
}

pub struct World {
    pub cluster: Arc<SimCluster>,
    pub store: Arc<MapStore>,
    pub sources: Arc<Counted>,
    pub seed: u64,
    jobs: Arc<BTreeMap<String, Job>>,
    /// Records that pods of deleted Jobs still write.
    leftovers: Vec<String>,
    /// The most sandboxes that live Jobs could have had at once.
    pub peak: u32,
    /// No node has room for a sandbox.
    pub is_full: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let state = State {
            objects: Snapshot::default(),
            contents: Arc::default(),
            jobs: Arc::default(),
            leftovers: Vec::new(),
            second: 1_800_000_000,
            uids: 1,
        };
        Self::of(&state, seed)
    }

    pub fn of(state: &State, seed: u64) -> Self {
        let sources =
            Arc::new(Counted { second: AtomicU64::new(state.second), uids: AtomicU64::new(state.uids) });
        Self {
            cluster: Arc::new(SimCluster::of(state.objects.clone(), sources.clone())),
            store: Arc::new(MapStore::of(state.contents.clone())),
            sources,
            seed,
            jobs: state.jobs.clone(),
            leftovers: state.leftovers.clone(),
            peak: 0,
            is_full: false,
        }
    }

    pub fn state(&self) -> State {
        State {
            objects: self.cluster.snapshot(),
            contents: self.store.contents(),
            jobs: self.jobs.clone(),
            leftovers: self.leftovers.clone(),
            second: self.sources.second.load(Ordering::Relaxed),
            uids: self.sources.uids.load(Ordering::Relaxed),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.sources.now()
    }

    /// A digest of everything that the future depends on: two worlds of one digest have one future. Times count from now,
    /// and what only tells people when something happened does not count.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let age = |time: Timestamp| self.now().duration_since(time).as_secs();
        for job in self.jobs.values().collect::<BTreeSet<_>>() {
            let JobState { started, active, ready, succeeded, failed, end } = &job.state;
            (&job.spec.key.name, job.round, job.ticks, active, ready, succeeded, failed).hash(&mut hasher);
            (started.map(age), end.map(|(_, at)| age(at))).hash(&mut hasher);
        }
        self.leftovers.hash(&mut hasher);
        (self.cluster.snapshot().digest(), self.store.contents().digest()).hash(&mut hasher);
        hasher.finish()
    }

    /// One tick of everything that is not the control plane.
    pub fn tick(&mut self) {
        self.sources.second.fetch_add(u64::try_from(TICK.as_secs()).unwrap(), Ordering::Relaxed);
        for key in std::mem::take(&mut self.leftovers) {
            self.store.put(&key, Bytes::from_static(b"{}"));
        }
        self.meet_jobs();
        let mut jobs = std::mem::take(&mut self.jobs);
        for job in Arc::make_mut(&mut jobs).values_mut() {
            let before = job.state.clone();
            self.advance(job);
            if job.state != before {
                self.cluster.set_job_status(&job.spec.key, &job.state.status(&job.spec));
            }
        }
        self.jobs = jobs;
    }

    /// Takes up Jobs that are new and lets go of those that were deleted: their pods die, one of them after its record.
    fn meet_jobs(&mut self) {
        let present: BTreeMap<String, DynamicObject> =
            block_on(self.cluster.list(Kind::Job, None, &BTreeMap::new()))
                .unwrap()
                .into_iter()
                .map(|object| (object.metadata.uid.clone().unwrap(), object))
                .collect();
        let gone: Vec<String> = self.jobs.keys().filter(|uid| !present.contains_key(*uid)).cloned().collect();
        for uid in gone {
            let job = Arc::make_mut(&mut self.jobs).remove(&uid).unwrap();
            if let (Role::Sandbox(sandboxes), Some(index)) = (&job.role, job.state.active.first()) {
                let item = &sandboxes.map.items[*index as usize];
                self.leftovers.push(format!("{}/{item}.json", sandboxes.records));
            }
        }
        for (uid, object) in present {
            if !self.jobs.contains_key(&uid) {
                let keys = self.owner_keys(&object);
                Arc::make_mut(&mut self.jobs).insert(uid, meet(&object, &keys));
            }
        }
        let is_sandbox = |job: &&Job| matches!(job.role, Role::Sandbox(_)) && job.state.end.is_none();
        let open = |job: &Job| {
            let ended = job.state.succeeded.len() + job.state.failed.len();
            job.spec.parallelism.min(job.spec.completions - u32::try_from(ended).unwrap())
        };
        self.peak = self.peak.max(self.jobs.values().filter(is_sandbox).map(open).sum());
    }

    fn owner_keys(&self, job: &DynamicObject) -> ObjectKeys {
        let reference = &job.metadata.owner_references.as_ref().unwrap()[0];
        let kind = Kind::parse(&reference.kind).unwrap();
        let owner =
            block_on(self.cluster.get(kind, job.metadata.namespace.as_deref().unwrap(), &reference.name));
        sealign_plan::names::keys(kind, &owner.unwrap().expect("a Job whose owner is gone"))
    }

    fn advance(&self, job: &mut Job) {
        if job.state.end.is_some() {
            return;
        }
        job.ticks += 1;
        job.state.started.get_or_insert(self.now());
        match job.role.clone() {
            Role::Worker(config) => self.advance_worker(&config, job),
            Role::Sandbox(sandboxes) => self.advance_sandboxes(&sandboxes, job),
        }
        while let Some(index) = job.state.next_index(&job.spec) {
            job.state.active.insert(index);
            job.state.ready.insert(index);
        }
        let spec = job.spec.clone();
        job.state.decide(&spec, self.now());
        if job.state.end.is_some() {
            job.state.active.clear();
            if let Role::Sandbox(sandboxes) = &job.role
                && self.is_full
            {
                workers::write_unschedulable(&self.store, &sandboxes.keys, &sandboxes.map);
            }
        }
    }

    fn advance_worker(&self, config: &WorkerConfig, job: &mut Job) {
        // The first tick starts the pod.
        if job.state.active.is_empty() {
            return;
        }
        let is_done = match config {
            WorkerConfig::Serve(_) => return,
            WorkerConfig::Run(run) => {
                let is_done = workers::run(&self.store, run, self.is_full);
                // A runner runs out of memory once, in the middle of its work.
                let dies = job.round == 0 && job.ticks == 4;
                if !is_done && !dies {
                    return;
                }
                is_done
            }
            other => workers::finish(&self.store, other, job.round),
        };
        for index in job.state.active.clone() {
            job.state.pod_ended(&job.spec.clone(), index, is_done);
        }
    }

    fn advance_sandboxes(&self, Sandboxes { map, records, .. }: &Sandboxes, job: &mut Job) {
        let spec = job.spec.clone();
        for index in job.state.active.clone() {
            let item = &map.items[index as usize];
            let key = format!("{records}/{item}.json");
            match self.fate(item, map) {
                // A pod whose item has its record is sent home without being started.
                _ if self.store.has(&key) => job.state.pod_ended(&spec, index, true),
                Fate::Records => {
                    self.store.put(&key, Bytes::from_static(b"{}"));
                    job.state.pod_ended(&spec, index, true);
                }
                Fate::RecordsAndIsEvicted => {
                    self.store.put(&key, Bytes::from_static(b"{}"));
                    job.state.pod_ended(&spec, index, false);
                }
                Fate::Fails => job.state.pod_ended(&spec, index, false),
                Fate::NeverStarts => {}
            }
        }
    }

    /// What becomes of the pod of an item: the seed says, and every third round all goes well.
    fn fate(&self, item: &ItemKey, map: &RoundMap) -> Fate {
        let round = map.round;
        if self.is_full {
            return Fate::NeverStarts;
        }
        if round >= 2 {
            return Fate::Records;
        }
        let drawn = Digest::of_bytes(format!("{}/{item}/{round}", self.seed).as_bytes()).seed() % 20;
        match drawn {
            0 | 1 => Fate::Fails,
            2 => Fate::RecordsAndIsEvicted,
            // A grading waits an hour for such a pod, a rollout three ticks.
            3 if round == 0 && map.stage == Stage::Rollout => Fate::NeverStarts,
            _ => Fate::Records,
        }
    }
}

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.spec.key == other.spec.key
    }
}

impl Eq for Job {}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Job {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.spec.key.cmp(&other.spec.key)
    }
}

enum Fate {
    Records,
    RecordsAndIsEvicted,
    Fails,
    NeverStarts,
}

fn meet(object: &DynamicObject, keys: &ObjectKeys) -> Job {
    let spec = Arc::new(JobSpec::read(object).unwrap());
    let label = |name: &str| object.metadata.labels.as_ref().unwrap()[name].clone();
    let round = label(labels::ROUND).parse().unwrap();
    let role = if label(labels::ZONE) == "sandbox" {
        let pointer = "/spec/template/metadata/annotations/sealign.dev~1round-map";
        let map: RoundMap =
            serde_json::from_str(object.data.pointer(pointer).unwrap().as_str().unwrap()).unwrap();
        let records = keys.records(&map.group, map.stage);
        Role::Sandbox(Arc::new(Sandboxes { map, keys: keys.clone(), records }))
    } else {
        let env = object.data.pointer("/spec/template/spec/containers/0/env").unwrap().as_array().unwrap();
        let config = env.iter().find(|variable| variable["name"] == CONFIG_VARIABLE).unwrap();
        Role::Worker(Arc::new(serde_json::from_str(config["value"].as_str().unwrap()).unwrap()))
    };
    Job { spec, state: JobState::default(), role, round, ticks: 0 }
}
