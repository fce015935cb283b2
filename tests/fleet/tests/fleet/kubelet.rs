//! What kubelets do with the pods of ours: starts what their containers would run and reports how that ended. kwok
//! makes pods run and go; that a pod has ended is said here alone, when what it stands for has.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use sealign_agent::SystemClock;
use sealign_manifest::{ObjectKeys, Task};
use sealign_plan::config::{CONFIG_VARIABLE, Run, WorkerConfig};
use sealign_plan::labels;
use sealign_simulation::scripted::{Scripts, Values};
use sealign_storage::{ArtifactStore as _, Store};
use sealign_tasks::suites::mini::{CASES_FILE, Case};
use sealign_worker::error::WorkerError;
use sealign_worker::resolve::{self, Suites};
use sealign_worker::runner::watched::WatchedDirectory;
use sealign_worker::runner::{self, Ports};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::control_plane::NAMESPACE;
use crate::sandbox;
use crate::trip::{Life, MortalDoors, MortalStore, Switch};

/// Models of every campaign here: one way to mend a task, and a grading that fails in every third group or so.
const SCRIPTS: Scripts = Scripts { ways: 1, spoils: 3 };
/// Exit code of what SIGKILL ended.
const KILLED: i32 = 137;
/// Largest file of task rows that is read, in bytes.
const ROWS_MAX: u64 = 256 * 1024 * 1024;
/// Times that a pod's end is reported before the test gives up.
const REPORTS_MAX: u32 = 20;

/// What happened so far.
#[derive(Default)]
pub struct Tally {
    /// Sandboxes that were started.
    pub sandboxes: AtomicU64,
    /// Claims by item.
    pub claims: Mutex<BTreeMap<String, u32>>,
    /// Items that were claimed although they had a record: there must be none.
    pub again: Mutex<Vec<String>>,
}

/// The conditions that pods run under.
#[derive(Clone)]
pub struct Conditions {
    pub store: Store,
    /// Seconds of a runner's silence after which a claimed sandbox ends: 60 in reality.
    pub silence: Duration,
    /// Which calls kill a runner.
    pub switch: Arc<Switch>,
}

struct Node {
    client: Client,
    conditions: Conditions,
    tally: Arc<Tally>,
    values: Mutex<Values>,
    /// Items with a record, as far as anybody wrote one through this node's runner.
    keys: Mutex<Option<ObjectKeys>>,
}

/// Acts for as long as it lives.
pub struct Kubelet {
    pub tally: Arc<Tally>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Begins to act on the pods of the namespace.
    pub fn start(client: Client, conditions: Conditions) -> Self {
        let tally = Arc::new(Tally::default());
        let node = Node {
            client,
            conditions,
            tally: tally.clone(),
            values: Mutex::default(),
            keys: Mutex::default(),
        };
        Self { tally, task: tokio::spawn(Arc::new(node).follow()) }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A task that ends with the value.
struct Living(JoinHandle<()>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    async fn follow(self: Arc<Self>) {
        let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let mut events = std::pin::pin!(watcher(pods, ours).default_backoff());
        let mut living: HashMap<String, Living> = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => self.see(pod, &mut living),
                Ok(watcher::Event::Delete(pod)) => drop(living.remove(pod.metadata.uid.as_deref().unwrap())),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the watch on pods is begun again"),
            }
        }
    }

    fn see(self: &Arc<Self>, pod: Pod, living: &mut HashMap<String, Living>) {
        let uid = pod.metadata.uid.clone().unwrap();
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() || phase == "Succeeded" || phase == "Failed" {
            living.remove(&uid);
        } else if phase == "Running"
            && status.is_some_and(|s| s.pod_ip.is_some())
            && !living.contains_key(&uid)
        {
            living.insert(uid, Living(tokio::spawn(self.clone().live(pod))));
        }
    }

    async fn live(self: Arc<Self>, pod: Pod) {
        let zone = pod.metadata.labels.as_ref().unwrap()[labels::ZONE].clone();
        let code = match zone.as_str() {
            "sandbox" => self.sandbox(&pod).await,
            "runner" => self.runner(&pod).await,
            "resolve" => self.resolver(&pod).await,
            other => panic!("nobody plays pods of zone {other}"),
        };
        self.report(&pod, code).await;
    }

