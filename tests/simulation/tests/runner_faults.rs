//! The runner under faults: in a campaign of fifty attempts, every store call, every sandbox request and every look at the
//! pods goes wrong in every way that it can, once, pods meet every fate before they are claimed, and pairs of faults meet at
//! random. Whatever happens, the same records exist in the end, no recorded item is run again, none is lost, and a runner
//! that begins after the end does nothing.
//!
//! A run that fails prints the line that makes it again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a simulation ends at the first promise that is broken"
)]

mod runner_world;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use runner_world::faults::{Fault, Plan, Port, Start, Trouble};
use runner_world::{Ended, World, compare};
use sealign_manifest::Digest;
use sealign_manifest::record::Outcome;

/// Pairs of faults that are drawn, for the quick look and for the long one.
const PAIRS: [usize; 2] = [60, 2_000];
/// The quick look takes every so manyth single fault: a prime, so that every fault meets calls of every kind.
const STRIDE: usize = 23;
/// Failures that are shown at most.
const SHOWN_MAX: usize = 10;

/// Every single trouble that a run can meet.
fn singles(reference: &Ended) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut add = |port, call: u64, faults: &[Fault]| {
        troubles.extend(faults.iter().map(|fault| Trouble::At(port, call, *fault)));
    };
    for (call, is_write) in (0..).zip(&reference.calls) {
        add(Port::Store, call, if *is_write { &Fault::OF_WRITES } else { &Fault::OF_READS });
    }
    for request in 0..reference.requests {
        add(Port::Door, request, &Fault::OF_DOORS);
    }
    for list in 0..reference.lists {
        add(Port::Pods, list, &Fault::OF_LISTS);
    }
    for pod in 0..reference.pods {
        troubles.extend(Start::ALL.map(|start| Trouble::Pod(pod, start)));
    }
    troubles
}

fn is_crash(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::At(_, _, fault) if fault.is_crash())
}

/// Two or three troubles at once.
fn pairs(singles: &[Trouble], count: usize) -> Vec<Plan> {
    let draw = |seed: usize| {
        let mut random = ChaCha8Rng::seed_from_u64(seed as u64);
        let count = 2 + seed % 2;
        Plan((0..count).map(|_| singles[random.random_range(0..singles.len())]).collect())
    };
    (0..count).map(draw).collect()
}

