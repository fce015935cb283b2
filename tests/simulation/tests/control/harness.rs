//! The control plane as a process that may die, and what is asked of it: where a run stands, and what has to be equal at
//! every end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use futures::executor::block_on;
use kube::core::DynamicObject;
use sealign_reconcile::port::{Cluster, Kind};
use sealign_reconcile::{Clock, Installation, Reconciler, Settings};
use sealign_storage::ArtifactStore;
use serde_json::Value;

use super::cluster::Snapshot;
use super::faults::{FaultyCluster, FaultyStore, Plan};
use super::world::World;

pub const NAMESPACE: &str = "demo";
/// Ticks within which every run has to come to its end: several times what an undisturbed one takes.
pub const TICKS_MAX: usize = 200;
/// Ticks after the end in which nothing may be written.
const QUIET_TICKS: usize = 3;

/// One process of the control plane.
pub struct Process {
    reconciler: Reconciler,
    pub plan: Arc<Plan>,
    finished: BTreeSet<(Kind, String)>,
    /// Status writes and commands.
    pub writes: usize,
}

struct Ports(Arc<dyn Cluster>, Arc<dyn ArtifactStore>, Clock);

fn ports(world: &World, plan: &Arc<Plan>, past: &Snapshot) -> Ports {
    let (plan, past) = (plan.clone(), past.clone());
    let sources = world.sources.clone();
    Ports(
        Arc::new(FaultyCluster { inner: world.cluster.clone(), plan: plan.clone(), past }),
        Arc::new(FaultyStore { inner: world.store.clone(), plan }),
        Arc::new(move || sealign_local::memory::Sources::now(&*sources)),
    )
}

impl Process {
    pub fn start(world: &World, plan: Arc<Plan>, past: &Snapshot) -> Self {
        let Ports(cluster, store, clock) = ports(world, &plan, past);
        let installation = Installation { store_url: "memory://".into(), ..Installation::default() };
        let settings = Settings { seed: world.seed, ..Settings::default() };
        let reconciler = Reconciler::new(cluster, store, installation, settings, clock);
        Self { reconciler, plan, finished: BTreeSet::new(), writes: 0 }
    }

    /// The same process, with all that it remembers, in another world.
    pub fn fork(&self, world: &World, plan: Arc<Plan>, past: &Snapshot) -> Self {
        let Ports(cluster, store, clock) = ports(world, &plan, past);
        let reconciler = self.reconciler.fork(cluster, store, clock);
        Self { reconciler, plan, finished: self.finished.clone(), writes: 0 }
    }

    /// Whether the process looks at an object no more.
    pub fn skips(&self, kind: Kind, name: &str) -> bool {
        self.finished.contains(&(kind, name.to_owned()))
    }

    /// Looks at one object. False when the process died on the way.
    pub fn look(&mut self, kind: Kind, name: &str) -> bool {
        let outcome = block_on(self.reconciler.reconcile_once(kind, NAMESPACE, name));
        self.writes += outcome.commands + usize::from(outcome.wrote_status);
        if self.plan.is_crashed() {
            return false;
        }
        if outcome.is_finished {
            self.finished.insert((kind, name.to_owned()));
        }
        true
    }

    /// Looks at every object that is not at its end. False when the process died on the way.
    pub fn pass(&mut self, world: &World) -> bool {
        let due = |process: &Self, kind, name: &str| !process.skips(kind, name);
        objects(world).into_iter().all(|(kind, name)| !due(self, kind, &name) || self.look(kind, &name))
    }
}

/// Every object of our kinds.
pub fn objects(world: &World) -> Vec<(Kind, String)> {
    let snapshot = world.cluster.snapshot();
    let names = |kind| {
        let of_kind = snapshot.iter().filter(move |(key, _)| key.kind == kind);
        of_kind.map(move |(key, _)| (kind, key.name.clone()))
    };
    Kind::OURS.into_iter().flat_map(names).collect()
}

