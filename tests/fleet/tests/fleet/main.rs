//! Campaigns of a thousand attempts and more on a real control plane (etcd, API server, controller manager,
//! scheduler) with fake nodes (kwok), with kills and faults where they hurt.
//!
//! What is real: the control plane, the operator (its program, or its library where a kill has to fall on one
//! request), the worker's resolver and runner with their pod watch, their store and their signed way to sandboxes
//! over TCP. What is a script: the models, and what is behind a sandbox's door ([`sandbox`]): it speaks the protocol
//! and runs nothing. A fake pod ends only when its program has: a sandbox when its runner says `finish`, a runner
//! when it is done or killed.
//!
//! Reading order: [`control_plane`], [`site`] (one campaign), [`kubelet`] with [`sandbox`], [`operator`] with
//! [`wire`] (kills and faults of the operator), [`trip`] (kills of the runner), [`ended`] (the oracle), then the scenarios [`undisturbed`], [`operator_kills`], [`runner_kills`], [`faults`], [`scale`] with
//! [`bare`].
//!
//! Arguments are words that names of scenarios contain; long scenarios run only when asked for by `--long` or by name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests fail by panicking, and their figures are small"
)]

mod bare;
mod control_plane;
mod ended;
mod faults;
mod kubelet;
mod operator;
mod operator_kills;
mod process;
mod programs;
mod runner_kills;
mod sandbox;
mod scale;
mod site;
mod trip;
mod undisturbed;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use control_plane::ControlPlane;
use ended::Ended;
use programs::Programs;

/// Set by `make test-fleet`: a plain `cargo test` starts no control plane.
const ASKED_VARIABLE: &str = "SEALIGN_CLUSTER";
/// Set where missing programs are a failure.
const REQUIRED_VARIABLE: &str = "SEALIGN_CLUSTER_REQUIRED";

/// What scenarios share.
pub struct Fleet {
    /// The control plane.
    pub plane: ControlPlane,
    /// Runs everything but the operator.
    pub runtime: tokio::runtime::Runtime,
    /// What undisturbed campaigns came to, by the number of their tasks: what disturbed ones are compared with.
    references: Mutex<Vec<(u32, Ended)>>,
}

impl Fleet {
    /// The undisturbed end of a campaign of so many tasks, where a scenario has seen one.
    pub fn reference(&self, tasks: u32) -> Option<Ended> {
        let references = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        references.iter().find(|(count, _)| *count == tasks).map(|(_, ended)| ended.clone())
    }

    /// Remembers an undisturbed end.
    pub fn remember(&self, tasks: u32, ended: Ended) {
        self.references.lock().unwrap_or_else(PoisonError::into_inner).push((tasks, ended));
    }
}

/// Returns the line with its figures.
type Scenario = fn(&Fleet) -> String;

/// In this order: what others are compared with comes first.
const SCENARIOS: [(&str, Scenario); 4] = [
    ("a thousand attempts undisturbed, then nothing is written", undisturbed::thousand),
    ("faults of the API server change nothing", faults::sampled),
    ("the operator killed before and after every write of a small campaign", operator_kills::every_write),
    ("runner and operator killed again and again in a thousand attempts", runner_kills::with_the_operator),
];
/// Minutes each.
const LONG: [(&str, Scenario); 5] = [
    ("long: R1 spread, the operator killed again and again in a thousand attempts", operator_kills::thousand),
    (
        "long: R1 every, the operator killed before and after every write of a thousand attempts",
        operator_kills::every_write_of_thousand,
    ),
    ("long: R1b, the runner killed some hundreds of times in a thousand attempts", runner_kills::many),
    ("long: sixteen large groups beside a bare loop that makes the same Jobs", scale::thousand),
    ("long: ten thousand attempts beside a bare loop that makes the same Jobs", scale::ten_thousand),
];

fn wanted() -> Vec<(&'static str, Scenario)> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_long = words.iter().any(|word| word == "--long");
    let words: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_named = |name: &str| words.iter().any(|word| name.contains(word.as_str()));
    let short = SCENARIOS.into_iter().filter(|(name, _)| is_named(name) || (words.is_empty() && !is_long));
    let long = LONG.into_iter().filter(|(name, _)| is_named(name) || (words.is_empty() && is_long));
    short.chain(long).collect()
}

fn main() -> ExitCode {
    let wanted = wanted();
    if std::env::var_os(ASKED_VARIABLE).is_none() {
        println!("fleet: skipped {} scenarios: not asked for (set {ASKED_VARIABLE}=1)", wanted.len());
        return ExitCode::SUCCESS;
    }
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(missing) => {
            println!("fleet: skipped {} scenarios: {missing}", wanted.len());
            let is_required = std::env::var_os(REQUIRED_VARIABLE).is_some();
            return if is_required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    run(&programs, &wanted)
}

fn run(programs: &Programs, wanted: &[(&'static str, Scenario)]) -> ExitCode {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let plane = ControlPlane::start(programs);
    runtime.block_on(plane.prepare());
    println!("control plane and nodes up after {:.1} s", begun.elapsed().as_secs_f64());
    let fleet = Fleet { plane, runtime, references: Mutex::default() };
    let mut failed = 0;
    for (name, scenario) in wanted {
        let begun = Instant::now();
        let figures = catch_unwind(AssertUnwindSafe(|| scenario(&fleet)));
        let took = begun.elapsed().as_secs_f64();
        if let Ok(figures) = figures {
            println!("ok: {name} ({took:.1} s)\n    {figures}");
        } else {
            failed += 1;
            println!("FAILED: {name} ({took:.1} s)");
            fleet.runtime.block_on(site::clear(&fleet.plane));
        }
    }
    if failed > 0 {
        println!("logs: {}", fleet.plane.keep_logs().display());
    }
    let Fleet { plane, runtime, .. } = fleet;
    runtime.shutdown_background();
    println!("{}", plane.spent());
    drop(plane);
    println!("{} passed, {failed} failed ({:.1} s)", wanted.len() - failed, begun.elapsed().as_secs_f64());
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
