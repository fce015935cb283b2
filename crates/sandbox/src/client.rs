//! Calling a sandbox server from a runner.
//!
//! [`encode`] and [`decode`] know no transport: an async runner writes the bytes to any stream and reads to its end.
//! [`BlockingClient`] does the same over std sockets, for a thread per sandbox or `spawn_blocking`. Nothing is retried
//! here: a lost reply leaves open whether the command ran, and only the runner knows what that means for its item.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http::{REPLY_BYTES_MAX, Stream, decode_reply, encode_request};
use crate::protocol::{Call, ClaimReply, Done, ErrorReply, Exec, ExecIsolated, Finish, Ping, PingReply};
use crate::signing::Session;

/// Time on top of a command's own for the interrupt, the kill and the way there and back.
const COMMAND_SLACK: Duration = Duration::from_secs(20);
/// Time for a request that runs no task code.
const PLAIN_DEADLINE: Duration = Duration::from_mins(1);
/// Time to connect over TCP; a pod network answers in milliseconds or not at all.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection; nothing was sent.
    #[error("connect to the sandbox at {endpoint}")]
    Connect {
        /// Where the server should be.
        endpoint: Endpoint,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The request is not JSON-serialisable or is larger than its kind may be.
    #[error("the request {path} has {bytes} bytes, more than the {limit} it may have; split it")]
    TooLarge {
        /// The request's path.
        path: &'static str,
        /// Its body's size.
        bytes: usize,
        /// The limit of its kind.
        limit: usize,
    },
    /// Serialising failed.
    #[error("serialise the request {path}")]
    Encode {
        /// The request's path.
        path: &'static str,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
    /// Sent in part or whole, and no whole reply came: the server may or may not have done it.
    #[error("exchange {path} with the sandbox")]
    Exchange {
        /// The request's path.
        path: &'static str,
        /// What the system says; `TimedOut` or `WouldBlock` where the deadline passed.
        #[source]
        source: io::Error,
    },
    /// What came back is not a reply of this protocol.
    #[error("the sandbox's reply to {path} is malformed or cut")]
    MalformedReply {
        /// The request's path.
        path: &'static str,
    },
    /// The server refused or failed, and says why.
    #[error(transparent)]
    Refused(#[from] ErrorReply),
}

impl CallError {
    /// What the server said, where it said anything.
    pub fn refusal(&self) -> Option<&ErrorReply> {
        match self {
            Self::Refused(reply) => Some(reply),
            _ => None,
        }
    }
}

/// The bytes of `request`, signed by `session` with its next counter.
pub fn encode<C: Call>(session: &Session, request: &C) -> Result<Vec<u8>, CallError> {
    let body = serde_json::to_vec(request).map_err(|source| CallError::Encode { path: C::PATH, source })?;
    if body.len() > C::BODY_BYTES_MAX {
        return Err(CallError::TooLarge { path: C::PATH, bytes: body.len(), limit: C::BODY_BYTES_MAX });
    }
    Ok(encode_request(C::PATH, &session.sign(C::PATH, &body), &body))
}

/// The result in `bytes`, everything a server sent until it closed the connection.
pub fn decode<C: Call>(bytes: &[u8]) -> Result<C::Reply, CallError> {
    let malformed = CallError::MalformedReply { path: C::PATH };
    match decode_reply(bytes) {
        Some((200, body)) => serde_json::from_slice(body).map_err(|_| malformed),
        Some((_, body)) => {
            Err(serde_json::from_slice::<ErrorReply>(body).map_or(malformed, CallError::Refused))
        }
        None => Err(malformed),
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket file.
    Unix(PathBuf),
    /// An address of the pod network.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "{}", path.display()),
            Self::Tcp(address) => write!(formatter, "{address}"),
        }
    }
}

/// A runner's blocking calls to one sandbox. Clones share the session, so one clone can ping while another works.
#[derive(Clone)]
pub struct BlockingClient {
    endpoint: Endpoint,
    session: Arc<Session>,
}

impl BlockingClient {
    /// A client of the server at `endpoint`; connects anew for each call.
    pub fn new(endpoint: Endpoint, session: Arc<Session>) -> Self {
        Self { endpoint, session }
    }

    /// The session whose key signs.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Sends `request` and waits for its reply, at most `patience` in all.
    pub fn call<C: Call>(&self, request: &C, patience: Duration) -> Result<C::Reply, CallError> {
        let bytes = encode(&self.session, request)?;
        let deadline = Instant::now() + patience;
        let mut stream = self.connect()?;
        let exchange = |source| CallError::Exchange { path: C::PATH, source };
        // A server that refuses a head closes before it read the body: its reply says more than the broken pipe.
        let sent = stream.write_until(&bytes, deadline);
        let received = stream.read_to_end(REPLY_BYTES_MAX, deadline);
        match (sent, received) {
            (_, Ok(bytes)) if !bytes.is_empty() => decode::<C>(&bytes),
            (Err(source), _) | (Ok(()), Err(source)) => Err(exchange(source)),
            (Ok(()), Ok(_)) => Err(exchange(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Sends a request that runs no task code.
    pub fn plain<C: Call>(&self, request: &C) -> Result<C::Reply, CallError> {
        self.call(request, PLAIN_DEADLINE)
    }

    /// Claims the sandbox for `item`.
    pub fn claim(&self, item: &str) -> Result<ClaimReply, CallError> {
        self.plain(&self.session.claim(item))
    }

    /// Says that the runner lives; do it every 15 s.
    pub fn ping(&self) -> Result<PingReply, CallError> {
        self.call(&Ping {}, CONNECT_DEADLINE)
    }

    /// Runs a command in the shell.
    pub fn exec(&self, request: &Exec) -> Result<<Exec as Call>::Reply, CallError> {
        self.call(request, Duration::from_secs(request.timeout_seconds) + COMMAND_SLACK)
    }

    /// Runs a program apart from the shell.
    pub fn exec_isolated(&self, request: &ExecIsolated) -> Result<<ExecIsolated as Call>::Reply, CallError> {
        self.call(request, Duration::from_secs(request.timeout_seconds) + COMMAND_SLACK)
    }

    /// Ends the sandbox with exit code 0; only after the record is durable.
    pub fn finish(&self) -> Result<Done, CallError> {
        self.plain(&Finish {})
    }

    fn connect(&self) -> Result<Stream, CallError> {
        let connected = match &self.endpoint {
            Endpoint::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Endpoint::Tcp(address) => TcpStream::connect_timeout(address, CONNECT_DEADLINE).map(Stream::Tcp),
        };
        connected.map_err(|source| CallError::Connect { endpoint: self.endpoint.clone(), source })
    }
}
