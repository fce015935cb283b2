//! What runs in the pods: `resolve` freezes work, `run` drives sandboxes, `build-forest` merges what they recorded, and
//! `report` writes what came of it.
//!
//! A worker is told everything by one JSON document ([`sealign_plan::config`]) and talks to nothing but the store, the
//! sandboxes and the models. It is idempotent: what exists in the store is not made again, so a worker that died is simply
//! started again. It decides nothing that a pure crate can decide.
//!
//! Reading order: [`process`] (the rim), then the workers in the order in which data walks: [`resolve`], [`runner`],
//! [`forest`], [`report`]; [`verify`] walks back.

pub mod process;

pub mod error;
pub mod input;
pub mod saving;

pub mod resolve;

pub mod runner;

pub mod forest;

pub mod report;

pub mod verify;
