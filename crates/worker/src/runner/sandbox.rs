//! Speaking to one sandbox: typed calls over a [`Door`], with what may be repeated repeated.
//!
//! A door sends one signed request and brings back the body of its reply; there are two, the network's
//! ([`super::network`]) and the simulation's. A lost reply leaves open whether the request was carried out: calls that
//! change nothing when carried out twice are sent again, commands never are.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sealign_sandbox::protocol::{
    Call, Changes, ChangesReply, Claim, ErrorCode, ErrorReply, Exec, ExecIsolated, ExecIsolatedReply,
    ExecReply, FileWrite, Finish, List, ListReply, Ping, ReadFile, ReadFileReply, RemoveFiles, Seal,
    WriteFiles,
};

use super::pods::Pod;

/// Time for a request that runs no task code.
const PLAIN_PATIENCE: Duration = Duration::from_mins(1);
/// Time for a ping.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Time on top of a command's own for the interrupt, the kill and the way there and back.
const COMMAND_SLACK: Duration = Duration::from_secs(20);
/// Sends of a repeatable request: a pod network loses a connection now and then, not three in a row.
const SENDS_MAX: u32 = 3;
/// Wait before a request is sent again.
const RESEND_WAIT: Duration = Duration::from_millis(200);
/// Bytes of files in one write request; the protocol allows 32 MiB of JSON, and Base64 makes four bytes of three.
const WRITE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The server did not answer, or not in this protocol: the request may or may not have been carried out.
    #[error("the sandbox does not answer: {0}")]
    Gone(String),
    /// The server refused.
    #[error("the sandbox refused: {}", .0.message)]
    Refused(ErrorReply),
}

impl SandboxError {
    /// Whether another runner holds the sandbox.
    pub fn is_claimed_by_another(&self) -> bool {
        matches!(self, Self::Refused(reply) if reply.code == ErrorCode::AlreadyClaimed)
    }
}

/// The way to one sandbox server.
#[async_trait]
pub trait Door: Send + Sync {
    /// This runner's claim of the sandbox for `item`.
    fn claim(&self, item: &str) -> Claim;

    /// Signs a request, sends it and returns the body of its reply, within `patience`.
    async fn exchange(
        &self,
        path: &'static str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, SandboxError>;
}

/// Finds the door of a pod. Each call makes a new key, so that a new runner never passes for an old one.
pub trait Doors: Send + Sync {
    /// The door, or what is wrong with the pod's address.
    fn open(&self, pod: &Pod) -> Result<Arc<dyn Door>, SandboxError>;
}

/// A claimed sandbox.
#[derive(Clone)]
pub struct Sandbox {
    door: Arc<dyn Door>,
}

impl Sandbox {
    /// Claims the sandbox behind `door` for `item`.
    ///
    /// # Errors
    /// [`SandboxError`], also when another runner was first.
    pub async fn claim(door: Arc<dyn Door>, item: &str) -> Result<Self, SandboxError> {
        let claim = door.claim(item);
        let sandbox = Self { door };
        sandbox.again(&claim, PLAIN_PATIENCE).await?;
        Ok(sandbox)
    }

    /// Runs a command in the sandbox's shell, once.
    pub async fn exec(&self, request: &Exec) -> Result<ExecReply, SandboxError> {
        self.once(request, Duration::from_secs(request.timeout_seconds) + COMMAND_SLACK).await
    }

    /// Runs a program apart from the shell, once.
    pub async fn exec_isolated(&self, request: &ExecIsolated) -> Result<ExecIsolatedReply, SandboxError> {
        self.once(request, Duration::from_secs(request.timeout_seconds) + COMMAND_SLACK).await
    }

    /// Writes files, in as many requests as their size asks for.
    pub async fn write_files(&self, files: Vec<FileWrite>) -> Result<(), SandboxError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for file in files {
            if bytes + file.content.0.len() > WRITE_BYTES_MAX && !batch.is_empty() {
                self.again(&WriteFiles { files: std::mem::take(&mut batch) }, PLAIN_PATIENCE).await?;
                bytes = 0;
            }
            bytes += file.content.0.len();
            batch.push(file);
        }
        if !batch.is_empty() {
            self.again(&WriteFiles { files: batch }, PLAIN_PATIENCE).await?;
        }
        Ok(())
    }

