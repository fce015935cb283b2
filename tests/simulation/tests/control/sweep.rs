//! One fault at one call, for every call of a scenario: the undisturbed run is made once, and every disturbed run forks
//! from it right before the look at which its fault strikes.
//!
//! After the fault the run is taken over by processes that have just started, so its future hangs on the world alone.
//! Worlds whose future is known to end well are remembered by digest; a run that comes to one of them is not made again.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sealign_reconcile::port::Kind;

use super::cluster::Snapshot;
use super::faults::{Fault, Plan};
use super::harness::{Ending, Goal, Process, TICKS_MAX, objects, quiet, stands};
use super::scenarios::Scenario;
use super::world::{State, World};

/// Stale reads answer with what was true so many ticks ago.
const STALE_TICKS: usize = 2;

/// Sweeps take turns: each uses all cores and says how long it took.
static TURN: Mutex<()> = Mutex::new(());

/// Which process is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The one that has lived from the beginning, with all that it remembers.
    Living,
    /// One that has just started, and looks at this object first.
    Started,
}

/// The calls of one look by one process.
struct Calls {
    count: usize,
    /// Those that write.
    writes: Vec<usize>,
    /// Equal for looks that asked the same and were answered the same.
    view: u64,
}

/// One look of the undisturbed run at one object.
struct Look {
    tick: usize,
    kind: Kind,
    name: String,
    before: State,
    past: Snapshot,
    started: Calls,
    /// None where the living process looks no more.
    living: Option<(Process, Calls)>,
}

impl Look {
    fn calls(&self, who: Who) -> Option<&Calls> {
        match who {
            Who::Living => self.living.as_ref().map(|(_, calls)| calls),
            Who::Started => Some(&self.started),
        }
    }
}

/// One run to be made: what happens at which call of whose look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    look: usize,
    who: Who,
    call: usize,
    fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{:?}:{}:{:?}", self.look, self.who, self.call, self.fault)
    }
}

impl Case {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next();
        let look = next()?.parse().ok()?;
        let who = if next()? == "Living" { Who::Living } else { Who::Started };
        Some(Self { look, who, call: next()?.parse().ok()?, fault: next()?.parse().ok()? })
    }
}

/// A scenario and its undisturbed run.
pub struct Sweep {
    scenario: Scenario,
    goal: Goal,
    first: State,
    looks: Vec<Look>,
    ending: Ending,
    /// Digests of worlds that end as they should.
    known: Mutex<HashSet<u64>>,
}

impl Sweep {
    /// Makes the undisturbed run, and once more with a new process at every tick.
    pub fn of(scenario: Scenario) -> Self {
        let mut world = World::new(scenario.seed);
        let goal = (scenario.create)(&world);
        let first = world.state();
        let looks = undisturbed(&mut world, goal);
        quiet(&mut world).unwrap();
        let ending = Ending::of(&world);
        let sweep = Self { scenario, goal, first, looks, ending, known: Mutex::default() };
        sweep.settle(World::of(&sweep.first, scenario.seed)).unwrap();
        sweep
    }

    /// Every call of `who` that `wanted` takes, with each of `faults`.
    pub fn cases(&self, who: Who, faults: &[Fault], wanted: Wanted) -> Vec<Case> {
        let mut seen = BTreeSet::new();
        let mut cases = Vec::new();
        for (look, here) in self.looks.iter().enumerate() {
            let Some(calls) = here.calls(who) else { continue };
            if wanted == Wanted::EachViewOnce && !seen.insert((calls.view, calls.writes.clone())) {
                continue;
            }
            let is_wanted = |call: &usize| wanted != Wanted::Writes || calls.writes.contains(call);
            for call in (0..calls.count).filter(is_wanted) {
                cases.extend(faults.iter().map(|&fault| Case { look, who, call, fault }));
            }
        }
        cases
    }

