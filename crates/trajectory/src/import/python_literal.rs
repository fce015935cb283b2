//! Python dictionary literals, as far as OpenHands 0.13 wrote the editor's arguments in them (specs 1.3, rule A14).

use serde_json::{Map, Value};

/// How deep lists and dictionaries may nest; the editor's arguments need two levels.
const MAX_DEPTH: usize = 16;

/// The arguments of `print(file_editor(**{...}))`, or `None` for other code.
pub(super) fn editor_call(code: &str) -> Option<Map<String, Value>> {
    let literal = code.trim().strip_prefix("print(file_editor(**")?.strip_suffix("))")?;
    let mut reader = Reader { rest: literal };
    let value = reader.value(0)?;
    reader.skip_blanks();
    match value {
        Value::Object(members) if reader.rest.is_empty() => Some(members),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip_blanks();
        if depth > MAX_DEPTH {
            return None;
        }
        match self.rest.chars().next()? {
            '{' => self.dictionary(depth),
            '[' => self.list(depth),
            '\'' | '"' => self.string().map(Value::String),
            _ => self.word(),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.take('{')?;
        let mut members = Map::new();
        while self.take('}').is_none() {
            self.skip_blanks();
            let name = self.string()?;
            self.take(':')?;
            members.insert(name, self.value(depth + 1)?);
            if self.take(',').is_none() {
                self.take('}')?;
                break;
            }
        }
        Some(Value::Object(members))
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        self.take('[')?;
        let mut items = Vec::new();
        while self.take(']').is_none() {
            items.push(self.value(depth + 1)?);
            if self.take(',').is_none() {
                self.take(']')?;
                break;
            }
        }
        Some(Value::Array(items))
    }

    fn string(&mut self) -> Option<String> {
        let mut characters = self.rest.char_indices();
        let (_, quote) = characters.next().filter(|(_, quote)| matches!(quote, '\'' | '"'))?;
        let mut out = String::new();
        while let Some((at, character)) = characters.next() {
            if character == quote {
                self.rest = self.rest.get(at + 1..)?;
                return Some(out);
            }
            if character != '\\' {
                out.push(character);
                continue;
            }
            let mut code = |digits: usize| {
                let text: String = characters.by_ref().take(digits).map(|(_, digit)| digit).collect();
                char::from_u32(u32::from_str_radix(&text, 16).ok()?)
            };
            match self.rest.get(at + 1..)?.chars().next()? {
                'x' => out.push({
                    code(1);
                    code(2)?
                }),
                'u' => out.push({
                    code(1);
                    code(4)?
                }),
                'U' => out.push({
                    code(1);
                    code(8)?
                }),
                _ => match characters.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    '0' => out.push('\0'),
                    '\n' => {}
                    quoted @ ('\\' | '\'' | '"') => out.push(quoted),
                    other => out.extend(['\\', other]),
                },
            }
        }
        None
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', '}', ']', ':']).unwrap_or(self.rest.len());
        let word = self.rest.get(..end)?.trim();
        let value = match word {
            "None" => Value::Null,
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            number => crate::json::parse(number).ok().filter(Value::is_number)?,
        };
        self.rest = self.rest.get(end..)?;
        Some(value)
    }

    fn take(&mut self, expected: char) -> Option<()> {
        self.skip_blanks();
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_editors_arguments_are_read_from_python() {
        let code = r#"print(file_editor(**{'command': 'str_replace', "new_str": "it's\n\x41\u00e9", 'view_range': [1, -1], 'x': None, 'y': True,}))"#;
        let expected = serde_json::json!({"command": "str_replace", "new_str": "it's\nAé", "view_range": [1, -1], "x": null, "y": true});
        assert_eq!(Value::Object(editor_call(code).unwrap()), expected);
    }

    #[test]
    fn other_code_is_not_taken_for_it() {
        for code in [
            "print(1)",
            "print(file_editor(**{'a': open('x')}))",
            "print(file_editor(**{'a': 'b'))",
            "print(file_editor(**{'a': '\\",
        ] {
            assert!(editor_call(code).is_none(), "{code}");
        }
        assert!(editor_call(&format!("print(file_editor(**{{'a':{}))", "[".repeat(100_000))).is_none());
    }
}
