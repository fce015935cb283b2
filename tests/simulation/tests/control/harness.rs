//! The control plane as a process that may die, and runs of it from a state to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use kube::core::DynamicObject;
use sealign_local::objects::Objects;
use sealign_reconcile::port::{Cluster, Kind};
use sealign_reconcile::{Installation, Reconciler, Settings};
use sealign_storage::ArtifactStore;
use serde_json::Value;

use super::faults::{Fault, FaultyCluster, FaultyStore, Plan};
use super::world::{State, World};

pub const NAMESPACE: &str = "demo";
/// Ticks within which every run has to come to its end: several times what an undisturbed one takes.
const TICKS_MAX: usize = 200;
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

impl Process {
    pub fn start(world: &World, plan: Arc<Plan>, past: &Arc<Objects>) -> Self {
        let cluster: Arc<dyn Cluster> =
            Arc::new(FaultyCluster { inner: world.cluster.clone(), plan: plan.clone(), past: past.clone() });
        let store: Arc<dyn ArtifactStore> =
            Arc::new(FaultyStore { inner: world.store.clone(), plan: plan.clone() });
        let sources = world.sources.clone();
        let clock = Arc::new(move || sealign_local::memory::Sources::now(&*sources));
        let installation = Installation { store_url: "memory://".into(), ..Installation::default() };
        let settings = Settings { seed: world.seed, ..Settings::default() };
        let reconciler = Reconciler::new(cluster, store, installation, settings, clock);
        Self { reconciler, plan, finished: BTreeSet::new(), writes: 0 }
    }

    /// Looks at every object that is not at its end. False when the process died on the way.
    pub fn pass(&mut self, world: &World) -> bool {
        for (kind, name) in objects(world) {
            if self.finished.contains(&(kind, name.clone())) {
                continue;
            }
            let outcome = block_on(self.reconciler.reconcile_once(kind, NAMESPACE, &name));
            self.writes += outcome.commands + usize::from(outcome.wrote_status);
            if self.plan.is_crashed() {
                return false;
            }
            if outcome.is_finished {
                self.finished.insert((kind, name));
            }
        }
        true
    }
}

fn objects(world: &World) -> Vec<(Kind, String)> {
    let names = |kind| {
        let objects = block_on(world.cluster.list(kind, None, &BTreeMap::new())).unwrap();
        objects.into_iter().map(move |object| (kind, object.metadata.name.unwrap()))
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

/// Status and reason of a condition.
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
    fn is_reached(self, world: &World) -> bool {
        condition(world, self.kind, self.name, self.condition).0 == "True"
    }
}

/// Runs to the goal without faults; the states before each pass.
pub fn undisturbed(world: &mut World, goal: Goal) -> Vec<State> {
    let plan = Arc::new(Plan::default());
    let mut process = Process::start(world, plan, &Arc::default());
    let mut states = Vec::new();
    for _ in 0..TICKS_MAX {
        states.push(world.state());
        assert!(process.pass(world), "nothing was planned to crash");
        if goal.is_reached(world) {
            return states;
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
        writeln!(text, "{:?} {}: {shown}", key.kind, object.metadata.name.as_deref().unwrap_or("")).unwrap();
    }
    text
}

/// States that are known to end as they should. Every pass of a disturbed run is made by a process that has just started, so
/// a run that comes to one of these states has the same future and need not be made again.
#[derive(Default)]
pub struct Known(Mutex<BTreeSet<u64>>);

impl Known {
    fn has(&self, digest: u64) -> bool {
        self.0.lock().unwrap().contains(&digest)
    }

    fn add(&self, digests: Vec<u64>) {
        self.0.lock().unwrap().extend(digests);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// How a disturbed run is made.
pub struct Disturbance<'a> {
    pub goal: Goal,
    pub seed: u64,
    pub ending: &'a Ending,
    pub peak_max: u32,
    pub known: &'a Known,
}

impl Disturbance<'_> {
    /// Runs from a state to the goal with one fault at one call of the first process, and checks on the way and at the end
    /// that all is as it should be.
    pub fn run(&self, state: &State, past: &Arc<Objects>, at: (usize, Fault)) -> Result<(), String> {
        let mut world = World::of(state, self.seed);
        let plan = Arc::new(Plan::of(at.0, at.1));
        let mut process = Process::start(&world, plan.clone(), past);
        let mut passed = Vec::new();
        for _ in 0..TICKS_MAX {
            let survived = process.pass(&world);
            if !plan.has_struck() {
                return Err(format!("call {} never came", at.0));
            }
            if self.goal.is_reached(&world) {
                self.check_end(&mut world)?;
                self.known.add(passed);
                return Ok(());
            }
            world.tick();
            if world.peak > self.peak_max {
                return Err(format!("{} sandboxes at once:\n{}", world.peak, stands(&world)));
            }
            let finished = if survived { std::mem::take(&mut process.finished) } else { BTreeSet::new() };
            process = Process::start(&world, Arc::new(Plan::default()), past);
            process.finished = finished;
            let digest = world.digest();
            if self.known.has(digest) {
                self.known.add(passed);
                return Ok(());
            }
            passed.push(digest);
        }
        Err(format!("not reached within {TICKS_MAX} ticks:\n{}", stands(&world)))
    }

    /// Runs from a state to the goal with many faults at calls of one process, which lives, with all that it remembers, until
    /// a crash replaces it. A fault may hit the recovery from another.
    pub fn endure(&self, state: &State, plan: &Arc<Plan>) -> Result<(), String> {
        let mut world = World::of(state, self.seed);
        let mut past = Arc::new(world.cluster.snapshot());
        let mut process = Process::start(&world, plan.clone(), &past);
        for _ in 0..TICKS_MAX {
            if !process.pass(&world) {
                plan.restart();
                process = Process::start(&world, plan.clone(), &past);
                past = Arc::new(world.cluster.snapshot());
            }
            if self.goal.is_reached(&world) {
                return self.check_end(&mut world);
            }
            world.tick();
            if world.peak > self.peak_max {
                return Err(format!("{} sandboxes at once:\n{}", world.peak, stands(&world)));
            }
        }
        Err(format!("not reached within {TICKS_MAX} ticks:\n{}", stands(&world)))
    }

    fn check_end(&self, world: &mut World) -> Result<(), String> {
        quiet(world)?;
        let ending = Ending::of(world);
        if ending == *self.ending {
            return Ok(());
        }
        let lost: Vec<_> = self.ending.keys.difference(&ending.keys).collect();
        let gained: Vec<_> = ending.keys.difference(&self.ending.keys).collect();
        let (wanted, found) = (&self.ending.statuses, &ending.statuses);
        Err(format!("another ending: lost {lost:?}, gained {gained:?}\nwanted {wanted:#?}\nfound {found:#?}"))
    }
}

/// After the end, a new process looks again and again, and writes nothing.
pub fn quiet(world: &mut World) -> Result<(), String> {
    let mut process = Process::start(world, Arc::new(Plan::default()), &Arc::default());
    // The goal may have been reached before its owner or its servers have heard of it.
    for _ in 0..QUIET_TICKS {
        process.pass(world);
        world.tick();
    }
    let mut process = Process::start(world, Arc::new(Plan::default()), &Arc::default());
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
        assert!(contents.violations.is_empty(), "{:?}", contents.violations);
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
                let name = object.metadata.name.clone().unwrap_or_default();
                (format!("{:?} {name}", key.kind), without_times(&object.data["status"]))
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
