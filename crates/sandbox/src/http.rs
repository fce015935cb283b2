//! As much HTTP/1.1 as two programs of ours need: one request and one reply a connection, a fixed length, bounded
//! sizes, and a deadline over the whole exchange (not per read, so a trickle cannot hold a thread). No keep-alive, chunking,
//! upgrade or compression. Start at [`read_head`] and [`write_reply`] (server), [`encode_request`] and [`decode_reply`] (runner).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::protocol::{BODY_BYTES_MAX, ErrorCode, ErrorReply, HEAD_BYTES_MAX};
use crate::signing::{BODY_DIGEST_HEADER, COUNTER_HEADER, Credentials, POD_UID_HEADER, SIGNATURE_HEADER};

/// Most headers in a head; ours have eight.
const HEADERS_MAX: usize = 24;
/// How much one read takes from the socket.
const READ_BYTES: usize = 64 * 1024;

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    /// Through a socket file, as on one machine.
    Unix(UnixStream),
    /// Through the pod network.
    Tcp(TcpStream),
}

impl Stream {
    /// Reads once, waiting at most until `deadline`.
    fn read_until(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let wait = remaining(deadline)?;
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(wait))?;
                stream.read(buffer)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(wait))?;
                stream.read(buffer)
            }
        }
    }

    /// Writes everything, waiting at most until `deadline`.
    pub fn write_until(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let wait = remaining(deadline)?;
            let result = match self {
                Self::Unix(stream) => {
                    stream.set_write_timeout(Some(wait))?;
                    stream.write(bytes)
                }
                Self::Tcp(stream) => {
                    stream.set_write_timeout(Some(wait))?;
                    stream.write(bytes)
                }
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends what one read gives to `buffer`; false at the end of the stream.
    fn read_more(&mut self, buffer: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            match self.read_until(&mut chunk, deadline) {
                Ok(count) => {
                    buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads to the end of the stream, at most `limit` bytes.
    pub fn read_to_end(&mut self, limit: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while self.read_more(&mut bytes, deadline)? {
            if bytes.len() > limit {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("over {limit} bytes")));
            }
        }
        Ok(bytes)
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let wait = deadline.saturating_duration_since(Instant::now());
    if wait.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(wait) }
}

/// A request's head, as received.
#[derive(Debug)]
pub struct Head {
    /// The request's target.
    pub path: String,
    /// Bytes of the body.
    pub content_length: usize,
    /// The signature headers.
    pub credentials: Credentials,
    /// Bytes of the body that came with the head.
    body_start: Vec<u8>,
}

/// Reads a request's head.
pub fn read_head(stream: &mut Stream, deadline: Instant) -> Result<Head, ErrorReply> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = parse_head(&bytes)? {
            return Ok(head);
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(ErrorReply::new(
                ErrorCode::TooLarge,
                format!("request head: over {HEAD_BYTES_MAX} bytes"),
            ));
        }
        if !stream.read_more(&mut bytes, deadline).map_err(|error| broken(&error))? {
            return Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "the connection ended within the request head",
            ));
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ErrorReply> {
    let bad = |text: String| ErrorReply::new(ErrorCode::BadRequest, text);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let status = request.parse(bytes).map_err(|error| bad(format!("request head: {error}")))?;
    let httparse::Status::Complete(head_bytes) = status else { return Ok(None) };
    if head_bytes > HEAD_BYTES_MAX {
        return Err(ErrorReply::new(
            ErrorCode::TooLarge,
            format!("request head: over {HEAD_BYTES_MAX} bytes"),
        ));
    }
    if request.method != Some("POST") {
        return Err(bad("method: only POST is served".to_owned()));
    }
    let mut head = Head {
        path: request.path.unwrap_or_default().to_owned(),
        content_length: 0,
        credentials: Credentials::default(),
        body_start: bytes.get(head_bytes..).unwrap_or_default().to_vec(),
    };
    let mut length = None;
    for header in request.headers.iter() {
        let value =
            std::str::from_utf8(header.value).map_err(|_| bad(format!("{}: not UTF-8", header.name)))?;
        let field = match header.name.to_ascii_lowercase().as_str() {
            "content-length" => &mut length,
            "transfer-encoding" => {
                return Err(bad("transfer-encoding: not served; send a content-length".to_owned()));
            }
            POD_UID_HEADER => &mut head.credentials.pod_uid,
            COUNTER_HEADER => &mut head.credentials.counter,
            BODY_DIGEST_HEADER => &mut head.credentials.body_digest,
            SIGNATURE_HEADER => &mut head.credentials.signature,
            _ => continue,
        };
        if field.replace(value.trim().to_owned()).is_some() {
            return Err(bad(format!("{}: given twice", header.name)));
        }
    }
    let length = length.ok_or_else(|| bad("content-length: missing".to_owned()))?;
    head.content_length = length.parse().map_err(|_| bad("content-length: not a number".to_owned()))?;
    Ok(Some(head))
}

/// Reads the body that `head` announced; the caller has compared its length with the request's limit.
pub fn read_body(stream: &mut Stream, head: &mut Head, deadline: Instant) -> Result<Vec<u8>, ErrorReply> {
    let mut body = std::mem::take(&mut head.body_start);
    while body.len() < head.content_length {
        if !stream.read_more(&mut body, deadline).map_err(|error| broken(&error))? {
            return Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "the connection ended within the request body",
            ));
        }
    }
    if body.len() > head.content_length {
        return Err(ErrorReply::new(ErrorCode::BadRequest, "bytes behind the request body"));
    }
    Ok(body)
}