    async fn sandbox(self: &Arc<Self>, pod: &Pod) -> i32 {
        self.tally.sandboxes.fetch_add(1, Ordering::Relaxed);
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap();
        let uid = pod.metadata.uid.as_deref().unwrap();
        let place = pod.metadata.labels.as_ref().unwrap();
        let records = format!("groups/{}/{}", place[labels::GROUP], place[labels::STAGE]);
        let node = self.clone();
        let claimed = move |item: &str| {
            *node.tally.claims.lock().unwrap().entry(item.to_owned()).or_default() += 1;
            let keys = node.keys.lock().unwrap().clone();
            let Some(keys) = keys else { return };
            let (node, key, item) =
                (node.clone(), keys.join(&format!("{records}/{item}.json")), item.to_owned());
            let is_recorded =
                futures::executor::block_on(async { node.conditions.store.exists(&key).await.unwrap() });
            if is_recorded {
                node.tally.again.lock().unwrap().push(item);
            }
        };
        let values = self.values.lock().unwrap().clone();
        sandbox::serve(&address, uid, self.conditions.silence, values, Arc::new(claimed)).await
    }

    async fn runner(&self, pod: &Pod) -> i32 {
        let WorkerConfig::Run(config) = configuration(pod) else { panic!("no runner's configuration") };
        *self.keys.lock().unwrap() = Some(config.keys.clone());
        let values = self.values(&config.task_keys).await;
        *self.values.lock().unwrap() = values;
        let life = Life::begin(&self.conditions.switch);
        tokio::select! {
            biased;
            () = life.ended() => KILLED,
            ended = self.run(&config, &life) => match ended {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(?error, "the runner gave up");
                    i32::from(error.exit_code())
                }
            },
        }
    }

    /// The real runner with its ports of a cluster.
    async fn run(&self, config: &Run, life: &Life) -> Result<(), WorkerError> {
        let ports = Ports {
            store: Arc::new(MortalStore(self.conditions.store.clone(), life.clone())),
            pods: Arc::new(WatchedDirectory::start(self.client.clone(), &config.owner)),
            doors: Arc::new(MortalDoors(life.clone())),
            models: Arc::new(SCRIPTS),
            clock: Arc::new(SystemClock::default()),
        };
        runner::run(config, &ports).await
    }

    async fn resolver(&self, pod: &Pod) -> i32 {
        let store = &self.conditions.store;
        let done = match configuration(pod) {
            WorkerConfig::ResolveTasks(config) => {
                resolve::tasks::resolve(store, &config, &Suites::default()).await
            }
            WorkerConfig::ResolvePlan(config) => resolve::plan(store, &config).await,
            other => panic!("no resolver's configuration: {other:?}"),
        };
        done.map_or_else(|error| i32::from(error.exit_code()), |()| 0)
    }

    /// The value of every call of the hidden tests.
    async fn values(&self, keys: &ObjectKeys) -> Values {
        let known = self.values.lock().unwrap().clone();
        if !known.is_empty() {
            return known;
        }
        let rows = self.conditions.store.get_bounded(&keys.task_rows(), ROWS_MAX).await.unwrap().unwrap();
        let mut values = BTreeMap::new();
        for line in rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let task: Task = serde_json::from_slice(line).unwrap();
            let file = task.tests.files.iter().find(|file| file.path == CASES_FILE).unwrap();
            let cases: Vec<Case> = serde_json::from_str(&file.content).unwrap();
            values.extend(cases.into_iter().map(|case| (case.call, case.expected)));
        }
        Arc::new(values)
    }

    /// Says how the pod's container ended, as a kubelet does.
    async fn report(&self, pod: &Pod, code: i32) {
        let (phase, reason) = if code == 0 { ("Succeeded", "Completed") } else { ("Failed", "Error") };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let now = jiff::Timestamp::now().to_string();
        let ended = json!({ "exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now });
        let unready = |kind: &str| json!({ "type": kind, "status": "False", "reason": "PodCompleted" });
        let status = json!({ "status": { "phase": phase, "conditions": [unready("Ready"), unready("ContainersReady")],
            "containerStatuses": [{ "name": container.name, "image": container.image, "imageID": "", "ready": false,
                "restartCount": 0, "started": false, "state": { "terminated": ended } }] } });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let name = pod.metadata.name.as_deref().unwrap();
        for _ in 0..REPORTS_MAX {
            match pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.code == 404 => return,
                Err(error) => tracing::warn!(%error, "the end of a pod was not taken"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("the API server does not take the end of {name}");
    }
}

fn configuration(pod: &Pod) -> WorkerConfig {
    let variables = pod.spec.as_ref().unwrap().containers[0].env.iter().flatten();
    let found = variables.into_iter().find(|variable| variable.name == CONFIG_VARIABLE).unwrap();
    serde_json::from_str(found.value.as_deref().unwrap()).unwrap()
}
