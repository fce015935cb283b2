//! The columns that `kubectl get` shows, from the same definitions, evaluated without an API server.

use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_reconcile::port::Kind;
use serde_json::Value;

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Header.
    pub name: String,
    path: String,
    is_date: bool,
}

/// The columns of a kind; `wide` adds those of lower priority.
pub fn columns(kind: Kind, wide: bool) -> Vec<Column> {
    let definitions = sealign_crds::generate::definitions();
    let definition = definitions.into_iter().find(|definition| definition.spec.names.kind == kind.name());
    let version = definition.and_then(|definition| definition.spec.versions.into_iter().next());
    let columns = version.and_then(|version| version.additional_printer_columns).unwrap_or_default();
    columns
        .into_iter()
        .filter(|column| wide || column.priority.unwrap_or(0) == 0)
        .map(|column| Column { name: column.name, path: column.json_path, is_date: column.type_ == "date" })
        .collect()
}

/// The kind that a person means: its name, plural or short name, in any case.
pub fn kind_of(text: &str) -> Option<Kind> {
    let text = text.to_lowercase();
    Kind::OURS.into_iter().find(|kind| {
        let own = [kind.name().to_lowercase(), kind.plural().to_owned(), kind.short().to_owned()];
        own.contains(&text)
    })
}

impl Column {
    /// What the column shows of an object.
    pub fn cell(&self, object: &Value, now: Timestamp) -> String {
        let Some(value) = resolve(object, &self.path) else { return String::new() };
        match value {
            Value::String(text) if self.is_date => {
                text.parse().map_or_else(|_| text.clone(), |then| age(then, now))
            }
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

/// The object as JSON, as columns look at it.
pub fn as_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The JSONPath subset of our columns: `.a.b` and `.list[?(@.key=="value")].field`.
fn resolve<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let Some((before, filter)) = path.split_once("[?(@.") else {
        return path
            .split('.')
            .filter(|part| !part.is_empty())
            .try_fold(value, |value, part| value.get(part));
    };
    let (condition, after) = filter.split_once(")]")?;
    let (field, wanted) = condition.split_once("==")?;
    let wanted = wanted.trim_matches('"');
    let items = resolve(value, before)?.as_array()?;
    let item = items.iter().find(|item| item.get(field).and_then(Value::as_str) == Some(wanted))?;
    resolve(item, after)
}

/// The time since `then`, in kubectl's manner: one or two units.
fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_column_of_ours_is_understood() {
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Completed" });
        let object = json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" }, "status": {
            "conditions": [condition("Succeeded"), condition("Ready"), condition("Promoted")],
            "attempts": 1, "recorded": 1, "outcomes": { "Resolved": 1 }, "tokens": 1, "taskCount": 1, "healthy": 1,
            "afterFiltering": 1, "successful": 1, "criticalPairs": 1, "stage": "sft", "progress": "1/2", "loss": "0.1",
            "total": 1, "resolved": 1, "resolvedPercent": "100" } });
        let now = "2026-01-01T00:05:07Z".parse().unwrap();
        for kind in Kind::OURS {
            for column in columns(kind, true) {
                let cell = column.cell(&object, now);
                assert!(!cell.is_empty(), "{}: {}", kind.name(), column.name);
                assert!(column.name != "Age" || cell == "5m7s", "{cell}");
            }
        }
    }

    #[test]
    fn kinds_have_the_names_that_kubectl_takes() {
        for text in ["AlignmentRun", "alignmentruns", "align", "ALIGN"] {
            assert_eq!(kind_of(text), Some(Kind::AlignmentRun), "{text}");
        }
        assert_eq!(kind_of("job"), None);
    }
}
