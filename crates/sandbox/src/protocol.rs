//! The requests and replies between a runner and a sandbox server, version 1.
//!
//! Every request is one HTTP/1.1 `POST` of a JSON document to `/v1/<name>` on a connection of its own; the reply is a
//! JSON document, or an [`ErrorReply`] with a status of 400 or more. [`Call`] ties a request to its path and reply.
//! Authentication lives in headers and is the subject of [`crate::signing`], not of this module.
//!
//! Everything that comes back is hostile data: output, paths and contents are whatever task code made them.

mod commands;
mod files;
mod lifecycle;

pub use commands::{Exec, ExecIsolated, ExecIsolatedReply, ExecReply, LimitKind, Output, ShellRestart};
pub use files::{
    Change, ChangeKind, Changes, ChangesReply, Entry, EntryKind, FileState, FileWrite, List, ListReply,
    ReadFile, ReadFileReply, RemoveFiles, Seal, SealReply, WriteFiles,
};
pub use lifecycle::{Claim, ClaimReply, Done, Finish, LimitMeans, Ping, PingReply};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The protocol's version, and the first component of every path.
pub const VERSION: &str = "v1";
/// Longest request head in bytes: three signed headers need less than one kibibyte.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Largest request or reply body in bytes; a runner splits larger writes into several requests.
pub const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest body of a request that moves no files (a command and its standard input).
pub const SMALL_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest shell command in bytes: far above any honest one, far below what would stall the shell's reader.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Largest output cap a request may ask for, in bytes and per stream.
pub const OUTPUT_CAP_BYTES_MAX: usize = 1024 * 1024;
/// Longest time a command may run, in seconds.
pub const TIMEOUT_SECONDS_MAX: u64 = 4 * 3600;
/// Longest path in bytes; components are limited to the 255 bytes of common file systems.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most files one request writes, removes or lists.
pub const FILES_MAX: usize = 20_000;

/// A request: where it goes and what answers it.
pub trait Call: Serialize + DeserializeOwned {
    /// The request's path, `/v1/<name>`.
    const PATH: &'static str;
    /// Largest body of this request in bytes; the server refuses more before it reads it.
    const BODY_BYTES_MAX: usize;
    /// What the server answers.
    type Reply: Serialize + DeserializeOwned;
}

macro_rules! calls {
    ($($request:ty => $path:literal, $limit:expr, $reply:ty;)*) => {
        $(impl Call for $request {
            const PATH: &'static str = concat!("/v1/", $path);
            const BODY_BYTES_MAX: usize = $limit;
            type Reply = $reply;
        })*
    };
}

calls! {
    Claim => "claim", 4 * 1024, ClaimReply;
    Ping => "ping", 1024, PingReply;
    Exec => "exec", SMALL_BODY_BYTES_MAX, ExecReply;
    ExecIsolated => "exec_isolated", SMALL_BODY_BYTES_MAX, ExecIsolatedReply;
    WriteFiles => "write_files", BODY_BYTES_MAX, Done;
    RemoveFiles => "remove_files", SMALL_BODY_BYTES_MAX, Done;
    ReadFile => "read_file", SMALL_BODY_BYTES_MAX, ReadFileReply;
    List => "list", SMALL_BODY_BYTES_MAX, ListReply;
    Seal => "seal", SMALL_BODY_BYTES_MAX, SealReply;
    Changes => "changes", SMALL_BODY_BYTES_MAX, ChangesReply;
    Finish => "finish", 1024, Done;
}

/// Why a request was refused or failed. Closed, so that a runner can decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The request is not of this protocol: unknown path, not JSON, a field out of its range.
    BadRequest,
    /// Head, body, command, path or count is over its bound.
    TooLarge,
    /// A signature header is missing or malformed.
    Unsigned,
    /// The signature is not the pinned key's over this request.
    BadSignature,
    /// The counter is not above the last accepted one.
    Replay,
    /// The request names another pod.
    WrongPod,
    /// Nobody has claimed this sandbox yet.
    Unclaimed,
    /// Another key, or another item, holds this sandbox.
    AlreadyClaimed,
    /// Another request is at work; only `ping` may come beside it.
    Busy,
    /// The path leaves the task root, passes a symbolic link, or is not a path at all.
    PathRefused,
    /// The file does not exist.
    NotFound,
    /// `changes` before `seal`.
    NotSealed,
    /// The program could not be started.
    SpawnFailed,
    /// The operating system refused; the message has its words.
    Io,
}

impl ErrorCode {
    /// The HTTP status that carries this code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::PathRefused | Self::NotSealed => 400,
            Self::Unsigned | Self::BadSignature | Self::Replay => 401,
            Self::WrongPod | Self::Unclaimed => 403,
            Self::NotFound => 404,
            Self::AlreadyClaimed | Self::Busy => 409,
            Self::TooLarge => 413,
            Self::SpawnFailed | Self::Io => 500,
        }
    }
}

/// The body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("sandbox refused: {message}")]
pub struct ErrorReply {
    /// What to decide by.
    pub code: ErrorCode,
    /// What to show; it may contain text of the task.
    pub message: String,
}

impl ErrorReply {
    /// An error with `code` that says `message`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
