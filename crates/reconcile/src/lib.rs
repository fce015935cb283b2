//! Look, decide, act, report: the four verbs of the control plane, written once over two ports.
//!
//! [`Reconciler::reconcile_once`] takes one object one step further. `observe` answers what `sealign_plan::step` asks,
//! `execute` runs its commands in order and stops at the first error, `report` writes the status from what happened, or
//! from the error, at most once and only when it changed. [`engine`] calls it for every object, level-triggered.
//!
//! What it deliberately does not do: it decides nothing (the plan does), knows neither an API server nor a process (the
//! ports do), and keeps nothing that a restart would miss: its memory is a cache and a rate limit.
//!
//! Reading order: [`port`], [`settings`], [`reconciler`], [`observe`], [`execute`], [`report`], [`engine`].

pub mod backoff;
pub mod engine;
pub mod error;
pub mod execute;
pub mod observe;
pub mod port;
pub mod reconciler;
pub mod report;
pub mod settings;

pub use engine::{Ended, Engine};
pub use error::{Category, ReconcileError};
pub use port::{Artifacts, Cluster, ClusterError, Kind};
pub use reconciler::{Outcome, Reconciler};
pub use report::{EventSink, NoEvents, ObjectEvent};
pub use sealign_plan::Installation;
pub use settings::{Clock, CrashPoints, NoCrash, Settings};