fn broken(error: &io::Error) -> ErrorReply {
    ErrorReply::new(ErrorCode::BadRequest, format!("the request did not arrive: {error}"))
}

/// Sends a reply with `status` and a JSON `body`.
pub fn write_reply(stream: &mut Stream, status: u16, body: &[u8], deadline: Instant) -> io::Result<()> {
    let reason = if status == 200 { "OK" } else { "Refused" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    stream.write_until(&bytes, deadline)
}

/// The bytes of a request with `headers` beside the fixed ones.
pub fn encode_request(path: &str, headers: &[(&'static str, String)], body: &[u8]) -> Vec<u8> {
    let mut lines = vec![
        format!("POST {path} HTTP/1.1"),
        "host: sandbox".to_owned(),
        format!("content-length: {}", body.len()),
        "content-type: application/json".to_owned(),
        "connection: close".to_owned(),
    ];
    lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    let mut bytes = format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Largest reply in bytes, head and body.
pub const REPLY_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;

/// Status and body of a whole reply, or `None` where `bytes` is not exactly one.
pub fn decode_reply(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut reply = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = reply.parse(bytes).ok()? else { return None };
    let length = reply.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.trim().parse().ok()?;
    let body = bytes.get(head_bytes..)?;
    (body.len() == length).then_some((reply.code?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(bytes: &[u8]) -> Result<(Head, Vec<u8>), ErrorReply> {
        let (mut near, far) = UnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || {
            let _refused_early = near.write_all(&bytes);
        });
        let mut stream = Stream::Unix(far);
        let deadline = Instant::now() + Duration::from_secs(5);
        let result = read_head(&mut stream, deadline).and_then(|mut head| {
            let body = read_body(&mut stream, &mut head, deadline)?;
            Ok((head, body))
        });
        drop(stream);
        writer.join().unwrap();
        result
    }

    #[test]
    fn an_encoded_request_is_read_back() {
        let bytes = encode_request("/v1/ping", &[(COUNTER_HEADER, "3".to_owned())], b"{}");
        let (head, body) = served(&bytes).unwrap();
        assert_eq!((head.path.as_str(), head.credentials.counter.as_deref()), ("/v1/ping", Some("3")));
        assert_eq!(body, b"{}");
    }

    #[test]
    fn hostile_heads_are_refused() {
        let long = format!("POST / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
        for (bytes, code) in [
            (long.as_str(), ErrorCode::TooLarge),
            ("GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", ErrorCode::BadRequest),
            ("POST / HTTP/1.1\r\n\r\n", ErrorCode::BadRequest),
            ("POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", ErrorCode::BadRequest),
            ("POST / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 9\r\n\r\n", ErrorCode::BadRequest),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", ErrorCode::BadRequest),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab", ErrorCode::BadRequest),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nab", ErrorCode::BadRequest),
            ("\u{16}\u{3}\u{1}", ErrorCode::BadRequest),
            ("", ErrorCode::BadRequest),
        ] {
            assert_eq!(served(bytes.as_bytes()).unwrap_err().code, code, "{bytes:?}");
        }
    }

    #[test]
    fn a_trickle_ends_at_the_deadline() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"POST").unwrap();
        let mut stream = Stream::Unix(far);
        let refused = read_head(&mut stream, Instant::now() + Duration::from_millis(30)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_cut_reply_is_no_reply() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(decode_reply(whole), Some((200, b"{}".as_slice())));
        for end in 0..whole.len() {
            assert_eq!(decode_reply(&whole[..end]), None);
        }
    }
}
