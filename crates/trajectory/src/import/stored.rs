//! Our own stored trajectories: the record as it is, one a line.

use serde_json::Value;

use super::fields::RecordError;
use super::{Draft, Place};
use crate::record::{Action, Trajectory};

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Draft, RecordError> {
    let trajectory: Trajectory =
        serde_json::from_value(value).map_err(|error| RecordError::Stored(error.to_string()))?;
    if trajectory.turns.len() > place.options.limits.messages {
        return Err(RecordError::TooManyMessages(place.options.limits.messages));
    }
    let is_empty = |action: &Action| matches!(action, Action::Calls { calls } if calls.is_empty());
    if trajectory.turns.iter().any(|turn| is_empty(&turn.action)) {
        return Err(RecordError::Stored("a turn of kind `calls` holds no call".to_owned()));
    }
    Ok(Draft { trajectory, run: None })
}
