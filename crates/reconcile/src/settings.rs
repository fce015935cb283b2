//! What a reconciler is given beside its ports.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::ReconcileError;

/// The time, injected.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How often to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between two looks at an object of which nothing was heard. Events are hints; this is what finds what they miss,
    /// and what the store alone knows.
    pub poll: Duration,
    /// Time until an object is looked at again after something was done for it.
    pub soon: Duration,
    /// Time between two looks at an object that has reached its end.
    pub finished_poll: Duration,
    /// Wait after a first failure; doubled for each further one, with jitter.
    pub retry: Duration,
    /// Longest such wait.
    pub retry_max: Duration,
    /// Seed of the jitter, so that a simulation replays.
    pub seed: u64,
}

impl Default for Settings {
    /// For a cluster: a poll of ten seconds keeps a campaign's window filled and costs a few reads.
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(10),
            soon: Duration::from_secs(1),
            finished_poll: Duration::from_mins(5),
            retry: Duration::from_secs(1),
            retry_max: Duration::from_mins(1),
            seed: 0,
        }
    }
}

impl Settings {
    /// For one machine, where reads are cheap and somebody watches.
    pub fn embedded() -> Self {
        Self {
            poll: Duration::from_millis(300),
            soon: Duration::from_millis(20),
            finished_poll: Duration::from_secs(5),
            retry: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            seed: 0,
        }
    }
}

/// Where a simulation may end the process. Called after every command.
pub trait CrashPoints: Send + Sync {
    /// An error ends the reconcile as the end of the process would: nothing further is written.
    fn after_command(&self, ordinal: usize) -> Result<(), ReconcileError>;
}

/// Production: the process ends when it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCrash;

impl CrashPoints for NoCrash {
    fn after_command(&self, _: usize) -> Result<(), ReconcileError> {
        Ok(())
    }
}
