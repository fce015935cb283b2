//! What the loop asks of the place where an agent works: one persistent shell, and the files of the task root.

use std::time::Duration;

use async_trait::async_trait;

/// A limit of the environment that the agent's own commands ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitKind {
    /// Memory of all processes.
    Memory,
    /// Number of processes.
    Pids,
    /// Disk space or file size.
    Disk,
    /// CPU time of a process.
    Cpu,
}

impl LimitKind {
    /// The name for records and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Cpu => "cpu",
        }
    }
}

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShellOutput {
    /// Standard output and error in the order of writing; bytes that are not UTF-8 became U+FFFD.
    pub output: String,
    /// The exit code; `None` when the command was ended from outside (a timeout).
    pub exit_code: Option<i32>,
    /// The command ran out of its time and was ended.
    pub timed_out: bool,
    /// The environment kept only the beginning and the end of the output, and `output` says so in its middle.
    pub truncated: bool,
    /// The shell's working directory after the command, where the environment knows it.
    pub cwd: Option<String>,
    /// A limit that was passed meanwhile; the attempt ends after this turn.
    pub limit: Option<LimitKind>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRead {
    /// A regular file.
    File {
        /// Its first bytes, at most as many as were asked for.
        content: Vec<u8>,
        /// Its size in bytes.
        total_bytes: u64,
    },
    /// A directory.
    Directory,
    /// Nothing.
    Missing,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Path relative to the listed directory.
    pub path: String,
    /// Whether it is a directory. Links are not followed and count as files.
    pub is_directory: bool,
}

/// Why the environment did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A limit of the task ended it: the agent's doing.
    #[error("the {} limit of the environment was passed", .0.name())]
    Limit(LimitKind),
    /// The environment is gone or does not answer: infrastructure.
    #[error("the environment was lost: {0}")]
    Lost(String),
    /// The environment will not do this; it works on. Shown to the agent.
    #[error("{0}")]
    Refused(String),
}

/// Where an agent works. File paths are relative to the task root, with `/`, without `.` and `..`; the empty path is the
/// root itself. Symbolic links may be refused.
#[async_trait]
pub trait Environment: Send {
    /// Runs a command in the one shell, which keeps directory and variables from command to command. A command that
    /// outlives `timeout` is ended with everything it started.
    async fn exec(&mut self, command: &str, timeout: Duration) -> Result<ShellOutput, EnvironmentError>;

    /// Reads at most `bytes_max` bytes of a file.
    async fn read_file(&mut self, path: &str, bytes_max: usize) -> Result<FileRead, EnvironmentError>;

    /// Writes a file in place of what is there; parents are made.
    async fn write_file(&mut self, path: &str, content: &[u8]) -> Result<(), EnvironmentError>;

    /// What lies in a directory down to `depth` levels (1: its own names), sorted by path, at most `entries_max`.
    async fn list_dir(
        &mut self,
        path: &str,
        depth: usize,
        entries_max: usize,
    ) -> Result<Vec<DirEntry>, EnvironmentError>;
}

/// The environment of harnesses that need none: refuses everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEnvironment;

fn none<T>() -> Result<T, EnvironmentError> {
    Err(EnvironmentError::Refused("this harness has no environment".to_owned()))
}

#[async_trait]
impl Environment for NoEnvironment {
    async fn exec(&mut self, _command: &str, _timeout: Duration) -> Result<ShellOutput, EnvironmentError> {
        none()
    }

    async fn read_file(&mut self, _path: &str, _bytes_max: usize) -> Result<FileRead, EnvironmentError> {
        none()
    }

    async fn write_file(&mut self, _path: &str, _content: &[u8]) -> Result<(), EnvironmentError> {
        none()
    }

    async fn list_dir(
        &mut self,
        _path: &str,
        _depth: usize,
        _entries_max: usize,
    ) -> Result<Vec<DirEntry>, EnvironmentError> {
        none()
    }
}
