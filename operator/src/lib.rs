//! The operator: the kube adapter of the reconcile ports, its controllers, lease, metrics and server.
//!
//! What it deliberately does not do: it decides nothing (`sealign-plan` does) and orders nothing (`sealign-reconcile` does);
//! it never reads a trajectory, a Secret or a pod, never opens a stream into one, and serves no webhook.
//!
//! Correctness does not rest on the lease: two operators at once create the same names and lose the same races. The lease
//! saves requests.
//!
//! Reading order: [`config`], [`cluster`] with [`preflight`], [`controller`], [`routes`] with [`triggers`], [`events`],
//! [`leader`], [`metrics`] with [`requests`] and [`figures`], [`server`], [`app`]; [`access`] is what its role must allow.

pub mod access;
pub mod app;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod events;
pub mod figures;
pub mod leader;
pub mod metrics;
pub mod preflight;
pub mod requests;
pub mod routes;
pub mod server;
pub mod triggers;
