//! The paper's stuck-in-loop metric (specs 1.10): the exact same action three rounds running.
//!
//! It looks at actions only, by their `call` key whatever the node key is (rule C10), and is a metric, not the runtime
//! detector of a scaffold. An invalid output whose text is not known is equal to nothing (rule C4).

use serde::{Deserialize, Serialize};

use crate::key::{KeyOptions, call_key};
use crate::record::{Action, Trajectory, Turn};

/// So many equal actions in a row are a loop.
pub const STUCK_ROUNDS: usize = 3;

/// Both figures of the metric for one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stuck {
    /// Three equal actions in a row anywhere: the paper's metric.
    pub anywhere: bool,
    /// The last three actions are equal.
    pub at_end: bool,
}

/// Measures one attempt.
pub fn stuck(trajectory: &Trajectory, options: KeyOptions) -> Stuck {
    let keys: Vec<Option<String>> =
        trajectory.turns.iter().map(|turn| is_comparable(turn).then(|| call_key(turn, options))).collect();
    let is_loop = |window: &[Option<String>]| {
        window.first().is_some_and(Option::is_some) && window.windows(2).all(|w| w.first() == w.last())
    };
    let mut windows = keys.windows(STUCK_ROUNDS).map(is_loop);
    let at_end = windows.next_back().unwrap_or(false);
    Stuck { anywhere: at_end || windows.any(|found| found), at_end }
}

/// Rule C4: an invalid output with empty raw text is never equal to its neighbour.
pub fn is_comparable(turn: &Turn) -> bool {
    !matches!(&turn.action, Action::Invalid { text, .. } if text.trim().is_empty())
}
