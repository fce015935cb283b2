//! InterCode results (specs 5.11 C18): one file per model, an object whose members are attempts with parallel lists of
//! commands and what they printed.

use serde_json::{Map, Value};

use super::conversation::{Conversation, turn};
use super::fields::{Record, RecordError, content, mismatch, object};
use super::files::{split_path, without_gz};
use super::tau_bench::reward;
use super::{Draft, Format, Place};
use crate::record::{Action, Message, ObservationPart, Role, ToolCall, Turn};

pub(super) fn read(value: Value, place: Place<'_>) -> Result<Vec<Draft>, RecordError> {
    let name = without_gz(split_path(place.path).1);
    let model = name.strip_suffix(".json").unwrap_or(name).to_owned();
    object(value)?
        .into_iter()
        .map(|(key, attempt)| read_attempt(&key, object(attempt)?, &model, place))
        .collect()
}

fn read_attempt(key: &str, mut attempt: Record, model: &str, place: Place<'_>) -> Result<Draft, RecordError> {
    let Some(Value::Object(history)) = attempt.shift_remove("turn_history") else {
        return Err(mismatch(format!("{key}.turn_history"), "an object"));
    };
    let list = |name: &str| match history.get(name) {
        Some(Value::Array(items)) if items.len() <= place.options.limits.messages => Ok(items.as_slice()),
        _ => Err(mismatch(format!("{key}.turn_history.{name}"), "a list within the limit")),
    };
    let (actions, observations) = (list("actions")?, list("observations")?);
    let turns: Vec<Turn> = actions
        .iter()
        .enumerate()
        .map(|(index, action)| step(action, observations.get(index)))
        .collect::<Result<_, _>>()?;
    let query = content(attempt.get("query"), "query")?;
    let conversation = Conversation { prompt: vec![Message { role: Role::User, content: query }], turns };
    let set = attempt.get("dataset").and_then(Value::as_str).map_or("intercode", |path| split_path(path).1);
    let task = format!("{}/{key}", set.strip_suffix(".json").unwrap_or(set));
    let count = 1 + actions.len() + observations.len();
    let mut draft = Draft::new(place, Format::Intercode, task, model, conversation, count);
    draft.trajectory.model = Some(model.to_owned());
    draft.trajectory.outcome = reward(attempt.get("summary").and_then(|summary| summary.get("max_reward")));
    draft.trajectory.extra = attempt.into_iter().collect();
    Ok(draft)
}

fn step(action: &Value, observation: Option<&Value>) -> Result<Turn, RecordError> {
    let command = content(Some(action), "actions")?;
    let arguments = Map::from_iter([("command".to_owned(), Value::String(command.clone()))]);
    let calls = vec![ToolCall { name: "bash".to_owned(), arguments }];
    let mut step = turn(Some(command), "", Action::Calls { calls });
    if let Some(observation) = observation.filter(|observation| !observation.is_null()) {
        let text = observation.as_str().map_or_else(|| observation.to_string(), str::to_owned);
        step.observation = Some(vec![ObservationPart { tool: Some("bash".to_owned()), text }]);
    }
    Ok(step)
}
