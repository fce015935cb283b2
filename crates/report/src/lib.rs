//! From outcomes to a report: counts, rates with intervals, paired tests, the paper's table shapes, and one [`Report`]
//! that is rendered to Markdown, JSON and HTML.
//!
//! Every rate prints its numerator and denominator. Infrastructure failures stand apart and are in no rate of a model
//! (DESIGN 3.4). Nothing here judges whether a difference matters beyond the test that it prints, and nothing reads a
//! clock: the same input gives the same bytes.
//!
//! Start with [`ReportInput`] and [`Report::new`]; the arithmetic is in [`statistics`].

pub mod attempt;
pub mod comparison;
pub mod data;
mod html;
mod markdown;
pub mod paper;
pub mod report;
pub mod statistics;
pub mod summary;

pub use attempt::{Attempt, ModelAttempts};
pub use comparison::Comparison;
pub use data::{Cost, DataStatistics, Provenance, TrainingStage};
pub use report::{Report, ReportInput};
pub use summary::{ModelSummary, Rate};
