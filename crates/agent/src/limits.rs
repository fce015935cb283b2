//! The bounds of one attempt, and the clock that one of them needs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of one attempt. Whichever is met first ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Model turns, replayed ones included.
    pub turns: u32,
    /// Tokens of prompt and completion together.
    pub context_tokens: u64,
    /// Wall seconds of the attempt, without the time that a model server was unreachable, loading or throttling.
    pub wall_seconds: u64,
    /// Tokens of all requests together; `None` sets no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Seconds of one command.
    pub command_seconds: u64,
}

impl Default for Limits {
    /// The paper's 30 turns or 32k tokens of context (specs 1.2); an hour, and 300 s a command.
    fn default() -> Self {
        Self { turns: 30, context_tokens: 32_768, wall_seconds: 3600, tokens: None, command_seconds: 300 }
    }
}

/// Monotonic time since an arbitrary origin.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Duration;
}

/// The machine's clock; follows paused time in tests.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// How much of an attempt's wall limit is used.
pub(crate) struct WallMeter<'clock> {
    clock: &'clock dyn Clock,
    start: Duration,
    excluded: Duration,
    limit: Duration,
}

impl<'clock> WallMeter<'clock> {
    pub(crate) fn start(clock: &'clock dyn Clock, limits: &Limits) -> Self {
        let limit = Duration::from_secs(limits.wall_seconds);
        Self { clock, start: clock.now(), excluded: Duration::ZERO, limit }
    }

    /// Takes time out of the count.
    pub(crate) fn exclude(&mut self, waited: Duration) {
        self.excluded += waited;
    }

    /// What is left; zero when the limit is passed.
    pub(crate) fn left(&self) -> Duration {
        let used = self.clock.now().saturating_sub(self.start).saturating_sub(self.excluded);
        self.limit.saturating_sub(used)
    }
}
