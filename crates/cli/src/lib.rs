//! The `sealign` command: the whole product without a cluster, and a look at what it made.
//!
//! Commands are thin: `sealign-local` runs, the pure crates compute, and this crate reads arguments and files and prints.
//! Results go to standard output, progress and errors to standard error; `--output json` prints one JSON document whose
//! fields are described in `crates/cli/OUTPUT.md`. It holds no logic that a worker or the operator would need too.
//!
//! Start with [`arguments`], then the file named like the command.

pub mod arguments;
pub mod error;
pub mod output;

pub mod documents;
pub mod state;

pub mod cost;
pub mod progress;
pub mod run;
pub mod summary;

pub mod memory;
pub mod plan;

pub mod columns;
pub mod get;

pub mod trajectories;

pub mod grade;

pub mod outline;
pub mod pages;

pub mod export;
pub mod gc;
pub mod verify;
