//! A world in memory for the runner: a store, sandboxes and pods that fail as planned, an operator that makes rounds, and
//! paused time. The runner itself is the real one.

pub mod faults;
pub mod pods;
pub mod sandbox;
pub mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use sealign_agent::SystemClock;
use sealign_crds::{ObjectRef, RolloutCampaignSpec, TaskSetSpec};
use sealign_manifest::group::ClosedSet;
use sealign_manifest::record::Outcome;
use sealign_manifest::{Digest, ObjectKeys, Task};
use sealign_plan::config::{ResolvePlan, ResolveTasks, Run, Work};
use sealign_simulation::scripted::{POLICIES, Scripts};
use sealign_storage::ArtifactStoreExt as _;
use sealign_tasks::suites::mini::{CASES_FILE, Case};
use sealign_worker::error::WorkerError;
use sealign_worker::resolve::{self, Suites};
use sealign_worker::runner::{self, Ports};
use serde_json::json;

use faults::{Fault, Plan, Port, Process, Switch};
use pods::{Directory, Operator};
use sandbox::{SimDoors, Ways};
use store::{MapStore, Objects, Way};

/// Runners that one plan may use up: each crash costs one.
const RUNNERS_MAX: usize = 8;
/// Time until a Job controller has replaced a runner.
const REPLACED: Duration = Duration::from_secs(1);
/// Simulated time until a run has to be over.
const PATIENCE: Duration = Duration::from_hours(4);
/// Five tasks with an image each, so five groups, and ten attempts a task.
const TASKS: u32 = 5;
const SAMPLES: u32 = 10;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Digest of every record and verdict, by key.
    pub records: BTreeMap<String, Digest>,
    pub closed: ClosedSet,
    /// Calls of the store, in order: whether each wrote.
    pub calls: Vec<bool>,
    pub requests: u64,
    pub lists: u64,
    pub pods: u64,
}

/// Resolved work that every run starts from.
pub struct World {
    base: Arc<Objects>,
    config: Run,
    values: Arc<BTreeMap<String, String>>,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

impl World {
    /// A campaign of fifty attempts.
    pub fn new() -> Self {
        runtime().block_on(Self::resolve())
    }

    async fn resolve() -> Self {
        let store = MapStore::default();
        let (task_keys, keys) =
            (ObjectKeys::new("demo/tasksets/t-1"), ObjectKeys::new("demo/rolloutcampaigns/c-1"));
        let set: TaskSetSpec = serde_json::from_value(json!({
            "source": { "mini": { "split": "Train", "count": TASKS } },
            "image": { "template": "tasks/{id}" }, "health": { "repeats": 0 },
        }))
        .unwrap();
        let config = ResolveTasks { keys: task_keys.clone(), spec: set };
        resolve::tasks::resolve(&store, &config, &Suites::default()).await.unwrap();
        let policies: Vec<_> = POLICIES
            .iter()
            .map(|name| json!({ "name": name, "model": { "scripted": { "policy": "strong" } } }))
            .collect();
        let spec: RolloutCampaignSpec = serde_json::from_value(json!({
            "taskSetRef": { "name": "t" }, "samplesPerTask": SAMPLES, "policies": policies,
            "harness": { "profile": "compact" },
        }))
        .unwrap();
        let work = Work::Campaign(spec);
        let config = ResolvePlan { keys: keys.clone(), work: work.clone(), task_keys: task_keys.clone() };
        resolve::plan(&store, &config).await.unwrap();
        let base = store.objects();
        let rows = base.iter().find(|(name, _)| name.ends_with("tasks.jsonl")).unwrap();
        let values = Arc::new(values(rows.1));
        let owner = ObjectRef {
            kind: "RolloutCampaign".into(),
            namespace: "demo".into(),
            name: "c".into(),
            uid: "1".into(),
        };
        Self { base, config: Run { keys, owner, work, task_keys }, values }
    }

    /// Runs the campaign to its end while `plan` goes wrong; an error is a violated promise.
    pub fn run(&self, plan: &Plan) -> Result<Ended, String> {
        runtime().block_on(self.simulate(plan))
    }

