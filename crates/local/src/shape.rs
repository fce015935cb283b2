//! Structural schemas: what an object's fields may be, defaults filled in, and errors that name the field and the remedy.
//!
//! It reads the part of OpenAPI v3 that our own definitions use and does with it what an API server does on a strict
//! create: unknown fields are errors, nulls of optional fields are absent fields, defaults are filled in at every depth.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use regex::Regex;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};

/// Problems that one object is told of at once; more would bury the first.
pub const PROBLEMS_MAX: usize = 20;
/// Characters of a value that a message repeats.
const SHOWN_MAX: usize = 60;
/// Field names that a message lists when none is near.
const LISTED_MAX: usize = 24;
/// Least likeness (0 to 1) of a known field for a message to propose it.
const LIKENESS_MIN: f64 = 0.7;

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, for example `spec.policies[0].model`.
    pub path: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.path, self.text)
    }
}

/// The schema of a value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shape {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    format: Option<String>,
    default: Option<Value>,
    properties: BTreeMap<String, Shape>,
    required: Vec<String>,
    additional_properties: Option<Box<Shape>>,
    max_properties: Option<u64>,
    items: Option<Box<Shape>>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    #[serde(rename = "enum")]
    choices: Vec<Value>,
    #[serde(deserialize_with = "pattern")]
    pattern: Option<Regex>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    is_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Object => "a mapping",
            Self::Array => "a list",
            Self::String => "a text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "true or false",
        }
    }
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Regex>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| Regex::new(&text).map_err(de::Error::custom))
        .transpose()
}

