//! A claimed sandbox as the place where an agent works.

use std::time::Duration;

use async_trait::async_trait;
use sealign_agent::environment::DirEntry;
use sealign_agent::{Environment, EnvironmentError, FileRead, LimitKind, ShellOutput};
use sealign_sandbox::base64::Bytes;
use sealign_sandbox::protocol::{self, EntryKind, ErrorCode, Exec, FileWrite, List, ReadFile};

use super::outcome::Ends;
use super::pods::{Fate, OwnLimit};
use super::sandbox::{Sandbox, SandboxError};

/// Bytes of a command's output that leave the sandbox; harnesses show a model at most half of it.
const OUTPUT_CAP_BYTES: usize = 128 * 1024;
/// Permissions of a file that an agent writes.
const FILE_MODE: u32 = 0o644;
/// Most bytes of a file that one read returns; the server's own bound.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One sandbox during one attempt.
pub struct SandboxEnvironment {
    sandbox: Sandbox,
    ends: Ends,
    pod_uid: String,
    /// How the pod ended, once it has.
    pub fate: Option<Fate>,
}

impl SandboxEnvironment {
    /// The environment behind `sandbox`, which is the pod `pod_uid`.
    pub fn new(sandbox: Sandbox, ends: Ends, pod_uid: String) -> Self {
        Self { sandbox, ends, pod_uid, fate: None }
    }

    /// What a failed call means to the agent. Silence is looked into: a pod that passed its own limit ends the attempt as
    /// the agent's doing, with the turns so far.
    async fn explain(&mut self, error: SandboxError) -> EnvironmentError {
        let silence = match error {
            SandboxError::Gone(silence) => silence,
            SandboxError::Refused(reply) => match reply.code {
                ErrorCode::BadRequest
                | ErrorCode::TooLarge
                | ErrorCode::PathRefused
                | ErrorCode::NotFound
                | ErrorCode::SpawnFailed
                | ErrorCode::Io => return EnvironmentError::Refused(reply.message),
                _ => reply.message,
            },
        };
        let fate = self.ends.of(&self.pod_uid, &silence, true).await;
        self.fate = Some(fate.clone());
        match fate {
            Fate::OwnLimit(OwnLimit::Memory) => EnvironmentError::Limit(LimitKind::Memory),
            Fate::OwnLimit(OwnLimit::Disk) => EnvironmentError::Limit(LimitKind::Disk),
            Fate::Failed(_, detail) => EnvironmentError::Lost(detail),
        }
    }
}

fn limit(kind: protocol::LimitKind) -> LimitKind {
    match kind {
        protocol::LimitKind::Memory => LimitKind::Memory,
        protocol::LimitKind::Pids => LimitKind::Pids,
        protocol::LimitKind::Disk => LimitKind::Disk,
        protocol::LimitKind::Cpu => LimitKind::Cpu,
    }
}

fn is_not_a_file(error: &SandboxError) -> bool {
    matches!(error, SandboxError::Refused(reply) if matches!(reply.code, ErrorCode::Io | ErrorCode::PathRefused | ErrorCode::BadRequest))
}

#[async_trait]
impl Environment for SandboxEnvironment {
    async fn exec(&mut self, command: &str, timeout: Duration) -> Result<ShellOutput, EnvironmentError> {
        let request = Exec {
            command: command.to_owned(),
            timeout_seconds: timeout.as_secs().clamp(1, protocol::TIMEOUT_SECONDS_MAX),
            output_cap_bytes: OUTPUT_CAP_BYTES,
        };
        match self.sandbox.exec(&request).await {
            Ok(reply) => Ok(ShellOutput {
                output: reply.output.text(),
                exit_code: (!reply.timed_out).then_some(reply.exit_code),
                timed_out: reply.timed_out,
                truncated: reply.output.omitted_bytes > 0,
                cwd: None,
                limit: reply.limits_hit.first().copied().map(limit),
            }),
            Err(error) => Err(self.explain(error).await),
        }
    }

    async fn read_file(&mut self, path: &str, bytes_max: usize) -> Result<FileRead, EnvironmentError> {
        if path.is_empty() {
            return Ok(FileRead::Directory);
        }
        let request = ReadFile { path: path.to_owned(), max_bytes: bytes_max.min(READ_BYTES_MAX) };
        match self.sandbox.read_file(&request).await {
            Ok(reply) => Ok(FileRead::File { content: reply.content.0, total_bytes: reply.total_bytes }),
            Err(SandboxError::Refused(reply)) if reply.code == ErrorCode::NotFound => Ok(FileRead::Missing),
            Err(error) if is_not_a_file(&error) => {
                let listing = List { path: path.to_owned(), depth: 1, max_entries: 1 };
                match self.sandbox.list(&listing).await {
                    Ok(_) => Ok(FileRead::Directory),
                    Err(_) => Err(self.explain(error).await),
                }
            }
            Err(error) => Err(self.explain(error).await),
        }
    }

    async fn write_file(&mut self, path: &str, content: &[u8]) -> Result<(), EnvironmentError> {
        let file = FileWrite { path: path.to_owned(), content: Bytes(content.to_vec()), mode: FILE_MODE };
        match self.sandbox.write_files(vec![file]).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    async fn list_dir(
        &mut self,
        path: &str,
        depth: usize,
        entries_max: usize,
    ) -> Result<Vec<DirEntry>, EnvironmentError> {
        let request =
            List { path: path.to_owned(), depth, max_entries: entries_max.min(protocol::FILES_MAX) };
        match self.sandbox.list(&request).await {
            Ok(reply) => {
                // The server names entries from the task root.
                let below = if path.is_empty() { String::new() } else { format!("{path}/") };
                let entry = |entry: protocol::Entry| DirEntry {
                    is_directory: entry.kind == EntryKind::Directory,
                    path: entry.path.strip_prefix(&below).unwrap_or(&entry.path).to_owned(),
                };
                Ok(reply.entries.into_iter().map(entry).collect())
            }
            Err(error) => Err(self.explain(error).await),
        }
    }
}