/// Makes every run on all cores.
fn check(what: &str, world: &World, reference: &Ended, plans: &[Plan]) {
    let begun = Instant::now();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = world.run(plan).and_then(|ended| compare(reference, &ended, plan));
                    if let Err(problem) = result {
                        failures.lock().unwrap().push((plan, problem));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let mut shown = String::new();
    for (plan, problem) in failures.iter().take(SHOWN_MAX) {
        write!(
            shown,
            "\n{problem}\n  replay it: SEALIGN_REPLAY={plan} cargo test -p sealign-simulation --test runner_faults replay"
        )
        .unwrap();
    }
    assert!(failures.is_empty(), "{} of {} runs failed:{shown}", failures.len(), plans.len());
    println!(
        "runner, {what}: {} runs of {} attempts and {} gradings; 0 lost, 0 with two records, 0 run again, all converged; \
         {:.1} s",
        plans.len(),
        reference.closed.outcomes.values().sum::<u64>(),
        reference.closed.gradings,
        begun.elapsed().as_secs_f64()
    );
}

#[test]
fn without_faults_each_item_takes_one_pod_and_two_runs_are_equal() {
    let world = World::new();
    let (one, two) = (world.run(&Plan::default()).unwrap(), world.run(&Plan::default()).unwrap());
    assert_eq!(one.records, two.records);
    assert_eq!(one.closed, two.closed);
    assert_eq!((&one.calls, one.requests, one.lists), (&two.calls, two.requests, two.lists));
    assert_eq!(one.closed.outcomes.values().sum::<u64>(), 50);
    assert!(one.closed.outcomes[&Outcome::Resolved] > 10 && one.closed.outcomes[&Outcome::Unresolved] > 10);
    assert!(one.closed.gradings >= 20, "{} distinct patches", one.closed.gradings);
    assert_eq!(one.pods, 50 + one.closed.gradings, "a pod for each attempt and each distinct patch");
}

#[test]
fn the_oracle_sees_a_record_that_is_lost_changed_or_given_up() {
    let reference = World::new().run(&Plan::default()).unwrap();
    let key = reference.records.keys().find(|key| key.contains("/rollout/")).unwrap().clone();
    let broken = |change: &dyn Fn(&mut Ended)| {
        let mut ended = reference.clone();
        change(&mut ended);
        compare(&reference, &ended, &Plan::default()).unwrap_err()
    };
    assert!(broken(&|ended| drop(ended.records.remove(&key))).contains("sets of rollout records"));
    let other = Digest::of_bytes(b"other");
    let changed = broken(&|ended| drop(ended.records.insert(key.clone(), other.clone())));
    assert!(changed.contains("records differ"));
    assert!(
        broken(&|ended| {
            ended.closed.outcomes.insert(Outcome::Infra, 1);
        })
        .contains("given up")
    );
    assert!(broken(&|ended| ended.closed.empty += 1).contains("closed sets differ"));
}

fn sweep(stride: usize, pair_count: usize) {
    let world = World::new();
    let reference = world.run(&Plan::default()).unwrap();
    let singles = singles(&reference);
    println!(
        "runner: {} store calls, {} of them write; {} sandbox requests; {} looks at pods; {} pods; {} single faults",
        reference.calls.len(),
        reference.calls.iter().filter(|is_write| **is_write).count(),
        reference.requests,
        reference.lists,
        reference.pods,
        singles.len()
    );
    let (crashes, others): (Vec<Trouble>, Vec<Trouble>) =
        singles.iter().partition(|trouble| is_crash(trouble));
    let plans = |troubles: &[Trouble]| -> Vec<Plan> {
        troubles.iter().step_by(stride).map(|trouble| Plan(vec![*trouble])).collect()
    };
    check("crashes", &world, &reference, &plans(&crashes));
    check("other faults", &world, &reference, &plans(&others));
    check("two and three faults at once", &world, &reference, &pairs(&singles, pair_count));
}

#[test]
fn whatever_goes_wrong_the_same_records_exist_and_none_is_made_twice() {
    sweep(STRIDE, PAIRS[0]);
}

/// `make test-long`: a crash before and after every write and every sandbox request, and each other fault at every call.
#[test]
#[ignore = "some 9,000 runs of a campaign: many minutes"]
fn each_fault_at_every_call_leaves_the_same_records() {
    sweep(1, PAIRS[1]);
}

/// Found while this simulation was written: the runner had read what there was when the last write of the one before it arrived; no further
/// round came, and it waited for one for ever.
#[test]
fn a_record_that_arrives_after_its_writer_died_is_found() {
    let world = World::new();
    let reference = world.run(&Plan::default()).unwrap();
    let writes = (0..).zip(&reference.calls).filter(|(_, is_write)| **is_write).map(|(call, _)| call);
    let late: Vec<u64> = writes.collect();
    for call in late.into_iter().step_by(40) {
        let plan = Plan(vec![Trouble::At(Port::Store, call, Fault::CrashLate)]);
        let ended = world.run(&plan).unwrap_or_else(|problem| panic!("{plan}: {problem}"));
        compare(&reference, &ended, &plan).unwrap_or_else(|problem| panic!("{plan}: {problem}"));
    }
}

/// Two outages of the store in a row last longer than a runner waits: it ends with its error, and the next one has lost nothing.
#[test]
fn an_outage_longer_than_a_runner_waits_costs_a_runner_and_nothing_else() {
    let world = World::new();
    let reference = world.run(&Plan::default()).unwrap();
    let plan: Plan = "Store:53:Away,Door:104:CrashAfter,Store:77:Away".parse().unwrap();
    let ended = world.run(&plan).unwrap_or_else(|problem| panic!("{plan}: {problem}"));
    compare(&reference, &ended, &plan).unwrap_or_else(|problem| panic!("{plan}: {problem}"));
}

/// A run that failed is made again from the line that it printed; without one, some run is made four times: the same calls
/// are made each time, and the same is left.
#[test]
fn replay() {
    let text =
        std::env::var("SEALIGN_REPLAY").unwrap_or("Door:100:CrashAfter,Store:150:ReplyLost".to_owned());
    let plan: Plan = text.parse().unwrap();
    assert_eq!(plan.to_string(), text, "a plan reads as it was written");
    let world = World::new();
    let reference = world.run(&Plan::default()).unwrap();
    let first = world.run(&plan).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    compare(&reference, &first, &plan).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    for _ in 1..4 {
        let again = world.run(&plan).unwrap();
        assert_eq!((&again.calls, again.requests, again.lists), (&first.calls, first.requests, first.lists));
        assert_eq!(again.records, first.records);
    }
}
