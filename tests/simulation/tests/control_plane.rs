//! The control plane under faults: the same `reconcile` that operator and embedded cluster run, over an in-memory cluster
//! and a store that fail at a chosen call. Oracle: every run ends as the undisturbed one does, no item is lost, has two
//! records or is started again once it has its record, and looking again at the end writes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test may stop at the first surprise, and its items explain themselves"
)]

#[path = "control/faults.rs"]
mod faults;
#[path = "control/harness.rs"]
mod harness;
#[path = "control/paths.rs"]
mod paths;
#[path = "control/scenarios.rs"]
mod scenarios;
#[path = "control/store.rs"]
mod store;
#[path = "control/workers.rs"]
mod workers;
#[path = "control/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use faults::{Fault, Plan};
use harness::{Disturbance, Ending, Goal, Known, Process, quiet, undisturbed};
use scenarios::{PARALLELISM, alignment, campaign};
use world::{State, World};

/// One run to be made: from which tick, at which call, what.
type Case = (usize, usize, Fault);

/// A scenario, its undisturbed run, and every call at which a process that starts at some tick can be disturbed.
struct Sweep {
    seed: u64,
    goal: Goal,
    states: Vec<State>,
    ending: Ending,
    calls: Vec<(usize, usize)>,
    writes: Vec<(usize, usize)>,
}

fn sweep(seed: u64, scenario: fn(&World) -> Goal) -> Sweep {
    let mut world = World::new(seed);
    let goal = scenario(&world);
    let states = undisturbed(&mut world, goal);
    quiet(&mut world).unwrap();
    let (mut calls, mut writes) = (Vec::new(), Vec::new());
    for (tick, state) in states.iter().enumerate() {
        let fork = World::of(state, seed);
        let mut process = Process::start(&fork, Arc::new(Plan::default()), &Arc::default());
        process.pass(&fork);
        calls.extend((0..process.plan.calls()).map(|call| (tick, call)));
        writes.extend(process.plan.writes().into_iter().map(|call| (tick, call)));
    }
    Sweep { seed, goal, states, ending: Ending::of(&world), calls, writes }
}

impl Sweep {
    /// Makes all runs, on all cores.
    fn run_all(&self, name: &str, cases: &[Case], peak_max: u32) {
        let started = Instant::now();
        let known = Known::default();
        let next = AtomicUsize::new(0);
        let disturbance =
            Disturbance { goal: self.goal, seed: self.seed, ending: &self.ending, peak_max, known: &known };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((tick, call, fault)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let past = self.states[tick.saturating_sub(2)].objects();
                        if let Err(problem) = disturbance.run(&self.states[*tick], past, (*call, *fault)) {
                            next.store(cases.len(), Ordering::Relaxed);
                            panic!("seed {}, tick {tick}, call {call}, {fault:?}: {problem}", self.seed);
                        }
                    }
                });
            }
        });
        println!(
            "{name}: {} runs over {} ticks, {} calls of which {} write, {} distinct states passed; 0 lost, 0 with two \
             records, 0 started again, all converged; {:.1} s",
            cases.len(),
            self.states.len(),
            self.calls.len(),
            self.writes.len(),
            known.len(),
            started.elapsed().as_secs_f64()
        );
    }
}

/// Every `stride`th call with each of `faults`.
fn cases(calls: &[(usize, usize)], faults: &[Fault], stride: usize) -> Vec<Case> {
    let all = calls.iter().flat_map(|(tick, call)| faults.iter().map(|fault| (*tick, *call, *fault)));
    all.enumerate().filter(|(ordinal, _)| ordinal % stride == 0).map(|(_, case)| case).collect()
}

#[test]
fn a_campaign_of_fifty_attempts_ends_the_same_whatever_fails_at_whichever_call() {
    let sweep = sweep(7, campaign);
    sweep.run_all("campaign", &cases(&sweep.calls, &Fault::ALL, 1), PARALLELISM);
}

#[test]
fn a_whole_run_ends_the_same_wherever_the_process_dies() {
    let sweep = sweep(11, alignment);
    sweep.run_all(
        "alignment run, crashes at every write",
        &cases(&sweep.writes, &Fault::CRASHES, 1),
        u32::MAX,
    );
    // Thirteen faults and a stride that they do not divide: every fault meets calls of every kind. A campaign meets them all
    // at every call, above; a run adds no call of another kind, only more of them.
    sweep.run_all("alignment run, faults at calls", &cases(&sweep.calls, &Fault::ALL, 67), u32::MAX);
}

/// Seeds of the runs with many faults, and faults of each.
const SEEDS: u64 = 40;
const FAULTS_OF_A_SEED: usize = 12;

#[test]
fn a_process_that_lives_on_endures_a_dozen_faults_of_any_kind() {
    let started = Instant::now();
    let sweep = sweep(7, campaign);
    let known = Known::default();
    let disturbance = Disturbance {
        goal: sweep.goal,
        seed: sweep.seed,
        ending: &sweep.ending,
        peak_max: PARALLELISM,
        known: &known,
    };
    for seed in 0..SEEDS {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let fault = |random: &mut ChaCha8Rng| Fault::ALL[random.random_range(0..Fault::ALL.len())];
        let planned: Vec<(usize, Fault)> = (0..FAULTS_OF_A_SEED)
            .map(|_| (random.random_range(0..sweep.calls.len()), fault(&mut random)))
            .collect();
        let plan = Arc::new(Plan::of_many(planned.clone()));
        if let Err(problem) = disturbance.endure(&sweep.states[0], &plan) {
            panic!("seed {seed}, {planned:?}: {problem}");
        }
    }
    println!(
        "campaign, {FAULTS_OF_A_SEED} faults a run: {SEEDS} runs converged; {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
