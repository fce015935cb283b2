//! The control plane under faults: the same `reconcile` that operator and embedded cluster run, over an in-memory cluster
//! and a store that fail at a chosen call. Oracle: every run ends as the undisturbed one does, no item is lost, has two
//! records or is started again once it has its record, and looking again at the end writes nothing.
//!
//! A run that fails prints the line that makes it again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test may stop at the first surprise, and its items explain themselves"
)]

#[path = "control/cluster.rs"]
mod cluster;
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
#[path = "control/sweep.rs"]
mod sweep;
#[path = "control/workers.rs"]
mod workers;
#[path = "control/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use faults::{Fault, Plan};
use scenarios::{ALIGNMENT, CAMPAIGN, Scenario};
use sweep::{Case, Sweep, Wanted, Who};

fn sweep(scenario: Scenario) -> Sweep {
    let begun = Instant::now();
    let sweep = Sweep::of(scenario);
    println!("{}; {:.1} s", sweep.describe_size(), begun.elapsed().as_secs_f64());
    sweep
}

const CRASHES: [Fault; 2] = [Fault::CrashBefore, Fault::CrashAfter];

#[test]
fn a_campaign_of_fifty_attempts_ends_the_same_whatever_fails_at_whichever_call() {
    let sweep = sweep(CAMPAIGN);
    sweep.run_all("each fault at every call", &sweep.cases(Who::Living, &Fault::ALL, Wanted::All));
    sweep.run_all("a fault at every call of new processes", &sweep.one_fault_each(Who::Started));
}

#[test]
fn a_whole_run_ends_the_same_wherever_the_process_dies_and_with_a_fault_at_every_call() {
    let sweep = sweep(ALIGNMENT);
    for who in [Who::Living, Who::Started] {
        let crashes = sweep.cases(who, &CRASHES, Wanted::Writes);
        sweep.run_all(&format!("{who:?} process dies before and after every write"), &crashes);
        sweep.run_all(&format!("{who:?} process, a fault at every call"), &sweep.one_fault_each(who));
    }
}

/// `make test-long`: each fault at every call of the process that lives from beginning to end, and at every call of a process
/// that has just started, at any moment.
#[test]
#[ignore = "some 70,000 runs: a minute or two where the simulated crates are optimised"]
fn each_fault_at_every_call_of_living_and_new_processes() {
    for scenario in [CAMPAIGN, ALIGNMENT] {
        let sweep = sweep(scenario);
        for who in [Who::Living, Who::Started] {
            let what = format!("{who:?} process, each fault at every call");
            sweep.run_all(&what, &sweep.cases(who, &Fault::ALL, Wanted::All));
        }
    }
}

/// Seeds of the runs with many faults, and faults of each.
const SEEDS: u64 = 40;
const FAULTS_OF_A_SEED: usize = 12;

#[test]
fn a_process_that_lives_on_endures_a_dozen_faults_of_any_kind() {
    let started = Instant::now();
    let sweep = Sweep::of(CAMPAIGN);
    let calls = sweep.cases(Who::Living, &[Fault::Hang], Wanted::All).len();
    for seed in 0..SEEDS {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let fault = |random: &mut ChaCha8Rng| Fault::ALL[random.random_range(0..Fault::ALL.len())];
        let planned: Vec<(usize, Fault)> =
            (0..FAULTS_OF_A_SEED).map(|_| (random.random_range(0..calls), fault(&mut random))).collect();
        let plan = Arc::new(Plan::of_many(planned.clone()));
        if let Err(problem) = sweep.endure(&plan) {
            panic!("seed {seed}, {planned:?}: {problem}");
        }
    }
    println!(
        "campaign, {FAULTS_OF_A_SEED} faults a run: {SEEDS} runs converged; {:.1} s",
        started.elapsed().as_secs_f64()
    );
}

/// A run that failed is made again from the line that it printed; without one, some case is made, and struck a hundred times:
/// it leaves the same world each time.
#[test]
fn replay() {
    let text = std::env::var("SEALIGN_REPLAY").unwrap_or("campaign:40:Started:3:CrashAfter".to_owned());
    let (name, case) = text.split_once(':').expect("write SCENARIO:LOOK:WHO:CALL:FAULT");
    let scenario = [CAMPAIGN, ALIGNMENT].into_iter().find(|scenario| scenario.name == name);
    let sweep = Sweep::of(scenario.expect("the scenario is `campaign` or `alignment-run`"));
    let case = Case::parse(case).expect("write SCENARIO:LOOK:WHO:CALL:FAULT");
    assert_eq!(format!("{name}:{case}"), text, "a case reads as it was written");
    sweep.run(case).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    let struck: BTreeSet<u64> = (0..100).map(|_| sweep.strike(case).unwrap().digest()).collect();
    assert_eq!(struck.len(), 1);
}
