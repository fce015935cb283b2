//! What the parts hand each other through the store: items, records, manifests and the keys they lie under.
//!
//! Two programs never share memory here; they share objects in a bucket. This crate holds the exact shape of those
//! objects, so that the control plane (which reads manifests and record *names*), the runner (which writes records), the
//! forest worker and the trainer agree by type. It does no I/O: `sealign-storage` reads and writes, this crate says what.
//!
//! Rules that hold everywhere: a result exists if and only if its create-only record exists; nothing that is digested
//! holds a UID, a time or a host; maps are sorted; the last thing written of a set is its manifest.
//!
//! Reading order: [`digest`], [`task`], [`item`], [`record`], [`key`], [`group`], [`train`].

pub mod digest;
pub mod group;
pub mod item;
pub mod key;
pub mod record;
pub mod task;
pub mod train;

pub use digest::Digest;
pub use item::{GradingItem, ItemKey, RolloutItem, Start};
pub use key::ObjectKeys;
pub use record::{RolloutRecord, StopReason, Verdict, VerdictRecord};
pub use task::{Environment, Suite, Task, TaskFile, TestPlan};