    /// Every call of `who` with one fault, in turn: each fault meets calls of every kind.
    pub fn one_fault_each(&self, who: Who) -> Vec<Case> {
        let cases = self.cases(who, &Fault::ALL[..1], Wanted::EachViewOnce);
        let turn = |(case, fault): (Case, &Fault)| Case { fault: *fault, ..case };
        cases.into_iter().zip(Fault::ALL.iter().cycle()).map(turn).collect()
    }

    /// Makes all runs, on all cores.
    pub fn run_all(&self, what: &str, cases: &[Case]) {
        let _turn = TURN.lock();
        let started = Instant::now();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(problem) = self.run(*case) {
                            next.store(cases.len(), Ordering::Relaxed);
                            panic!("{}: {problem}\n{}", self.describe(*case), self.replay_line(*case));
                        }
                    }
                });
            }
        });
        let looks: BTreeSet<usize> = cases.iter().map(|case| case.look).collect();
        let calls: BTreeSet<(usize, usize)> = cases.iter().map(|case| (case.look, case.call)).collect();
        println!(
            "{}, {what}: {} runs at {} calls of {} looks; {} distinct worlds; 0 lost, 0 with two records, 0 started \
             again, all converged; {:.1} s",
            self.scenario.name,
            cases.len(),
            calls.len(),
            looks.len(),
            self.known.lock().unwrap().len(),
            started.elapsed().as_secs_f64()
        );
    }

    /// What the undisturbed run is made of.
    pub fn describe_size(&self) -> String {
        let calls = |who| self.looks.iter().filter_map(move |look| look.calls(who)).map(|calls| calls.count);
        let writes =
            self.looks.iter().filter_map(|look| look.calls(Who::Living)).map(|calls| calls.writes.len());
        format!(
            "{}: {} ticks, {} looks, {} calls of one process, {} of them write; {} calls of processes that start at each \
             look",
            self.scenario.name,
            self.looks.last().map_or(0, |look| look.tick + 1),
            self.looks.len(),
            calls(Who::Living).sum::<usize>(),
            writes.sum::<usize>(),
            calls(Who::Started).sum::<usize>()
        )
    }

    fn describe(&self, case: Case) -> String {
        let Look { tick, kind, name, .. } = &self.looks[case.look];
        format!("{}, tick {tick}, {kind:?} {name}, {case:?}", self.scenario.name)
    }

    fn replay_line(&self, case: Case) -> String {
        format!(
            "replay it: SEALIGN_REPLAY={}:{case} cargo test -p sealign-simulation --test control_plane replay -- --nocapture",
            self.scenario.name
        )
    }

    /// Makes one run: from the moment before a look, with the fault at its call, to the end.
    pub fn run(&self, case: Case) -> Result<(), String> {
        self.settle(self.strike(case)?)
    }

    /// The world right after the fault.
    pub fn strike(&self, case: Case) -> Result<World, String> {
        let look = self.looks.get(case.look).ok_or("there is no such look")?;
        let world = World::of(&look.before, self.scenario.seed);
        let plan = Arc::new(Plan::of(case.call, case.fault));
        let mut process = match (case.who, &look.living) {
            (Who::Living, Some((process, _))) => process.fork(&world, plan.clone(), &look.past),
            (Who::Living, None) => return Err("the living process does not look here".into()),
            (Who::Started, _) => Process::start(&world, plan.clone(), &look.past),
        };
        process.look(look.kind, &look.name);
        if !plan.has_struck() {
            return Err(format!("call {} never came", case.call));
        }
        Ok(world)
    }

    /// Lets new processes lead a world to its end, and checks on the way that all is as it should be.
    fn settle(&self, mut world: World) -> Result<(), String> {
        let mut passed = Vec::new();
        for _ in 0..TICKS_MAX {
            self.check(&world)?;
            let digest = world.digest();
            if self.known.lock().unwrap().contains(&digest) {
                self.known.lock().unwrap().extend(passed);
                return Ok(());
            }
            passed.push(digest);
            world.tick();
            Process::start(&world, Arc::new(Plan::default()), &Snapshot::default()).pass(&world);
            if self.goal.is_reached(&world) {
                self.check_end(&mut world)?;
                self.known.lock().unwrap().extend(passed);
                return Ok(());
            }
        }
        Err(format!("not reached within {TICKS_MAX} ticks:\n{}", stands(&world)))
    }

    /// Runs from the beginning with many faults at calls of one process, which lives, with all that it remembers, until a
    /// crash replaces it. A fault may hit the recovery from another.
    pub fn endure(&self, plan: &Arc<Plan>) -> Result<(), String> {
        let mut world = World::of(&self.first, self.scenario.seed);
        let mut past = world.cluster.snapshot();
        let mut process = Process::start(&world, plan.clone(), &past);
        for _ in 0..TICKS_MAX {
            if !process.pass(&world) {
                plan.restart();
                process = Process::start(&world, plan.clone(), &past);
                past = world.cluster.snapshot();
            }
            if self.goal.is_reached(&world) {
                return self.check_end(&mut world);
            }
            world.tick();
            self.check(&world)?;
        }
        Err(format!("not reached within {TICKS_MAX} ticks:\n{}", stands(&world)))
    }

    /// What must hold at every moment.
    fn check(&self, world: &World) -> Result<(), String> {
        if world.peak > self.scenario.peak_max {
            return Err(format!("{} sandboxes at once:\n{}", world.peak, stands(world)));
        }
        let contents = world.store.contents();
        if contents.violations.is_empty() { Ok(()) } else { Err(format!("{:?}", contents.violations)) }
    }

    fn check_end(&self, world: &mut World) -> Result<(), String> {
        quiet(world)?;
        self.check(world)?;
        let ending = Ending::of(world);
        if ending == self.ending {
            return Ok(());
        }
        let lost: Vec<_> = self.ending.keys.difference(&ending.keys).collect();
        let gained: Vec<_> = ending.keys.difference(&self.ending.keys).collect();
        let (wanted, found) = (&self.ending.statuses, &ending.statuses);
        Err(format!("another ending: lost {lost:?}, gained {gained:?}\nwanted {wanted:#?}\nfound {found:#?}"))
    }
}

