//! A real Kubernetes cluster on one machine, for tests and to play with.
//!
//! etcd, API server, controller manager and scheduler, real nodes (kubelet, containerd, runc, CNI, kube-proxy) in network
//! namespaces of their own, fake nodes beside them, enforcement of NetworkPolicies, a real S3 server. Up in about ten
//! seconds once `binaries.sh` has built the programs, and gone without a trace when the [`Bed`] is dropped.
//!
//! Start with [`Bed::start`]. Reading order: [`bed`], [`place`], [`network`], [`control_plane`], [`node`], [`services`],
//! [`images`], [`sweep`]. It needs root and Linux, and says so; it is for tests on a machine of one's own, not a way to run
//! a cluster.

pub mod bed;
pub mod control_plane;
pub mod error;
pub mod images;
pub mod install;
pub mod keys;
pub mod network;
pub mod node;
pub mod pack;
pub mod place;
pub mod process;
pub mod programs;
pub mod scrape;
pub mod services;
pub mod session;
pub mod sweep;

pub use bed::{Bed, BedOptions};
pub use error::{BedError, Result};
pub use session::Session;
