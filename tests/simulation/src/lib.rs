//! Deterministic simulation of the control plane and the runner under faults. What its tests share with those that drive the same
//! runner on a real control plane is here: models and sandboxes that answer from a script.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test ends at the first thing that is not as it should be"
)]

pub mod scripted;