/// Which calls are disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every one.
    All,
    /// Those that write.
    Writes,
    /// Every one of the first of all looks that ask the same and are answered the same.
    EachViewOnce,
}

/// Runs to the goal without faults, with one process.
fn undisturbed(world: &mut World, goal: Goal) -> Vec<Look> {
    let mut process = Process::start(world, Arc::new(Plan::default()), &Snapshot::default());
    let (mut looks, mut pasts) = (Vec::new(), Vec::new());
    for tick in 0..TICKS_MAX {
        pasts.push(world.cluster.snapshot());
        let past = &pasts[tick.saturating_sub(STALE_TICKS)];
        for (kind, name) in objects(world) {
            let before = world.state();
            let started = started(&before, past, (kind, &name), world.seed);
            let living = (!process.skips(kind, &name)).then(|| {
                let remembered = process.fork(world, Arc::default(), past);
                (remembered, living(&mut process, kind, &name))
            });
            looks.push(Look { tick, kind, name, before, past: past.clone(), started, living });
        }
        if goal.is_reached(world) {
            return looks;
        }
        world.tick();
    }
    panic!("not reached within {TICKS_MAX} ticks:\n{}", stands(world));
}

fn started(before: &State, past: &Snapshot, (kind, name): (Kind, &str), seed: u64) -> Calls {
    let plan = Arc::new(Plan::default());
    Process::start(&World::of(before, seed), plan.clone(), past).look(kind, name);
    Calls { count: plan.calls(), writes: plan.writes(), view: plan.view() }
}

fn living(process: &mut Process, kind: Kind, name: &str) -> Calls {
    let first = process.plan.calls();
    assert!(process.look(kind, name), "nothing was planned to crash");
    let writes = process.plan.writes();
    let writes = writes.iter().filter_map(|call| call.checked_sub(first)).collect();
    Calls { count: process.plan.calls() - first, writes, view: process.plan.view() }
}
