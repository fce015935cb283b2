//! Decimal numbers as strings: the API conventions allow no floats in a spec.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de};

/// A decimal number such as `0.5`, `1` or `3e-7`, kept as the user wrote it.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Decimal(String);

/// A text that is not a decimal number.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a decimal number: write it like \"0.5\", \"1\" or \"3e-7\", in quotes")]
pub struct InvalidDecimal(String);

/// Longest text: sixteen significant digits, a sign, a point and an exponent.
const LENGTH_MAX: usize = 24;
/// What a text must match; the API server checks the same pattern.
const PATTERN: &str = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?(e-?[0-9]{1,2})?$";

impl Decimal {
    /// Reads a decimal number.
    ///
    /// # Errors
    /// [`InvalidDecimal`] when the text does not match the pattern that the schema shows.
    pub fn parse(text: &str) -> Result<Self, InvalidDecimal> {
        let invalid = || InvalidDecimal(text.chars().take(40).collect());
        if text.len() > LENGTH_MAX || !is_decimal(text) {
            return Err(invalid());
        }
        Ok(Self(text.to_owned()))
    }

    /// A constant of ours: `text` where it is a decimal number, else zero (a test reads every default back).
    pub(crate) fn constant(text: &str) -> Self {
        Self(if is_decimal(text) { text.to_owned() } else { "0".to_owned() })
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest double.
    pub fn to_f64(&self) -> f64 {
        // The pattern is a subset of what `f64` reads, so the fallback is unreachable.
        self.0.parse().unwrap_or(0.0)
    }
}

fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once('e').map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let whole_is_plain = digits(whole) && (whole == "0" || !whole.starts_with('0'));
    let exponent_is_short = exponent.is_none_or(|e| {
        let e = e.strip_prefix('-').unwrap_or(e);
        digits(e) && e.len() <= 2
    });
    whole_is_plain && fraction.is_none_or(digits) && exponent_is_short
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl JsonSchema for Decimal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": LENGTH_MAX, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them_are_read() {
        for (text, value) in [("0", 0.0), ("0.5", 0.5), ("3e-7", 3e-7), ("-1.25", -1.25), ("10", 10.0)] {
            assert!((Decimal::parse(text).unwrap().to_f64() - value).abs() < 1e-15, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_an_example() {
        for text in ["", ".5", "1.", "01", "NaN", "inf", "1e", "1e100", "0x1", "1,5", "1e5.0", "--1"] {
            let error = Decimal::parse(text).unwrap_err().to_string();
            assert!(error.contains("\"0.5\""), "{text}: {error}");
        }
        assert!(Decimal::parse(&"1".repeat(25)).is_err());
    }
}
