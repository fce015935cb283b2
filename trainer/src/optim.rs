//! Optimiser, gradient clipping and learning-rate schedule.

pub mod adamw;
pub mod schedule;

pub use adamw::{AdamW, AdamWSettings, Slot, gradient_norm, slots};
pub use schedule::{Schedule, ScheduleKind};
