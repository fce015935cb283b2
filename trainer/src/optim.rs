//! Optimiser, gradient clipping and learning-rate schedule.

pub mod adamw;
pub mod schedule;

pub use adamw::{AdamW, AdamWSettings};
pub use schedule::{Schedule, ScheduleKind};
