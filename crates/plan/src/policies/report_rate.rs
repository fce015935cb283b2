//! How often a status is written: at once when anything but figures changed, else every thirty seconds.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Time between two status writes that only bring figures up to date.
const FIGURES_EVERY: SignedDuration = SignedDuration::from_secs(30);
/// Fields of statuses that move all the time.
const FIGURES: [&str; 10] = [
    "recorded",
    "graded",
    "outcomes",
    "tokens",
    "attemptsPerMinute",
    "etaSeconds",
    "progress",
    "loss",
    "rewardMargin",
    "tokensPerSecond",
];

/// Whether `after` should replace `before`, which was written at `reported` (`None`: not by this process).
pub fn is_due(before: &Value, after: &Value, reported: Option<Timestamp>, now: Timestamp) -> bool {
    if before == after {
        return false;
    }
    if without_figures(before) != without_figures(after) {
        return true;
    }
    reported.is_none_or(|time| now.duration_since(time) >= FIGURES_EVERY)
}

fn without_figures(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, _| !FIGURES.contains(&name.as_str()));
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        // Messages count things.
        if let Some(fields) = condition.as_object_mut() {
            fields.retain(|name, _| name != "message");
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(recorded: u64, succeeded: &str) -> Value {
        json!({ "recorded": recorded, "conditions": [
            { "type": "Succeeded", "status": succeeded, "message": format!("{recorded} recorded") } ] })
    }

    #[test]
    fn equal_statuses_are_never_written() {
        assert!(!is_due(&status(1, "Unknown"), &status(1, "Unknown"), None, at(0)));
    }

    #[test]
    fn figures_wait_thirty_seconds_and_conditions_do_not() {
        let (one, two) = (status(1, "Unknown"), status(2, "Unknown"));
        assert!(!is_due(&one, &two, Some(at(100)), at(129)));
        assert!(is_due(&one, &two, Some(at(100)), at(130)));
        assert!(is_due(&one, &two, None, at(100)), "after a restart nobody knows when");
        assert!(is_due(&one, &status(1, "True"), Some(at(100)), at(100)));
    }
}
