//! `tojson` as Hugging Face templates expect it: Python's `json.dumps(value, ensure_ascii=False)`.
//!
//! minijinja's own filter prints compact JSON and escapes `<`, `>`, `&` and `'` for HTML, which silently changes prompts.

use std::io::{Error as IoError, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The filter; `indent=n` is the one option that templates use.
pub fn tojson(value: &Value, options: &Kwargs) -> Result<Value, Error> {
    let indent: Option<u8> = options.get("indent")?;
    // Templates pass these with the only values that are in use; accepting them keeps the template running.
    let _: Option<Value> = options.get("ensure_ascii")?;
    let _: Option<Value> = options.get("separators")?;
    let _: Option<Value> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let text = match indent {
        None => write_with(value, PythonSpacing),
        Some(width) => {
            write_with(value, PrettyFormatter::with_indent(" ".repeat(usize::from(width)).as_bytes()))
        }
    };
    text.map(Value::from_safe_string)
}

fn write_with<F: Formatter>(value: &Value, formatter: F) -> Result<String, Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "the value has no JSON form").with_source(error)
    })?;
    String::from_utf8(bytes)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, "the JSON is not UTF-8").with_source(error))
}

/// `", "` between members and `": "` after names, as `json.dumps` writes them.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<(), IoError> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<(), IoError> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<(), IoError> {
        writer.write_all(b": ")
    }
}
