//! How many commands a text holds: OpenHands runs one at a time and refuses several on lines of their own.
//!
//! A scanner, not a parser: it knows quotes, here-documents, brackets and the words that open and close compound
//! commands. Where it loses track (an unclosed quote, a stray closing word) it says one command, as OpenHands does when its
//! parser fails; the shell then has the last word.

/// The commands that stand on lines of their own at the top level, trimmed; the whole text where it is one.
pub(super) fn top_level(text: &str) -> Vec<&str> {
    let mut scanner =
        Scanner { text, bytes: text.as_bytes(), at: 0, depth: 0, word_start: None, expects_command: true };
    let Some(cuts) = scanner.cuts() else { return vec![text.trim()] };
    let mut commands = Vec::new();
    let mut start = 0;
    for cut in cuts.into_iter().chain([text.len()]) {
        let command = text.get(start..cut).unwrap_or_default().trim();
        if command.lines().any(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
            commands.push(command);
        }
        start = cut;
    }
    commands
}

struct Scanner<'text> {
    text: &'text str,
    bytes: &'text [u8],
    at: usize,
    /// Open brackets and compound commands.
    depth: usize,
    word_start: Option<usize>,
    /// Whether the next word is in the place of a command's name, where words like `if` mean something.
    expects_command: bool,
}

impl Scanner<'_> {
    /// Offsets of the line breaks that separate top-level commands, or `None` where the text is beyond this scanner.
    fn cuts(&mut self) -> Option<Vec<usize>> {
        let mut cuts = Vec::new();
        let mut heredocs: Vec<Heredoc> = Vec::new();
        // Set by `|`, `&&` and `||`, which let a command go on after the line break.
        let mut goes_on = false;
        while let Some(byte) = self.peek(0) {
            if is_word_byte(byte) {
                self.word_start.get_or_insert(self.at);
                goes_on = false;
                self.at += if byte == b'\\' { 2 } else { 1 };
                continue;
            }
            self.end_word()?;
            match byte {
                b'\'' | b'"' | b'`' => {
                    self.skip_quoted(byte)?;
                    (goes_on, self.expects_command) = (false, false);
                    continue;
                }
                b'#' if self.is_at_word_start() => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                    continue;
                }
                b'\n' => {
                    self.at += 1;
                    for heredoc in heredocs.drain(..) {
                        self.at += heredoc.length(self.rest())?;
                    }
                    if self.depth == 0 && !goes_on {
                        cuts.push(self.at);
                    }
                    self.expects_command = true;
                    continue;
                }
                b'<' if self.rest().starts_with("<<<") => self.at += 2,
                b'<' if self.rest().starts_with("<<") => heredocs.push(self.heredoc()?),
                b'(' => self.open(),
                b')' => self.close(),
                b'|' | b'&' => {
                    goes_on = byte == b'|' || self.peek(1) == Some(b'&');
                    self.at += usize::from(goes_on && self.peek(1) == Some(byte));
                    self.expects_command = true;
                }
                b';' => self.expects_command = true,
                _ => {}
            }
            self.at += 1;
        }
        self.end_word()?;
        (self.depth == 0 && heredocs.is_empty()).then_some(cuts)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn is_at_word_start(&self) -> bool {
        self.at == 0
            || self
                .bytes
                .get(self.at - 1)
                .is_some_and(|before| before.is_ascii_whitespace() || *before == b';')
    }

    fn open(&mut self) {
        self.depth += 1;
        self.expects_command = true;
    }

    /// The bracket after a pattern of `case` closes nothing.
    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.expects_command = true;
    }

    /// Looks at the word that ends here.
    fn end_word(&mut self) -> Option<()> {
        let Some(start) = self.word_start.take() else { return Some(()) };
        let word = self.text.get(start..self.at).unwrap_or_default();
        if !self.expects_command {
            return Some(());
        }
        match word {
            "if" | "for" | "while" | "until" | "select" | "{" => self.depth += 1,
            // Inside `case` brackets do not pair; leave it to the shell.
            "case" => return None,
            "fi" | "done" | "}" => self.depth = self.depth.checked_sub(1)?,
            _ => {}
        }
        self.expects_command =
            matches!(word, "if" | "while" | "until" | "then" | "do" | "else" | "elif" | "{" | "!" | "time");
        Some(())
    }

    /// Moves past a quoted text whose opening quote is here.
    fn skip_quoted(&mut self, quote: u8) -> Option<()> {
        self.at += 1;
        loop {
            let byte = self.peek(0)?;
            self.at += 1;
            if byte == quote {
                return Some(());
            }
            if byte == b'\\' && quote != b'\'' {
                self.at += 1;
            }
        }
    }

    /// Reads `<<WORD` or `<<-WORD`, quotes taken off; leaves the scanner on the last byte of it.
    fn heredoc(&mut self) -> Option<Heredoc> {
        self.at += 2;
        let strips_tabs = self.peek(0) == Some(b'-');
        self.at += usize::from(strips_tabs);
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let rest = rest.get(blanks..)?;
        let length = rest.find([' ', '\t', '\n', ';', '|', '&', '>', ')']).unwrap_or(rest.len());
        let word: String = rest.get(..length)?.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
        self.at += (blanks + length).checked_sub(1)?;
        (!word.is_empty()).then_some(Heredoc { word, strips_tabs })
    }
}

struct Heredoc {
    word: String,
    strips_tabs: bool,
}

impl Heredoc {
    /// Bytes up to the line break after the closing word, that line break excluded so that the command ends there.
    fn length(&self, rest: &str) -> Option<usize> {
        let mut length = 0;
        for line in rest.split_inclusive('\n') {
            length += line.len();
            let text = line.trim_end_matches('\n');
            let text = if self.strips_tabs { text.trim_start_matches('\t') } else { text };
            if text == self.word {
                return Some(length);
            }
        }
        None
    }
}

fn is_word_byte(byte: u8) -> bool {
    !byte.is_ascii_whitespace()
        && !matches!(byte, b'\'' | b'"' | b'`' | b'#' | b'<' | b'(' | b')' | b'|' | b'&' | b';')
}

#[cfg(test)]
mod tests {
    use super::top_level;

    #[test]
    fn commands_on_lines_of_their_own_are_several() {
        assert_eq!(top_level("ls\npwd"), ["ls", "pwd"]);
        assert_eq!(top_level("cd /x # go\n\npytest -q\n# done\n"), ["cd /x # go", "pytest -q"]);
        assert_eq!(top_level("if a; then\n b\nfi\necho c"), ["if a; then\n b\nfi", "echo c"]);
        assert_eq!(top_level("cat > f << 'EOF'\nx\nEOF\npython f"), ["cat > f << 'EOF'\nx\nEOF", "python f"]);
    }

    #[test]
    fn one_command_may_span_lines() {
        for text in [
            "ls",
            "",
            "echo 'a\nb'",
            "echo \"a\nb\"",
            "a &&\nb",
            "a |\n  b",
            "a || \n b",
            "a \\\n b",
            "for i in 1 2; do\n echo $i\ndone",
            "while read x; do\n y\ndone < f",
            "f() {\n a\n b\n}",
            "(\n a\n b\n)",
            "x=$(\n a\n)",
            "python - <<EOF\nimport a\nif b:\n  c\nEOF",
            "cat <<-E | wc\n\ta\n\tE\n",
            "case x in\n a) b;;\nesac",
            "echo 'unclosed\nb",
            "echo done\n",
            "grep if f; echo fi",
            "# only a comment\nls",
        ] {
            assert!(top_level(text).len() <= 1, "{text:?} gives {:?}", top_level(text));
        }
    }
}
