//! Running things: a command in the one persistent shell, or a program apart from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base64::Bytes;

/// Runs a command in the sandbox's one shell, which keeps directory, variables, functions and background jobs from
/// command to command. Standard input is empty; standard output and error come back as one text in the order of
/// writing. For what the model does; never a source of verdicts, because task code runs inside that shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The command, any number of lines, at most [`super::COMMAND_BYTES_MAX`] bytes, without NUL.
    pub command: String,
    /// Wall seconds until the command is interrupted, and two seconds later killed; 1 to [`super::TIMEOUT_SECONDS_MAX`].
    pub timeout_seconds: u64,
    /// Bytes of output kept, half from the beginning and half from the end; at most [`super::OUTPUT_CAP_BYTES_MAX`].
    pub output_cap_bytes: usize,
}

/// What a command in the shell did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecReply {
    /// The command's status; 128 + signal where the shell itself was ended, 124 after a timeout.
    pub exit_code: i32,
    /// Standard output and error, combined.
    pub output: Output,
    /// Whether the command ran out of its time.
    pub timed_out: bool,
    /// Why the shell is a new one after this command (directory, variables and jobs are lost), or nothing.
    pub shell_restarted: Option<ShellRestart>,
    /// Limits that the task hit while this command ran, sorted.
    pub limits_hit: Vec<LimitKind>,
    /// Wall time in milliseconds. Never part of a record.
    pub wall_milliseconds: u64,
}

/// Why the shell had to be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShellRestart {
    /// The command ended the shell (`exit`, `exec`, `set -e` and a failure, a signal).
    Exited,
    /// The command ran out of its time and everything it had started was ended.
    TimedOut,
    /// A limit was passed and everything was ended.
    Limit,
}

/// Runs a program apart from the shell, with a clean slate on both sides: every task process is ended before it starts
/// and after it ends, the shell included. Grading uses it: status comes from the kernel, not from task code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecIsolated {
    /// Program and arguments; a name without a slash is looked up in the sandbox's `PATH`.
    pub argv: Vec<String>,
    /// Working directory, relative to the task root; empty for the root itself.
    #[serde(default)]
    pub cwd: String,
    /// Variables beside the sandbox's own few. Names that start with `SEALIGN_` or `LD_` are refused.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Standard input; empty when absent.
    #[serde(default)]
    pub stdin: Option<Bytes>,
    /// Wall seconds until everything is killed; 1 to [`super::TIMEOUT_SECONDS_MAX`].
    pub timeout_seconds: u64,
    /// Bytes kept of standard output; at most [`super::OUTPUT_CAP_BYTES_MAX`].
    pub stdout_cap_bytes: usize,
    /// Bytes kept of standard error; at most [`super::OUTPUT_CAP_BYTES_MAX`].
    pub stderr_cap_bytes: usize,
}

/// What an isolated program did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecIsolatedReply {
    /// The exit code, when the program exited.
    pub exit_code: Option<i32>,
    /// The signal, when one ended it (also ours, after a timeout or a limit).
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// Whether the program ran out of its time.
    pub timed_out: bool,
    /// Limits that the task hit meanwhile, sorted.
    pub limits_hit: Vec<LimitKind>,
    /// Wall time in milliseconds. Never part of a record.
    pub wall_milliseconds: u64,
}

/// A stream of output: all of it, or its beginning and end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The whole text, or what was kept of its beginning. Bytes that are not UTF-8 became U+FFFD.
    pub head: String,
    /// What was kept of the end; empty when nothing was left out.
    pub tail: String,
    /// Bytes that were written.
    pub total_bytes: u64,
    /// Bytes between `head` and `tail` that were not kept.
    pub omitted_bytes: u64,
}

impl Output {
    /// One text for a reader: the output, with a line in place of what was left out.
    pub fn text(&self) -> String {
        if self.omitted_bytes == 0 {
            return format!("{}{}", self.head, self.tail);
        }
        let Self { head, tail, total_bytes, omitted_bytes } = self;
        format!("{head}\n[... {omitted_bytes} of {total_bytes} bytes left out ...]\n{tail}")
    }
}

/// A limit of the sandbox. That one was hit is the task's own doing, never the infrastructure's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitKind {
    /// Memory of all task processes together.
    Memory,
    /// Number of task processes and threads.
    Pids,
    /// Space of the task root or of `/tmp`, or the size of one file.
    Disk,
    /// CPU seconds of one process.
    Cpu,
}
