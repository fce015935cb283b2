//! A world in memory for the runner: a store that fails as planned, sandboxes and pods that fail as planned, an operator
//! that makes rounds, and paused time. The runner itself is the real one.

pub mod pods;
pub mod sandbox;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sealign_agent::scripted::{Recital, ScriptedModel};
use sealign_agent::{Model, SystemClock};
use sealign_crds::{ObjectRef, RolloutCampaignSpec, TaskSetSpec};
use sealign_manifest::group::ClosedSet;
use sealign_manifest::record::Outcome;
use sealign_manifest::{Digest, ObjectKeys, Task};
use sealign_plan::config::{ResolvePlan, ResolveTasks, Run, Work};
use sealign_storage::faulty::{FaultyStore, Operation, PlannedFault};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _, Store};
use sealign_tasks::suites::mini::{CASES_FILE, Case};
use sealign_worker::resolve::{self, Suites};
use sealign_worker::runner::models::Models;
use sealign_worker::runner::outcome::Seen;
use sealign_worker::runner::{self, Ports};
use serde_json::json;

use pods::{Operator, SharedPods, Start};
use sandbox::{Fault, SharedDoors, SimDoors};

/// Runners that one plan may use up: each crash costs one.
const RUNNERS_MAX: usize = 8;
/// Simulated time until a run has to be over.
const PATIENCE: Duration = Duration::from_hours(4);
const POLICIES: [&str; 3] = ["fixes", "spoils", "idles"];

/// What goes wrong in a run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub store: Vec<PlannedFault>,
    pub doors: Vec<(u64, Fault)>,
    pub start: Option<(usize, Start)>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Digest of every record and verdict, by key.
    pub records: BTreeMap<String, Digest>,
    pub closed: ClosedSet,
    /// Calls of the store, in order.
    pub calls: Vec<Operation>,
    pub requests: u64,
    pub pods: usize,
}

/// Resolved work that every run starts from.
pub struct World {
    base: Vec<(String, Bytes)>,
    spec: RolloutCampaignSpec,
    tasks: ObjectKeys,
    keys: ObjectKeys,
    values: BTreeMap<String, String>,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

impl World {
    /// Two tasks with an image each, three attempts a task.
    pub fn new() -> Self {
        runtime().block_on(Self::resolve())
    }

    async fn resolve() -> Self {
        let store = Store::memory();
        let (tasks, keys) =
            (ObjectKeys::new("demo/tasksets/t-1"), ObjectKeys::new("demo/rolloutcampaigns/c-1"));
        let set: TaskSetSpec = serde_json::from_value(json!({
            "source": { "mini": { "split": "Train", "count": 2 } }, "image": { "template": "tasks/{id}" },
            "health": { "repeats": 0 },
        }))
        .unwrap();
        let config = ResolveTasks { keys: tasks.clone(), spec: set };
        resolve::tasks::resolve(&store, &config, &Suites::default()).await.unwrap();
        let policies: Vec<_> = POLICIES
            .iter()
            .map(|name| json!({ "name": name, "model": { "scripted": { "policy": "strong" } } }))
            .collect();
        let spec: RolloutCampaignSpec = serde_json::from_value(json!({
            "taskSetRef": { "name": "t" }, "samplesPerTask": 3, "policies": policies,
            "harness": { "profile": "compact" },
        }))
        .unwrap();
        let config =
            ResolvePlan { keys: keys.clone(), work: Work::Campaign(spec.clone()), task_keys: tasks.clone() };
        resolve::plan(&store, &config).await.unwrap();
        let mut base = Vec::new();
        for name in store.list_names("").await.unwrap() {
            let bytes = store.get_bounded(&name, 1 << 24).await.unwrap().unwrap();
            base.push((name, bytes));
        }
        let rows = base.iter().find(|(name, _)| name.ends_with("tasks.jsonl")).unwrap();
        let values = values(&rows.1);
        Self { base, spec, tasks, keys, values }
    }

    /// Runs the campaign to its end while `plan` goes wrong; an error is a violated promise.
    pub fn run(&self, plan: &Plan) -> Result<Ended, String> {
        runtime().block_on(self.simulate(plan))
    }