    /// Removes files.
    pub async fn remove_files(&self, paths: Vec<String>) -> Result<(), SandboxError> {
        self.again(&RemoveFiles { paths }, PLAIN_PATIENCE).await.map(|_| ())
    }

    /// Reads the beginning of a file.
    pub async fn read_file(&self, request: &ReadFile) -> Result<ReadFileReply, SandboxError> {
        self.again(request, PLAIN_PATIENCE).await
    }

    /// Lists a directory.
    pub async fn list(&self, request: &List) -> Result<ListReply, SandboxError> {
        self.again(request, PLAIN_PATIENCE).await
    }

    /// Records the task root as it is.
    pub async fn seal(&self, request: &Seal) -> Result<(), SandboxError> {
        self.again(request, PLAIN_PATIENCE).await.map(|_| ())
    }

    /// What differs from the sealed tree.
    pub async fn changes(&self, request: &Changes) -> Result<ChangesReply, SandboxError> {
        self.again(request, PLAIN_PATIENCE).await
    }

    /// Says that the runner lives.
    pub async fn ping(&self) -> Result<(), SandboxError> {
        self.again(&Ping {}, PING_PATIENCE).await.map(|_| ())
    }

    /// Lets the sandbox go with exit code 0; only after the record is durable. A lost reply may mean that the server is
    /// gone already, so it is not sent again.
    pub async fn finish(&self) -> Result<(), SandboxError> {
        self.once(&Finish {}, PLAIN_PATIENCE).await.map(|_| ())
    }

    async fn again<C: Call>(&self, request: &C, patience: Duration) -> Result<C::Reply, SandboxError> {
        let body = encode(request)?;
        for _ in 1..SENDS_MAX {
            match self.door.exchange(C::PATH, body.clone(), patience).await {
                Err(SandboxError::Gone(_)) => tokio::time::sleep(RESEND_WAIT).await,
                answered => return decode::<C>(&answered?),
            }
        }
        decode::<C>(&self.door.exchange(C::PATH, body, patience).await?)
    }

    async fn once<C: Call>(&self, request: &C, patience: Duration) -> Result<C::Reply, SandboxError> {
        decode::<C>(&self.door.exchange(C::PATH, encode(request)?, patience).await?)
    }
}

fn encode<C: Call>(request: &C) -> Result<Vec<u8>, SandboxError> {
    let refuse = |code, message| SandboxError::Refused(ErrorReply::new(code, message));
    let body =
        serde_json::to_vec(request).map_err(|error| refuse(ErrorCode::BadRequest, error.to_string()))?;
    if body.len() > C::BODY_BYTES_MAX {
        let message = format!("the request has {} bytes, more than {}", body.len(), C::BODY_BYTES_MAX);
        return Err(refuse(ErrorCode::TooLarge, message));
    }
    Ok(body)
}

fn decode<C: Call>(body: &[u8]) -> Result<C::Reply, SandboxError> {
    serde_json::from_slice(body).map_err(|error| SandboxError::Gone(format!("reply to {}: {error}", C::PATH)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A door whose replies are lost, all of them.
    #[derive(Default)]
    struct Mute(AtomicU32);

    #[async_trait]
    impl Door for Mute {
        fn claim(&self, item: &str) -> Claim {
            Claim { runner_public_key: String::new(), item: item.into(), pod_uid: String::new() }
        }

        async fn exchange(&self, _: &'static str, _: Vec<u8>, _: Duration) -> Result<Vec<u8>, SandboxError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(SandboxError::Gone("no reply".into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_whose_reply_is_lost_is_never_sent_again_and_a_read_is_so_many_times() {
        let door = Arc::new(Mute::default());
        let sandbox = Sandbox { door: door.clone() };
        let command = Exec { command: "make".into(), timeout_seconds: 1, output_cap_bytes: 1 };
        assert!(sandbox.exec(&command).await.is_err());
        assert!(sandbox.finish().await.is_err());
        assert_eq!(door.0.swap(0, Ordering::Relaxed), 2);
        assert!(sandbox.read_file(&ReadFile { path: "a".into(), max_bytes: 1 }).await.is_err());
        assert_eq!(door.0.load(Ordering::Relaxed), SENDS_MAX);
    }
}
