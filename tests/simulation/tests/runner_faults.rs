//! The runner under faults: every store call and every sandbox request goes wrong in every way once, pods meet every fate
//! before they are claimed, and pairs of faults meet at random. Whatever happens, the same records exist in the end, no
//! recorded item is run again, and none is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a simulation ends at the first promise that is broken"
)]

mod runner_world;

use std::sync::Mutex;
use std::time::Instant;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use runner_world::pods::Start;
use runner_world::sandbox::Fault as DoorFault;
use runner_world::{Ended, Plan, World, compare};
use sealign_manifest::Digest;
use sealign_manifest::record::Outcome;
use sealign_storage::faulty::{Fault, PlannedFault};

/// Pairs of faults that are drawn.
const PAIRS: u64 = 1_000;
const THREADS: usize = 2;

fn store_fault(call: u64, fault: Fault) -> PlannedFault {
    PlannedFault { call, operation: None, fault }
}

/// Runs every plan and returns what was violated, at most ten.
fn check(world: &World, plans: &[Plan]) -> Vec<String> {
    let reference = world.run(&Plan::default()).unwrap();
    let violations = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (reference, violations) = (&reference, &violations);
            scope.spawn(move || {
                for plan in plans.iter().skip(thread).step_by(THREADS) {
                    let result = world.run(plan).and_then(|ended| compare(reference, &ended, plan));
                    if let Err(problem) = result {
                        violations.lock().unwrap().push(format!("{plan:?}: {problem}"));
                    }
                }
            });
        }
    });
    violations.into_inner().unwrap().into_iter().take(10).collect()
}

#[test]
fn without_faults_each_item_takes_one_pod_and_two_runs_are_equal() {
    let world = World::new();
    let (one, two) = (world.run(&Plan::default()).unwrap(), world.run(&Plan::default()).unwrap());
    assert_eq!(one.records, two.records);
    assert_eq!(one.closed, two.closed);
    let outcomes = one.closed.outcomes;
    assert_eq!((outcomes[&Outcome::Resolved], outcomes[&Outcome::Unresolved]), (2, 4), "{outcomes:?}");
    assert_eq!(one.pods, 6 + 4, "six rollouts, and gradings of the four patches that are not empty");
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

#[test]
fn whatever_goes_wrong_the_same_records_exist_and_none_is_made_twice() {
    let begun = Instant::now();
    let world = World::new();
    let reference = world.run(&Plan::default()).unwrap();
    let calls = u64::try_from(reference.calls.len()).unwrap();
    let mut plans = Vec::new();
    for call in 0..calls {
        plans.extend(
            Fault::ALL.map(|fault| Plan { store: vec![store_fault(call, fault)], ..Plan::default() }),
        );
    }
    for request in 0..reference.requests {
        plans.extend(DoorFault::ALL.map(|fault| Plan { doors: vec![(request, fault)], ..Plan::default() }));
    }
    for pod in 0..reference.pods {
        plans.extend(Start::ALL.map(|start| Plan { start: Some((pod, start)), ..Plan::default() }));
    }
    let single = plans.len();
    for seed in 0..PAIRS {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let store = store_fault(random.random_range(0..calls), Fault::ALL[random.random_range(0..5)]);
        let door = (random.random_range(0..reference.requests), DoorFault::ALL[random.random_range(0..8)]);
        let start = (random.random_range(0..reference.pods), Start::ALL[random.random_range(0..3)]);
        plans.push(match seed % 3 {
            0 => Plan { store: vec![store], doors: vec![door], start: None },
            1 => Plan { store: vec![store], doors: Vec::new(), start: Some(start) },
            _ => Plan { store: Vec::new(), doors: vec![door], start: Some(start) },
        });
    }
    let violations = check(&world, &plans);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    println!(
        "runner simulation: {} runs ({single} single faults, {PAIRS} pairs; {calls} store calls, {} sandbox requests), \
         0 lost, 0 twice, 0 run again, {:.1} s",
        plans.len(),
        reference.requests,
        begun.elapsed().as_secs_f64()
    );
}
