//! Reading JSON that others wrote.
//!
//! `serde_json` does the work. Two things are added: unpaired surrogate escapes, which models do write, are read as
//! U+FFFD instead of ending the record (rule A2), and the nesting depth is bounded, so that a hostile record cannot
//! exhaust the stack. Numbers outside the range of a double are an error, as JSON leaves them to the reader.

use std::borrow::Cow;

use serde_json::Value;

/// Arrays and objects may nest this deep. It is `serde_json`'s own limit, and no known format comes near it.
pub const MAX_DEPTH: usize = 128;

/// Why bytes are not the JSON that was expected.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The bytes are not UTF-8.
    #[error("the text is not UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
    /// The text is not JSON, is cut off, nests deeper than [`MAX_DEPTH`] or holds a number that no double can hold.
    #[error("the text is not valid JSON")]
    Syntax(#[source] serde_json::Error),
}

impl JsonError {
    /// The whole chain on one line, for a list of refused records.
    pub fn reason(&self) -> String {
        match self {
            Self::Utf8(source) => format!("{self}: {source}"),
            Self::Syntax(source) => format!("{self}: {source}"),
        }
    }
}

/// Parses one JSON value.
///
/// # Errors
/// [`JsonError`] as its variants say.
pub fn parse_bytes(bytes: &[u8]) -> Result<Value, JsonError> {
    parse(std::str::from_utf8(bytes).map_err(JsonError::Utf8)?)
}

/// Parses one JSON value from text.
///
/// # Errors
/// [`JsonError::Syntax`].
pub fn parse(text: &str) -> Result<Value, JsonError> {
    serde_json::from_str(&repair_surrogates(text)).map_err(JsonError::Syntax)
}

/// Replaces the escape of every unpaired surrogate by that of U+FFFD; other text is left as it is.
fn repair_surrogates(text: &str) -> Cow<'_, str> {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (kept, used) = match surrogate(escape) {
            Some(Surrogate::High) if surrogate(tail(escape, 6)) == Some(Surrogate::Low) => {
                (escape.get(..12), 12)
            }
            Some(_) => (Some("\\ufffd"), 6),
            // A backslash and the character it escapes; that character may take several bytes in broken text.
            None => {
                let used = 1 + escape.chars().nth(1).map_or(0, char::len_utf8);
                (escape.get(..used), used)
            }
        };
        out.push_str(kept.unwrap_or_default());
        rest = tail(escape, used);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[derive(PartialEq, Eq)]
enum Surrogate {
    High,
    Low,
}

/// Reads the `\uXXXX` at the start of `text` if it is the escape of a surrogate.
fn surrogate(text: &str) -> Option<Surrogate> {
    let unit = u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()?;
    match unit {
        0xD800..=0xDBFF => Some(Surrogate::High),
        0xDC00..=0xDFFF => Some(Surrogate::Low),
        _ => None,
    }
}

fn tail(text: &str, from: usize) -> &str {
    text.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpaired_surrogates_become_replacement_characters() {
        let read = |text: &str| parse(text).unwrap().as_str().unwrap().to_owned();
        assert_eq!(read(r#""\ud800""#), "\u{fffd}");
        assert_eq!(read(r#""a\udc00b""#), "a\u{fffd}b");
        assert_eq!(read(r#""\ud83d\ude00""#), "😀");
        assert_eq!(read(r#""\uD83D\uD83D\uDE00""#), "\u{fffd}😀");
        assert_eq!(read(r#""\\ud800""#), "\\ud800", "an escaped backslash starts no escape");
    }

    #[test]
    fn hostile_text_is_an_error_and_never_a_panic() {
        for text in
            ["1e999", "\"\\ud", "\"\\ud80", "\\", "{\"a\":", "\"\\é\\ud800\"", "NaN", "", "\"\\ud800\\"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(200_000)).is_err());
        assert!(parse(&"{\"a\":".repeat(200_000)).is_err());
        assert!(matches!(parse_bytes(b"\"\xff\""), Err(JsonError::Utf8(_))));
    }

    #[test]
    fn the_last_of_duplicate_names_wins() {
        assert_eq!(parse(r#"{"a":1,"a":2}"#).unwrap()["a"], 2);
    }
}
