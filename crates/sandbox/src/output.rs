//! Moving bytes between the server and a child without ever waiting on one pipe alone, and keeping of an output only what
//! the runner asked for. Start at [`Drain`], [`Feed`] and [`wait`].

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::os;
use crate::protocol::Output;

/// How much one read takes from a pipe.
const READ_BYTES: usize = 64 * 1024;

/// The beginning and the end of a stream, at most `cap` bytes together.
#[derive(Debug, Default)]
pub struct HeadTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_cap: usize,
    tail_cap: usize,
    total: u64,
}

impl HeadTail {
    /// Keeps at most `cap` bytes, half from each side.
    pub fn new(cap: usize) -> Self {
        Self { head_cap: cap / 2, tail_cap: cap - cap / 2, ..Self::default() }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let room = self.head_cap.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        self.head.extend_from_slice(first);
        let rest = rest.get(rest.len().saturating_sub(self.tail_cap)..).unwrap_or_default();
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_cap);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// What was kept, as text. Where something was left out, a character cut in two at the gap counts as left out.
    pub fn into_output(self) -> Output {
        let Self { mut head, tail, total, .. } = self;
        let mut tail = Vec::from(tail);
        let kept = |head: &[u8], tail: &[u8]| u64::try_from(head.len() + tail.len()).unwrap_or(u64::MAX);
        if total == kept(&head, &tail) {
            head.append(&mut tail);
            return Output {
                head: String::from_utf8_lossy(&head).into_owned(),
                total_bytes: total,
                ..Output::default()
            };
        }
        head.truncate(whole_characters(&head));
        let split = tail.iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
        tail.drain(..split);
        let omitted_bytes = total.saturating_sub(kept(&head, &tail));
        Output {
            head: String::from_utf8_lossy(&head).into_owned(),
            tail: String::from_utf8_lossy(&tail).into_owned(),
            total_bytes: total,
            omitted_bytes,
        }
    }
}

/// Length of `bytes` without an unfinished UTF-8 character at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let Some(back) = bytes.iter().rev().take(4).position(|&byte| byte & 0xc0 != 0x80) else {
        return bytes.len();
    };
    let start = bytes.len() - 1 - back;
    let needed = match bytes.get(start) {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    if back + 1 < needed { start } else { bytes.len() }
}

/// The reading end of a child's output.
#[derive(Debug)]
pub struct Drain {
    reader: Option<PipeReader>,
}

impl Drain {
    /// Reads from `reader` without blocking from now on.
    pub fn new(reader: PipeReader) -> io::Result<Self> {
        os::set_nonblocking(reader.as_fd())?;
        Ok(Self { reader: Some(reader) })
    }

    /// Whether some process still holds the writing end.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// Bytes that wait to be read.
    pub fn pending(&self) -> usize {
        self.reader.as_ref().and_then(|reader| os::pending_bytes(reader.as_fd()).ok()).unwrap_or(0)
    }

    /// Reads once what is there, at most `limit` bytes, into `take`; returns how much that was.
    pub fn read(&mut self, limit: usize, take: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let mut chunk = vec![0; READ_BYTES.min(limit)];
        match reader.read(&mut chunk) {
            Ok(0) if limit > 0 => {
                self.reader = None;
                Ok(0)
            }
            Ok(count) => {
                take(chunk.get(..count).unwrap_or_default());
                Ok(count)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads exactly what waits at this moment. A process that keeps writing cannot hold the caller here.
    pub fn read_pending(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = self.pending();
        while left > 0 {
            match self.read(left, take)? {
                0 => return Ok(()),
                count => left = left.saturating_sub(count),
            }
        }
        Ok(())
    }
}

/// The writing end of a child's input, with bytes that wait to be sent.
#[derive(Debug)]
pub struct Feed {
    writer: Option<PipeWriter>,
    bytes: Vec<u8>,
    sent: usize,
}

impl Feed {
    /// Writes to `writer` without blocking from now on.
    pub fn new(writer: PipeWriter) -> io::Result<Self> {
        os::set_nonblocking(writer.as_fd())?;
        Ok(Self { writer: Some(writer), bytes: Vec::new(), sent: 0 })
    }

    /// Queues `bytes` behind what is left of the earlier ones.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.sent);
        self.sent = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether everything queued was sent, or can't be any more.
    pub fn is_done(&self) -> bool {
        self.writer.is_none() || self.sent == self.bytes.len()
    }

    /// Closes the pipe: the child reads an end of file.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Sends what the pipe takes now. A child that closed its input ends the sending, not the child.
    pub fn write(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) else { return };
        match writer.write(rest) {
            Ok(count) => self.sent += count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.writer = None,
        }
    }
}

/// Waits until something can be read or sent, at most `patience`.
pub fn wait(drains: &[&Drain], feed: &Feed, patience: Duration) -> io::Result<()> {
    let readable: Vec<BorrowedFd<'_>> =
        drains.iter().filter_map(|drain| drain.reader.as_ref().map(PipeReader::as_fd)).collect();
    let writer = feed.writer.as_ref().filter(|_| !feed.is_done()).map(PipeWriter::as_fd);
    os::wait_ready(&readable, writer.as_slice(), patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cap: usize, pieces: &[&[u8]]) -> Output {
        let mut kept = HeadTail::new(cap);
        for piece in pieces {
            kept.push(piece);
        }
        kept.into_output()
    }

    #[test]
    fn output_within_the_cap_is_whole_and_cut_output_says_how_much_is_missing() {
        let whole = kept(6, &[b"ab", b"cdef"]);
        assert_eq!((whole.text().as_str(), whole.omitted_bytes), ("abcdef", 0));
        let cut = kept(6, &[b"abcd", b"efgh", b"ij"]);
        assert_eq!((cut.head.as_str(), cut.tail.as_str()), ("abc", "hij"));
        assert_eq!((cut.total_bytes, cut.omitted_bytes), (10, 4));
        assert_eq!(cut.text(), "abc\n[... 4 of 10 bytes left out ...]\nhij");
    }

    #[test]
    fn how_the_stream_was_split_does_not_matter() {
        let bytes: Vec<u8> = (b'a'..=b'z').cycle().take(1000).collect();
        let expected = kept(101, &[&bytes]);
        for size in [1, 2, 7, 50, 51, 99, 1000] {
            assert_eq!(kept(101, &bytes.chunks(size).collect::<Vec<_>>()), expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_character_cut_at_the_gap_is_left_out_and_foreign_bytes_are_replaced() {
        let cut = kept(5, &["aéxxxxéb".as_bytes()]);
        assert_eq!((cut.head.as_str(), cut.tail.as_str(), cut.omitted_bytes), ("a", "éb", 6));
        let foreign = kept(10, &[b"a\xffb"]);
        assert_eq!(foreign.head, "a\u{fffd}b");
    }

    #[test]
    fn a_cap_of_zero_only_counts() {
        let none = kept(0, &[b"abc"]);
        assert_eq!((none.total_bytes, none.omitted_bytes), (3, 3));
    }
}
