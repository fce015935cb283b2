//! Reading single fields of records that others wrote: strings that may be numbers, content that may be parts.

use serde_json::{Map, Value};

/// What stands for an image in a text.
const IMAGE_PLACEHOLDER: &str = "[image]";

/// Why a record was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is not a JSON object.
    #[error("the record is not a JSON object")]
    NotAnObject,
    /// A field that the format needs is missing or null.
    #[error("field `{0}` is missing")]
    Missing(String),
    /// A field has another type.
    #[error("field `{field}` is not {expected}")]
    Type {
        /// Its name, with the path to it.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A message's role is not known.
    #[error("message {index} has the unknown role `{role}`")]
    Role {
        /// 0-based.
        index: usize,
        /// As written, cut.
        role: String,
    },
    /// There are too many messages.
    #[error("the record has more than {0} messages")]
    TooManyMessages(usize),
    /// A stored trajectory does not read back.
    #[error("the stored trajectory does not read back: {0}")]
    Stored(String),
    /// The format was not recognised.
    #[error("the format is not recognised; name it, or leave the file out")]
    Unrecognised,
}

pub(super) type Record = Map<String, Value>;

pub(super) fn object(value: Value) -> Result<Record, RecordError> {
    match value {
        Value::Object(record) => Ok(record),
        _ => Err(RecordError::NotAnObject),
    }
}

pub(super) fn mismatch(field: impl Into<String>, expected: &'static str) -> RecordError {
    RecordError::Type { field: field.into(), expected }
}

/// A required text; numbers are taken as their text, since ids may be either.
pub(super) fn take_text(record: &mut Record, field: &str) -> Result<String, RecordError> {
    take_optional_text(record, field)?.ok_or_else(|| RecordError::Missing(field.to_owned()))
}

/// A text that may be missing or null.
pub(super) fn take_optional_text(record: &mut Record, field: &str) -> Result<Option<String>, RecordError> {
    match record.shift_remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(mismatch(field, "a string")),
    }
}

pub(super) fn take_list(record: &mut Record, field: &str, limit: usize) -> Result<Vec<Value>, RecordError> {
    match record.shift_remove(field) {
        None | Some(Value::Null) => Err(RecordError::Missing(field.to_owned())),
        Some(Value::Array(items)) if items.len() > limit => Err(RecordError::TooManyMessages(limit)),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(mismatch(field, "a list")),
    }
}

/// A claim that may be written as a boolean or as 0 and 1.
pub(super) fn truth(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(claim) => Some(*claim),
        Value::Number(number) if number.as_f64() == Some(1.0) => Some(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Some(false),
        _ => None,
    }
}

/// Message content: a string, null (empty), or a list of parts whose texts are joined by newlines.
pub(super) fn content(value: Option<&Value>, field: &str) -> Result<String, RecordError> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let texts: Result<Vec<String>, RecordError> =
                parts.iter().map(|part| part_text(part, field)).collect();
            Ok(texts?.join("\n"))
        }
        Some(Value::Object(_)) => value.map_or_else(|| Ok(String::new()), |part| part_text(part, field)),
        Some(_) => Err(mismatch(field, "a string or a list of parts")),
    }
}

fn part_text(part: &Value, field: &str) -> Result<String, RecordError> {
    match part {
        Value::String(text) => Ok(text.clone()),
        Value::Object(members) => match (members.get("text"), members.get("type").and_then(Value::as_str)) {
            (Some(Value::String(text)), _) => Ok(text.clone()),
            (_, Some(kind)) if kind.contains("image") => Ok(IMAGE_PLACEHOLDER.to_owned()),
            _ => Err(mismatch(field, "made of text parts")),
        },
        _ => Err(mismatch(field, "made of text parts")),
    }
}