pub fn create(world: &World, document: Value) {
    let kind = Kind::parse(document["kind"].as_str().unwrap()).unwrap();
    let object: DynamicObject = serde_json::from_value(document).unwrap();
    block_on(world.cluster.create(kind, &object)).unwrap();
}

pub fn get(world: &World, kind: Kind, name: &str) -> Option<DynamicObject> {
    block_on(world.cluster.get(kind, NAMESPACE, name)).unwrap()
}

/// Status, reason and message of a condition.
pub fn condition(world: &World, kind: Kind, name: &str, condition: &str) -> (String, String, String) {
    let object = get(world, kind, name).unwrap_or_else(|| panic!("no {kind:?} {name}"));
    let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == condition).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// What a run has to reach: this object's condition is True.
#[derive(Clone, Copy)]
pub struct Goal {
    pub kind: Kind,
    pub name: &'static str,
    pub condition: &'static str,
}

impl Goal {
    pub fn is_reached(self, world: &World) -> bool {
        condition(world, self.kind, self.name, self.condition).0 == "True"
    }
}

/// Runs to the goal without faults.
pub fn finish(world: &mut World, goal: Goal) {
    let mut process = Process::start(world, Arc::new(Plan::default()), &Snapshot::default());
    for _ in 0..TICKS_MAX {
        assert!(process.pass(world), "nothing was planned to crash");
        if goal.is_reached(world) {
            return;
        }
        world.tick();
    }
    panic!("not reached within {TICKS_MAX} ticks:\n{}", stands(world));
}

/// How every object stands, for messages of failed runs.
pub fn stands(world: &World) -> String {
    let mut text = String::new();
    for (key, object) in world.cluster.snapshot().iter() {
        let status = &object.data["status"];
        let shown = if key.kind == Kind::Job { status["conditions"].clone() } else { status.clone() };
        writeln!(text, "{:?} {}: {shown}", key.kind, key.name).unwrap();
    }
    text
}

/// After the end, a new process looks again and again, and writes nothing.
pub fn quiet(world: &mut World) -> Result<(), String> {
    let start = |world: &World| Process::start(world, Arc::new(Plan::default()), &Snapshot::default());
    let mut process = start(world);
    // The goal may have been reached before its owner or its servers have heard of it.
    for _ in 0..QUIET_TICKS {
        process.pass(world);
        world.tick();
    }
    let mut process = start(world);
    for _ in 0..QUIET_TICKS {
        process.pass(world);
        world.tick();
    }
    if process.writes > 0 {
        return Err(format!("{} writes after the end:\n{}", process.writes, stands(world)));
    }
    Ok(())
}

/// What has to be equal at the end of every run of a scenario: keys of the store, and statuses without times.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub keys: BTreeSet<String>,
    pub statuses: BTreeMap<String, Value>,
}

impl Ending {
    pub fn of(world: &World) -> Self {
        let contents = world.store.contents();
        let lasting = |key: &&String| {
            !key.contains("/rounds/") && !key.contains("/tries/") && !key.ends_with("progress.json")
        };
        let keys = contents.objects.keys().filter(lasting).map(|key| without_uid(key)).collect();
        let statuses = world
            .cluster
            .snapshot()
            .iter()
            .filter(|(key, _)| key.kind != Kind::Job)
            .map(|(key, object)| {
                (format!("{:?} {}", key.kind, key.name), without_times(&object.data["status"]))
            })
            .collect();
        Self { keys, statuses }
    }
}

/// Children have other UIDs in other runs.
fn without_uid(key: &str) -> String {
    let part = |part: &str| match part.rsplit_once('-') {
        Some((name, uid)) if uid.len() == 8 && uid.bytes().all(|b| b.is_ascii_hexdigit()) => name.to_owned(),
        _ => part.to_owned(),
    };
    key.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn without_times(status: &Value) -> Value {
    const TIMES: [&str; 7] = [
        "startTime",
        "completionTime",
        "lastTransitionTime",
        "attemptsPerMinute",
        "etaSeconds",
        "artifacts",
        "loss",
    ];
    match status {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !TIMES.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), without_times(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_times).collect(),
        other => other.clone(),
    }
}
