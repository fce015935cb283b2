//! Task suites, verdicts, patch policy, selection and leak rules.
//!
//! Everything here is a function of its arguments: suites give tasks, [`grade`] says which files to write and which
//! commands to run and judges what they printed, [`patch`] reads and writes diffs, [`select`] and [`plan`] choose and
//! group the work. Nothing runs a program, reads a file or knows the time: `sealign-worker` does.
//!
//! Start with [`suites`], then [`patch`] and [`grade`].

pub mod suites;

pub mod draw;
pub mod grade;
pub mod patch;
pub mod plan;
pub mod select;