    async fn simulate(&self, plan: &Plan) -> Result<Ended, String> {
        let store = Arc::new(MapStore::of(self.base.clone()));
        let switch = Arc::new(Switch::new(plan.clone()));
        let doors = Arc::new(SimDoors::new(store.clone(), self.config.keys.clone(), self.values.clone()));
        let mut operator = Operator::new(doors.clone(), switch.clone());
        let end = tokio::time::Instant::now() + PATIENCE;
        let mut runners = FuturesUnordered::new();
        runners.push(self.process(&switch, &doors, Duration::ZERO));
        for count in 2.. {
            if count > RUNNERS_MAX {
                return Err(format!("{RUNNERS_MAX} runners were not enough"));
            }
            tokio::select! {
                biased;
                () = switch.twin.notified() => runners.push(self.process(&switch, &doors, REPLACED)),
                Some(ended) = runners.next() => match ended {
                    None => runners.push(self.process(&switch, &doors, REPLACED)),
                    Some(Ok(())) if runners.is_empty() => break,
                    Some(Ok(())) => {}
                    // A runner outlasts one outage. Two in a row are longer than its patience: its pod fails, which the operator
                    // answers with another one.
                    Some(Err(WorkerError::Store(_))) if plan.counts(Fault::Away) > 1 => {
                        runners.push(self.process(&switch, &doors, REPLACED));
                    }
                    Some(Err(error)) => return Err(format!("the runner gave up: {error:?}")),
                },
                () = operator.work() => {}
                () = tokio::time::sleep_until(end) => return Err("no end in four simulated hours".into()),
            }
        }
        let rerun = doors.rerun.lock().unwrap().clone();
        if !rerun.is_empty() {
            return Err(format!("recorded items were run again: {rerun:?}"));
        }
        let (requests, lists) = (switch.calls(Port::Door), switch.calls(Port::Pods));
        let calls = store.calls.lock().unwrap().clone();
        self.look_again(&switch, &doors).await?;
        let keys = &self.config.keys;
        let closed: Option<ClosedSet> = store.get_json(&keys.closed()).await.unwrap();
        let closed = closed.ok_or("the runner ended without a closed set")?;
        Ok(Ended { records: records(&store.objects()), closed, calls, requests, lists, pods: operator.made })
    }

    /// One process of the runner, which begins `after` that time. None when it died.
    async fn process(
        &self,
        switch: &Arc<Switch>,
        doors: &Arc<SimDoors>,
        after: Duration,
    ) -> Option<Result<(), WorkerError>> {
        tokio::time::sleep(after).await;
        let process = Process::of(switch.clone());
        let ports = Ports {
            store: Arc::new(Way { store: doors.store.clone(), process: process.clone() }),
            pods: Arc::new(Directory(doors.pods.clone(), process.clone())),
            doors: Arc::new(Ways(doors.clone(), process.clone())),
            models: Arc::new(Scripts { ways: 3, spoils: 1 }),
            clock: Arc::new(SystemClock::default()),
        };
        tokio::select! {
            biased;
            () = process.life.death.notified() => None,
            ended = runner::run(&self.config, &ports) => Some(ended),
        }
    }

    /// A runner that begins after the end writes nothing and asks no sandbox.
    async fn look_again(&self, switch: &Arc<Switch>, doors: &Arc<SimDoors>) -> Result<(), String> {
        let (objects, requests) = (doors.store.objects(), switch.calls(Port::Door));
        match self.process(switch, doors, Duration::ZERO).await {
            Some(Ok(())) => {}
            other => return Err(format!("a look after the end: {other:?}")),
        }
        if objects != doors.store.objects() || switch.calls(Port::Door) != requests {
            return Err("a look after the end changed something".into());
        }
        Ok(())
    }
}

/// Records of both stages and the verdicts of all campaigns; group manifests tell which verdicts were known, so they differ.
fn records(objects: &Objects) -> BTreeMap<String, Digest> {
    let is_record = |(key, _): &(&String, _)| {
        (key.contains("/groups/") || key.starts_with("verdicts/"))
            && sealign_manifest::key::record_item(key).is_some()
    };
    objects.iter().filter(is_record).map(|(key, bytes)| (key.clone(), Digest::of_bytes(bytes))).collect()
}

/// The value of every call of the hidden tests.
fn values(rows: &[u8]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for line in rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let task: Task = serde_json::from_slice(line).unwrap();
        let file = task.tests.files.iter().find(|file| file.path == CASES_FILE).unwrap();
        let cases: Vec<Case> = serde_json::from_str(&file.content).unwrap();
        values.extend(cases.into_iter().map(|case| (case.call, case.expected)));
    }
    values
}

/// Whether a run kept every promise that `reference`, which met no fault, shows.
pub fn compare(reference: &Ended, ended: &Ended, plan: &Plan) -> Result<(), String> {
    let own_limit = plan.counts(Fault::OutOfMemory);
    if ended.closed.outcomes.contains_key(&Outcome::Infra) {
        return Err(format!("an item was given up: {:?}", ended.closed.outcomes));
    }
    let keys = |records: &BTreeMap<String, Digest>| -> Vec<String> {
        records.keys().filter(|key| key.contains("/rollout/")).cloned().collect()
    };
    if keys(&reference.records) != keys(&ended.records) {
        return Err("the sets of rollout records differ".into());
    }
    let differs = |key: &&String| reference.records.get(*key) != ended.records.get(*key);
    let different: Vec<&String> = keys_of_both(reference, ended).into_iter().filter(differs).collect();
    let rollouts = different.iter().filter(|key| key.contains("/rollout/")).count();
    // A pod that passes its own limit is a result of its own: one record, and what hangs on its patch.
    if (own_limit == 0 && !different.is_empty()) || rollouts > own_limit || different.len() > 3 * own_limit {
        return Err(format!("records differ: {different:?}"));
    }
    if own_limit == 0 && reference.closed != ended.closed {
        return Err(format!("closed sets differ: {:?}", ended.closed));
    }
    Ok(())
}

fn keys_of_both<'a>(one: &'a Ended, other: &'a Ended) -> BTreeSet<&'a String> {
    one.records.keys().chain(other.records.keys()).collect()
}