    async fn simulate(&self, plan: &Plan) -> Result<Ended, String> {
        let inner = Store::memory();
        for (name, bytes) in &self.base {
            inner.create(name, bytes.clone()).await.unwrap();
        }
        let store = Arc::new(FaultyStore::new(inner.clone(), plan.store.clone()));
        let doors =
            SimDoors::new((inner.clone(), self.keys.clone()), plan.doors.clone(), self.values.clone());
        let doors = Arc::new(doors);
        let mut operator = Operator::new(doors.clone(), plan.start);
        let owner = ObjectRef {
            kind: "RolloutCampaign".into(),
            namespace: "demo".into(),
            name: "c".into(),
            uid: "1".into(),
        };
        let work = Work::Campaign(self.spec.clone());
        let config = Run { keys: self.keys.clone(), owner, work, task_keys: self.tasks.clone() };
        let end = tokio::time::Instant::now() + PATIENCE;
        let mut runners = 0;
        loop {
            runners += 1;
            if runners > RUNNERS_MAX {
                return Err(format!("{RUNNERS_MAX} runners were not enough"));
            }
            let ports = Ports {
                store: store.clone(),
                pods: Arc::new(SharedPods(doors.pods.clone())),
                doors: Arc::new(SharedDoors(doors.clone())),
                models: Arc::new(Scripts),
                clock: Arc::new(SystemClock::default()),
            };
            let ended = tokio::select! {
                biased;
                () = doors.crash.notified() => None,
                ended = runner::run(&config, &ports) => Some(ended),
                () = operator.work() => None,
                () = tokio::time::sleep_until(end) => return Err("no end in four simulated hours".into()),
            };
            match ended {
                Some(Ok(())) => break,
                Some(Err(error)) if !error.is_crash() => {
                    return Err(format!("the runner gave up: {error:?}"));
                }
                Some(Err(_)) | None => {
                    store.restart();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let rerun = doors.rerun.lock().unwrap().clone();
        if !rerun.is_empty() {
            return Err(format!("recorded items were run again: {rerun:?}"));
        }
        let (requests, pods) = (*doors.requests.lock().unwrap(), operator.made);
        let calls = store.calls().iter().map(|call| call.operation).collect();
        let records = records(&inner, &self.keys).await;
        let closed: Option<ClosedSet> = inner.get_json(&self.keys.closed()).await.unwrap();
        let closed = closed.ok_or("the runner ended without a closed set")?;
        Ok(Ended { records, closed, calls, requests, pods })
    }
}

/// Records of both stages and the verdicts of all campaigns; group manifests tell which verdicts were known, so they differ.
async fn records(store: &Store, keys: &ObjectKeys) -> BTreeMap<String, Digest> {
    let mut records = BTreeMap::new();
    for prefix in [keys.join("groups"), "verdicts".to_owned()] {
        for name in store.list_names(&prefix).await.unwrap() {
            if sealign_manifest::key::record_item(&name).is_some() {
                let bytes = store.get_bounded(&name, 1 << 24).await.unwrap().unwrap();
                records.insert(name, Digest::of_bytes(&bytes));
            }
        }
    }
    records
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

/// Models that say the same words whatever they see.
struct Scripts;

#[async_trait]
impl Models for Scripts {
    fn model(&self, policy: &str, _: &Task) -> Result<Arc<dyn Model>, String> {
        let create = |path: &str| {
            format!(
                "<function=str_replace_editor>\n<parameter=command>create</parameter>\n<parameter=path>{path}</parameter>\n\
                 <parameter=file_text>\nx = 1\n</parameter>\n</function>"
            )
        };
        let look = "<function=execute_bash>\n<parameter=command>ls</parameter>\n</function>".to_owned();
        let finish = "<function=finish>\n</function>".to_owned();
        let words = match policy {
            "fixes" => vec![look, create("fixed"), finish],
            "spoils" => vec![create("other"), finish],
            _ => vec![finish],
        };
        Ok(Arc::new(ScriptedModel::new(Recital::new(words))))
    }

    async fn check(&self, _: Seen) -> BTreeMap<String, Result<(), String>> {
        POLICIES.iter().map(|policy| ((*policy).to_owned(), Ok(()))).collect()
    }
}

/// Whether a run kept every promise that `reference`, which met no fault, shows.
pub fn compare(reference: &Ended, ended: &Ended, plan: &Plan) -> Result<(), String> {
    let own_limit = plan.doors.iter().filter(|(_, fault)| *fault == Fault::OutOfMemory).count();
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

fn keys_of_both<'a>(one: &'a Ended, other: &'a Ended) -> std::collections::BTreeSet<&'a String> {
    one.records.keys().chain(other.records.keys()).collect()
}
