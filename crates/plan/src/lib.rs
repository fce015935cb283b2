//! Decides what to do next: `step(snapshot, installation, now)` gives commands, a status and when to look again. Pure.
//!
//! What it deliberately does not do: no I/O, no clock, no randomness, no retries. Whatever is not known yet is asked for
//! ([`snapshot`]); whatever is to be written is a value ([`command`]). The caller looks things up, runs commands in order,
//! stops at the first error, and asks again.
//!
//! Rules that hold for every kind: the store is read after Jobs and believed before them; a Job is created only after the
//! document that names its round exists; names follow from name, UID, stage and round; deciding again about a world that
//! already is as decided gives no commands.
//!
//! Reading order: [`config`] (what workers are told), [`installation`], [`snapshot`], [`command`], [`names`], [`round`],
//! [`group`], [`window`], [`work`], then the kinds: [`task_set`], [`rollout_campaign`], [`trajectory_forest`],
//! [`benchmark`], [`alignment_run`]. [`memory`] stands apart: arithmetic for people who plan, which decides nothing.

pub mod alignment_run;
pub mod benchmark;
pub mod command;
pub mod config;
mod context;
pub mod group;
pub mod installation;
pub mod job;
mod kind;
pub mod labels;
pub mod memory;
pub mod names;
pub mod owner;
pub mod policies;
pub mod resources;
pub mod rollout_campaign;
pub mod round;
pub mod settings;
pub mod snapshot;
mod stand;
pub mod task_set;
pub mod trajectory_forest;
pub mod validate;
pub mod window;
pub mod work;

use jiff::Timestamp;

pub use command::{Command, Event, Step};
pub use context::{Context, Draft};
pub use installation::Installation;
pub use kind::Kind;
pub use owner::Owner;
pub use snapshot::{Answer, NoDecision, Query, Snapshot, Unread};

/// Decides about the object of `snapshot`.
///
/// # Errors
/// [`NoDecision::Unread`] names what has to be looked up first; the others say what stands in the way.
pub fn step(snapshot: &Snapshot, installation: &Installation, now: Timestamp) -> Result<Step, NoDecision> {
    let owner = Owner::of(snapshot.kind, &snapshot.object);
    let cx = Context { snapshot, installation, now, owner: &owner };
    if snapshot::is_leaving(&snapshot.object) || snapshot.kind == Kind::Job {
        // Children go by owner reference, artifacts stay: there is nothing to do at the end of an object.
        let status = snapshot.object.data.get("status").cloned().unwrap_or_default();
        return Ok(Step { commands: Vec::new(), status, requeue: None, is_finished: true });
    }
    match snapshot.kind {
        Kind::TaskSet => task_set::step(cx),
        Kind::RolloutCampaign => rollout_campaign::step(cx),
        Kind::TrajectoryForest => trajectory_forest::step(cx),
        Kind::AlignmentRun => alignment_run::step(cx),
        Kind::Benchmark | Kind::Job => benchmark::step(cx),
    }
}
