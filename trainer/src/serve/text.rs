//! From generated ids to text, token by token, with stop strings.

use sealign_batch::Tokenizer;
use sealign_batch::tokenizer::TokenizerError;

/// The text of an answer while it grows.
///
/// A token may end in the middle of a character, and some decoders look at the token before, so text is committed only when
/// decoding a window of recent tokens yields whole characters.
#[derive(Debug, Default)]
pub struct AnswerText {
    ids: Vec<u32>,
    /// First token of the window, and first token that is not committed.
    window: usize,
    committed: usize,
    text: String,
    stops: Vec<String>,
}

impl AnswerText {
    /// An empty answer that ends at any of the stop strings.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), ..Self::default() }
    }

    /// Adds a token. Returns the stop string that now appears; the text then ends before it.
    pub fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<Option<String>, TokenizerError> {
        self.ids.push(id);
        let before = self.decode(self.window, self.committed, tokenizer)?;
        let now = self.decode(self.window, self.ids.len(), tokenizer)?;
        if now.len() <= before.len() || now.ends_with('\u{FFFD}') {
            return Ok(None);
        }
        let added = now.get(before.len()..).unwrap_or_default();
        let old_len = self.text.len();
        self.text.push_str(added);
        self.window = self.committed;
        self.committed = self.ids.len();
        Ok(self.cut_at_stop(old_len))
    }

    /// The whole text, with what was not yet a whole character.
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        if self.committed < self.ids.len() {
            let before = self.decode(self.window, self.committed, tokenizer)?;
            let now = self.decode(self.window, self.ids.len(), tokenizer)?;
            self.text.push_str(now.get(before.len()..).unwrap_or_default());
        }
        Ok(self.text)
    }

    /// The text up to where a stop string may still begin.
    pub fn settled(&self) -> &str {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.text.len().saturating_sub(longest);
        let begins = |at: usize| {
            self.text.get(at..).is_some_and(|tail| self.stops.iter().any(|stop| stop.starts_with(tail)))
        };
        let end = (from..self.text.len()).find(|at| begins(*at)).unwrap_or(self.text.len());
        self.text.get(..end).unwrap_or_default()
    }

    /// Takes the text as it is, for an answer that a stop string ended.
    pub fn into_text(self) -> String {
        self.text
    }

    fn decode(&self, from: usize, to: usize, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        tokenizer.decode(self.ids.get(from..to).unwrap_or_default(), true)
    }

    /// Looks for a stop string that ends behind `old_len`; the earliest wins.
    fn cut_at_stop(&mut self, old_len: usize) -> Option<String> {
        let longest = self.stops.iter().map(String::len).max()?;
        let mut from = old_len.saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let tail = self.text.get(from..)?;
        let (at, stop) = self
            .stops
            .iter()
            .filter_map(|stop| Some((tail.find(stop.as_str())?, stop)))
            .min_by_key(|(at, stop)| (*at, std::cmp::Reverse(stop.len())))?;
        let stop = stop.clone();
        self.text.truncate(from + at);
        Some(stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_which_a_stop_string_may_begin_is_held_back() {
        let with = |text: &str| AnswerText {
            text: text.to_owned(),
            ..AnswerText::new(vec!["</call>".to_owned(), "\n\n".to_owned()])
        };
        for (text, settled) in [
            ("plain", "plain"),
            ("a</ca", "a"),
            ("a</cat", "a</cat"),
            ("two\n", "two"),
            ("caf\u{e9}<", "caf\u{e9}"),
        ] {
            assert_eq!(with(text).settled(), settled);
        }
    }
}
