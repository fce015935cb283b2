//! Cleans, merges and scores trajectories, extracts critical pairs, counts and draws them. Pure.
//!
//! This is stages 2 and 3 of the SEAlign paper (arXiv 2503.18455, Algorithm 1), with the choices that it leaves open
//! decided by specs 5.11. Trajectories of one task and prompt become a tree of actions; a node's score is the share of
//! successes below it; siblings whose scores differ by more than one half give a preference pair. Nothing here reads
//! files or tokenises.
//!
//! Start with [`build()`] and [`Options`]; then [`Forest::summary`] for the numbers, [`Forest::sft_rows`] and
//! [`Forest::preference_rows`] for training, [`Forest::to_bytes`] for storing.

mod build;
mod forest;
mod options;

mod attempt;
mod clean;
mod exclude;
mod kind;
mod pairs;
mod score;
mod tree;

mod draw;
mod select;
mod whole;

mod rows;
mod statistics;
mod store;
pub mod viewer;

pub use build::{BuildError, build};
pub use clean::{DropReason, Dropped};
pub use exclude::repository;
pub use forest::Forest;
pub use kind::{Kind, KindRules};
pub use options::{
    DataRatio, Exclusion, Filters, NodeKey, Options, Overlap, PairMode, PairOptions, SWE_BENCH_REPOSITORIES,
    Selection, SftOptions, UnknownNodeKey,
};
pub use pairs::{LeftOut, Pair};
pub use rows::RowsError;
pub use score::{Gap, Score, ScoreError, ScoreEstimator, Threshold};
pub use select::RolloutName;
pub use statistics::{PairLine, SinglePathPairs, Statistics, Summary};
pub use store::StoreError;
pub use tree::{Node, NodeIndex, Rollout, RolloutIndex, Tree};