impl Shape {
    /// The shape of a field.
    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties.get(name)
    }

    /// `value` with nulls taken out and defaults filled in.
    pub fn complete(&self, value: &Value) -> Value {
        match value {
            Value::Object(members) if !self.is_open => {
                let mut full: Map<String, Value> = Map::new();
                for (name, member) in members.iter().filter(|(_, member)| !member.is_null()) {
                    let shape = self.properties.get(name).or(self.additional_properties.as_deref());
                    full.insert(name.clone(), shape.map_or_else(|| member.clone(), |s| s.complete(member)));
                }
                for (name, shape) in &self.properties {
                    if let Some(default) = shape.default.as_ref().filter(|_| !full.contains_key(name)) {
                        full.insert(name.clone(), shape.complete(default));
                    }
                }
                Value::Object(full)
            }
            Value::Array(items) => match &self.items {
                Some(shape) => Value::Array(items.iter().map(|item| shape.complete(item)).collect()),
                None => value.clone(),
            },
            _ => value.clone(),
        }
    }

    /// Adds what is wrong with `value` at `path`, up to [`PROBLEMS_MAX`] problems.
    pub fn check(&self, path: &str, value: &Value, problems: &mut Vec<Problem>) {
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        let mut report = |text: String| problems.push(Problem { path: path.to_owned(), text });
        match (self.kind, value) {
            (Some(Kind::Object), Value::Object(members)) => self.check_members(path, members, problems),
            (Some(Kind::Array), Value::Array(items)) => self.check_items(path, items, problems),
            (Some(Kind::String), Value::String(text)) => {
                if let Some(problem) = self.text_problem(text) {
                    report(problem);
                }
            }
            (Some(kind @ (Kind::Integer | Kind::Number)), Value::Number(number)) => {
                if let Some(problem) = self.number_problem(kind, number) {
                    report(problem);
                }
            }
            (Some(Kind::Boolean), Value::Bool(_)) | (None, _) => {}
            (Some(kind), other) => report(type_problem(kind, other)),
        }
    }

    fn check_members(&self, path: &str, members: &Map<String, Value>, problems: &mut Vec<Problem>) {
        // A misspelt field is one mistake, not a missing and an unknown field.
        let known = || self.properties.keys().map(String::as_str);
        let meant: BTreeSet<&str> = members
            .keys()
            .filter(|name| !self.properties.contains_key(*name))
            .filter_map(|name| nearest(name, known()))
            .collect();
        for name in &self.required {
            if !members.contains_key(name) && !meant.contains(name.as_str()) {
                let text = "is missing; it has to be given".to_owned();
                problems.push(Problem { path: join(path, name), text });
            }
        }
        if self.max_properties.is_some_and(|most| members.len() as u64 > most) {
            let most = self.max_properties.unwrap_or_default();
            let text = format!("has {} entries; at most {most} are allowed", members.len());
            problems.push(Problem { path: path.to_owned(), text });
        }
        for (name, member) in members {
            match self.properties.get(name).or(self.additional_properties.as_deref()) {
                Some(shape) => shape.check(&join(path, &shown(name)), member, problems),
                None if self.is_open => {}
                None => {
                    let text = unknown_field(name, self.properties.keys());
                    problems.push(Problem { path: join(path, &shown(name)), text });
                }
            }
        }
    }

    fn check_items(&self, path: &str, items: &[Value], problems: &mut Vec<Problem>) {
        let count = items.len() as u64;
        if self.min_items.is_some_and(|least| count < least) {
            let least = self.min_items.unwrap_or_default();
            let text = format!("has {count} items; give at least {least}");
            problems.push(Problem { path: path.to_owned(), text });
        }
        if self.max_items.is_some_and(|most| count > most) {
            let most = self.max_items.unwrap_or_default();
            let text = format!("has {count} items; at most {most} are allowed");
            problems.push(Problem { path: path.to_owned(), text });
            return;
        }
        let mut keys = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let item_path = format!("{path}[{index}]");
            if let Some(shape) = &self.items {
                shape.check(&item_path, item, problems);
            }
            let key: Vec<&Value> = self.list_keys.iter().filter_map(|name| item.get(name)).collect();
            if !key.is_empty() && !keys.insert(format!("{key:?}")) {
                let text =
                    format!("repeats the {} of an earlier item; make it unique", self.list_keys.join(", "));
                problems.push(Problem { path: item_path, text });
            }
        }
    }

    fn text_problem(&self, text: &str) -> Option<String> {
        let length = text.chars().count() as u64;
        if let Some(most) = self.max_length.filter(|most| length > *most) {
            return Some(format!("has {length} characters; at most {most} are allowed"));
        }
        if let Some(least) = self.min_length.filter(|least| length < *least) {
            return Some(format!("has {length} characters; give at least {least}"));
        }
        if !self.choices.is_empty() && !self.choices.iter().any(|choice| choice == text) {
            let choices: Vec<&str> = self.choices.iter().filter_map(Value::as_str).collect();
            let near = nearest(text, choices.iter().copied());
            let remedy = near.map_or_else(
                || format!("choose one of {}", choices.join(", ")),
                |near| format!("did you mean `{near}`? It is one of {}", choices.join(", ")),
            );
            return Some(format!("`{}` is not a choice; {remedy}", shown(text)));
        }
        let pattern = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text))?;
        Some(format!("`{}` does not match; write it as the pattern {pattern} says", shown(text)))
    }

    fn number_problem(&self, kind: Kind, number: &Number) -> Option<String> {
        let value = number.as_f64().unwrap_or(f64::NAN);
        if kind == Kind::Integer && !(number.is_i64() || number.is_u64()) {
            return Some(format!("{number} is not a whole number; write it without a fraction"));
        }
        let (low, high) = match self.format.as_deref() {
            Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
            _ => (f64::MIN, f64::MAX),
        };
        let least = self.minimum.unwrap_or(low).max(low);
        let most = self.maximum.unwrap_or(high).min(high);
        if value >= least && value <= most && (kind == Kind::Number || number.is_i64()) {
            return None;
        }
        Some(match (least > f64::MIN, most < f64::MAX) {
            (true, true) => format!("{number} is out of range; give {least} to {most}"),
            (true, false) => format!("{number} is out of range; give at least {least}"),
            _ => format!("{number} is out of range; give at most {}", most.min(9_223_372_036_854_775_807.0)),
        })
    }
}

fn type_problem(kind: Kind, value: &Value) -> String {
    let given = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    let mut text = format!("must be {}, not {given}", kind.words());
    let _ = match (kind, value) {
        (Kind::String, Value::Number(number)) => write!(text, "; put it in quotes: \"{number}\""),
        (Kind::String, Value::Bool(flag)) => write!(text, "; put it in quotes: \"{flag}\""),
        (Kind::Integer | Kind::Number | Kind::Boolean, Value::String(_)) => {
            write!(text, "; write it without quotes")
        }
        (Kind::Array, _) => write!(text, "; begin each item with `- `"),
        (Kind::Object, _) => write!(text, "; write its fields indented below it"),
        _ => write!(text, "; see `kubectl explain`, or the example manifests"),
    };
    text
}

