//! The embedded cluster: objects in memory, Jobs as processes, sandboxes in bubblewrap. Linux only.
//!
//! `sealign run` needs no Kubernetes: this crate gives `sealign-reconcile` the same two ports that the operator gives it. It
//! is for one machine. It imitates no HTTP API, schedules nothing over nodes and isolates only sandboxes: trusted programs
//! run as the user who started them.
//!
//! Reading order: [`objects`] (the API server's rules as a value), [`memory`] (the `Cluster` port), [`shape`] and
//! [`admission`] (schemas and rules), [`folder`] (the state on disk); then [`jobs`] (the Job controller), [`process`] (how a
//! pod becomes a process), [`bubblewrap`] (how a sandbox does); [`engine`] puts them together.

#[cfg(not(target_os = "linux"))]
compile_error!("the embedded cluster needs Linux: namespaces, bubblewrap and parent-death signals");

pub mod objects;

pub mod memory;

pub mod naming;

pub mod shape;

pub mod admission;

pub mod folder;

pub mod bubblewrap;

pub mod notice;

pub mod pods;

pub mod job_spec;

pub mod job_state;

pub mod log;

pub mod process;

pub mod launch;

pub mod jobs;

pub mod standing;

pub mod references;

pub mod store_watch;

pub mod engine;

pub mod workplace;
