//! Output of a command as it comes: its beginning and its end within a bound, and the mark that ends it.

/// Bytes kept of each end; what a harness shows is far less.
const HALF_BYTES: usize = 512 * 1024;

/// Collects output until the mark shows up.
#[derive(Debug)]
pub(super) struct Capture {
    mark: Vec<u8>,
    head: Vec<u8>,
    tail: Vec<u8>,
    omitted_bytes: u64,
}

/// A finished capture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Captured {
    /// The output, with a line in place of what was left out.
    pub output: String,
    /// Whether something was left out.
    pub truncated: bool,
}

impl Capture {
    pub(super) fn new(mark: &str) -> Self {
        Self { mark: mark.as_bytes().to_vec(), head: Vec::new(), tail: Vec::new(), omitted_bytes: 0 }
    }

    /// Takes what came. `Some` with the line after the mark once that line is complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<String> {
        // The mark may lie across two reads, so the search begins before what is new.
        let from = self.tail.len().saturating_sub(self.mark.len() + MARK_LINE_BYTES_MAX);
        self.tail.extend_from_slice(bytes);
        let found = find(self.tail.get(from..).unwrap_or_default(), &self.mark).map(|at| at + from);
        if let Some(at) = found {
            let line_start = at + self.mark.len();
            let rest = self.tail.get(line_start..).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
            self.tail.truncate(at);
            return Some(line);
        }
        self.shrink();
        None
    }

    fn shrink(&mut self) {
        if self.head.is_empty() && self.tail.len() > 2 * HALF_BYTES {
            self.head = self.tail.get(..HALF_BYTES).unwrap_or_default().to_vec();
            self.tail.drain(..HALF_BYTES);
        }
        if !self.head.is_empty() && self.tail.len() > 2 * HALF_BYTES {
            let excess = self.tail.len() - HALF_BYTES;
            self.tail.drain(..excess);
            self.omitted_bytes += excess as u64;
        }
    }

    pub(super) fn finish(self) -> Captured {
        let head = String::from_utf8_lossy(&self.head);
        let tail = String::from_utf8_lossy(&self.tail);
        let truncated = self.omitted_bytes > 0;
        let output = if truncated {
            format!("{head}\n[... {} bytes left out ...]\n{tail}", self.omitted_bytes)
        } else {
            format!("{head}{tail}")
        };
        Captured { output, truncated }
    }
}

/// Longest line after the mark: an exit code and a path.
const MARK_LINE_BYTES_MAX: usize = 8 * 1024;

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_comes_in_pieces_ends_the_output() {
        let mut capture = Capture::new("\u{1}END ");
        assert_eq!(capture.push(b"out\n\x01E"), None);
        assert_eq!(capture.push(b"ND 0 /w"), None);
        assert_eq!(capture.push(b"d\nmore"), Some("0 /wd".to_owned()));
        assert_eq!(capture.finish(), Captured { output: "out\n".to_owned(), truncated: false });
    }

    #[test]
    fn of_endless_output_both_ends_are_kept() {
        let mut capture = Capture::new("\u{1}END ");
        assert_eq!(capture.push(b"first "), None);
        for _ in 0..4096 {
            assert_eq!(capture.push(&[b'x'; 1024]), None);
        }
        assert!(capture.tail.len() + capture.head.len() <= 3 * HALF_BYTES);
        assert!(capture.push(b" last\x01END 0 /\n").is_some());
        let captured = capture.finish();
        assert!(captured.truncated && captured.output.starts_with("first "), "{}", captured.output.len());
        assert!(captured.output.ends_with(" last"));
    }
}