/// What to say about a field that is not one of `known`.
pub fn unknown_field<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("is not a field here; did you mean `{near}`?");
    }
    if known.is_empty() || known.len() > LISTED_MAX {
        return "is not a field here; remove it".to_owned();
    }
    format!("is not a field here; remove it (the fields are {})", known.join(", "))
}

/// The candidate that is most like `text`, where one is like it at all.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text: String = text.chars().take(SHOWN_MAX).collect::<String>().to_lowercase();
    candidates
        .map(|candidate| (strsim::jaro_winkler(&text, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `text` as a message may repeat it: short, and without control characters.
pub fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        short.push_str("...");
    }
    short
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(schema: Value) -> Shape {
        serde_json::from_value(schema).unwrap()
    }

    fn problems(schema: Value, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        shape(schema).check("spec", value, &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_filled_in_below_defaults_and_nulls_are_absent_fields() {
        let inner = json!({ "type": "object", "default": {}, "properties": { "n": { "type": "integer", "default": 3 } } });
        let outer = shape(
            json!({ "type": "object", "properties": { "inner": inner, "other": { "type": "string" } } }),
        );
        assert_eq!(outer.complete(&json!({ "other": null })), json!({ "inner": { "n": 3 } }));
        assert_eq!(outer.complete(&json!({ "inner": { "n": 4 } })), json!({ "inner": { "n": 4 } }));
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        let schema = json!({ "type": "object", "properties": { "policies": {}, "parallelism": {} } });
        let found = problems(schema.clone(), &json!({ "polices": [] }));
        assert_eq!(found, ["spec.polices: is not a field here; did you mean `policies`?"]);
        let found = problems(schema, &json!({ "xyz": 1 }));
        assert!(found[0].contains("the fields are parallelism, policies"), "{found:?}");
    }

    #[test]
    fn a_misspelt_required_field_is_one_problem() {
        let schema = json!({ "type": "object", "required": ["count"], "properties": { "count": {} } });
        assert_eq!(
            problems(schema.clone(), &json!({ "cuont": 3 })),
            ["spec.cuont: is not a field here; did you mean `count`?"]
        );
        assert_eq!(problems(schema, &json!({})), ["spec.count: is missing; it has to be given"]);
    }

    #[test]
    fn wrong_types_say_how_to_write_the_right_one() {
        let text = json!({ "type": "string" });
        assert_eq!(
            problems(text, &json!(0.5)),
            ["spec: must be a text, not a number; put it in quotes: \"0.5\""]
        );
        let number = json!({ "type": "integer" });
        assert_eq!(
            problems(number.clone(), &json!("3")),
            ["spec: must be a whole number, not a text; write it without quotes"]
        );
        assert!(problems(number, &json!(3.5))[0].contains("without a fraction"));
    }

    #[test]
    fn bounds_are_held_and_said() {
        let number = json!({ "type": "integer", "format": "int32", "minimum": 1.0 });
        assert_eq!(problems(number.clone(), &json!(0)), ["spec: 0 is out of range; give 1 to 2147483647"]);
        assert!(problems(number.clone(), &json!(9_000_000_000_i64))[0].contains("out of range"));
        assert!(problems(number, &json!(1)).is_empty());
        let text = json!({ "type": "string", "maxLength": 3 });
        assert_eq!(problems(text, &json!("abcd")), ["spec: has 4 characters; at most 3 are allowed"]);
        let list = json!({ "type": "array", "minItems": 1, "items": { "type": "string" } });
        assert_eq!(problems(list, &json!([])), ["spec: has 0 items; give at least 1"]);
    }

    #[test]
    fn items_of_a_keyed_list_are_unique() {
        let list = json!({ "type": "array", "items": { "type": "object", "properties": { "name": { "type": "string" } } },
            "x-kubernetes-list-map-keys": ["name"] });
        let found = problems(list, &json!([{ "name": "a" }, { "name": "a" }]));
        assert_eq!(found, ["spec[1]: repeats the name of an earlier item; make it unique"]);
    }

    #[test]
    fn hostile_text_is_repeated_short_and_escaped() {
        let found = problems(json!({ "type": "string", "enum": ["A"] }), &json!("\u{1b}[31m".repeat(99)));
        assert!(found[0].len() < 500 && !found[0].contains('\u{1b}'), "{found:?}");
    }
}
