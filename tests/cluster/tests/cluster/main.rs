//! The operator on a real cluster, as a user runs it: Helm, kubectl, real pods on real nodes, a real S3 server.
//!
//! One bed for all scenarios, in order; each has deadlines of its own and leaves the cluster to the next. The first
//! argument picks scenarios whose name contains it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod campaign;
mod install;
mod metrics;
mod nodes;
mod operator;
mod run;
mod scale;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use sealign_cluster_tests::{Bed, BedError, BedOptions, Session};

/// Set by `make test-cluster`: a plain `cargo test` starts no cluster.
const ASKED_VARIABLE: &str = "SEALIGN_CLUSTER";
/// Set where a missing bed is a failure: on machines that are known to have everything.
const REQUIRED_VARIABLE: &str = "SEALIGN_CLUSTER_REQUIRED";

type Scenario = (&'static str, fn(&mut Bed));

/// In this order: what others need comes first.
const SCENARIOS: [Scenario; 10] = [
    ("the chart installs and the operator leads", install::chart_installs),
    ("a campaign in pods equals the embedded run", campaign::equals_the_embedded_run),
    ("sandboxes reach nothing and only the runner reaches them", nodes::sandboxes_are_cut_off),
    ("a killed operator loses nothing", operator::kills_lose_nothing),
    ("a killed runner loses nothing", operator::runner_kills_lose_nothing),
    ("a node lost in the middle of a campaign loses nothing", nodes::lost_node_loses_nothing),
    ("a benchmark with more sandboxes at once gives the same report", scale::reports_are_equal),
    ("the whole loop from kubectl apply to a report", run::whole_loop),
    ("the whole loop is on every dashboard and in what alerts look at", metrics::everything_is_seen),
    (
        "a node lost in the middle of a training stage loses nothing",
        nodes::node_lost_while_training_loses_nothing,
    ),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    if std::env::var_os(ASKED_VARIABLE).is_none() {
        println!("cluster: not asked for; `make test-cluster` runs these {} scenarios", SCENARIOS.len());
        return ExitCode::SUCCESS;
    }
    if let Some(session) = Session::existing() {
        return on_existing(&session);
    }
    let options = BedOptions { trainer: true, ..BedOptions::default() };
    let mut bed = match start(&options) {
        Ok(bed) => bed,
        Err(BedError::Requirement(reason)) if std::env::var_os(REQUIRED_VARIABLE).is_none() => {
            println!("cluster: SKIPPED, nothing was tested: {reason}");
            println!("0 passed, 0 failed, {} skipped", SCENARIOS.len());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("FAILED: the bed: {error}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("bed {} up after {:.1} s", bed.place().number(), bed.age().as_secs_f64());
    let (mut passed, mut failed) = (0, 0);
    for (name, scenario) in SCENARIOS {
        let is_first = passed + failed == 0;
        if !is_first && !name.contains(&wanted) {
            continue;
        }
        let began = Instant::now();
        let holds = catch_unwind(AssertUnwindSafe(|| scenario(&mut bed))).is_ok();
        println!("{}: {name} ({:.1} s)", if holds { "ok" } else { "FAILED" }, began.elapsed().as_secs_f64());
        if holds {
            passed += 1;
        } else {
            failed += 1;
            campaign::tell(bed.session());
        }
        if is_first && failed > 0 {
            break;
        }
    }
    if failed > 0 {
        bed.keep_logs();
    }
    let began = Instant::now();
    drop(bed);
    println!("bed gone after {:.1} s", began.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts the bed, with a second try where the first one came to nothing: what is under test begins after it.
fn start(options: &BedOptions) -> Result<Bed, BedError> {
    let first = Bed::start(options);
    match first {
        Ok(_) | Err(BedError::Requirement(_)) => first,
        Err(error) => {
            println!("the bed did not start, once more: {error}");
            Bed::start(options)
        }
    }
}

/// An existing cluster has the operator already, and its nodes are nobody's to kill.
fn on_existing(session: &Session) -> ExitCode {
    println!("existing cluster {}: one campaign, no kills", session.kubeconfig().display());
    let holds = catch_unwind(AssertUnwindSafe(|| campaign::succeeds(session, "default"))).is_ok();
    println!("{} passed, {} failed, {} skipped", u8::from(holds), u8::from(!holds), SCENARIOS.len() - 1);
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
