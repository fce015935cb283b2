//! One shell process that runs commands one after the other.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::capture::Capture;

/// What a command did.
#[derive(Debug)]
pub(super) struct Ran {
    pub output: String,
    pub exit_code: Option<i32>,
    pub timed_out: bool,
    pub truncated: bool,
    pub cwd: Option<String>,
    /// False when the shell is gone; the next command gets a new one.
    pub keeps_shell: bool,
}

/// A running shell with a process group of its own.
#[derive(Debug)]
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    commands: u64,
}

/// Time for a killed shell to be gone.
const END_TIME: Duration = Duration::from_secs(5);

impl Shell {
    /// Starts `bash`, or `sh` where there is none, in `directory` with a small fixed environment.
    pub(super) fn start(directory: &Path) -> std::io::Result<Self> {
        let spawned = spawn("bash", &["--norc", "--noprofile"], directory);
        let mut child = match spawned {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => spawn("sh", &[], directory)?,
            other => other?,
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("the shell has no pipes"));
        };
        Ok(Self { child, input, output, commands: 0 })
    }

    pub(super) async fn run(&mut self, command: &str, timeout: Duration) -> std::io::Result<Ran> {
        self.commands += 1;
        let mark = format!("\u{1}sealign-end-{} ", self.commands);
        // `eval` keeps a syntax error inside the command; its standard input is empty so that it cannot eat the next one.
        let quoted = command.replace('\'', r"'\''");
        let joined = if self.commands == 1 { "exec 2>&1\n" } else { "" };
        let line = format!("{joined}eval '{quoted}' </dev/null\nprintf '{mark}%s %s\\n' \"$?\" \"$PWD\"\n");
        let mut capture = Capture::new(&mark);
        let talk = async {
            // A shell that died under the last command shows as an end of output below.
            let _ = self.input.write_all(line.as_bytes()).await;
            let mut chunk = vec![0_u8; 64 * 1024];
            loop {
                let count = self.output.read(&mut chunk).await?;
                let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                    return Ok::<_, std::io::Error>(None);
                };
                if let Some(line) = capture.push(bytes) {
                    return Ok(Some(line));
                }
            }
        };
        let ended = tokio::time::timeout(timeout, talk).await;
        let (exit_code, timed_out, cwd) = match ended {
            Ok(Ok(Some(line))) => {
                let (code, cwd) = line.split_once(' ').unwrap_or((line.as_str(), ""));
                (code.parse().ok(), false, Some(cwd.to_owned()))
            }
            Ok(Ok(None)) => (self.exit_code().await, false, None),
            Ok(Err(error)) => return Err(error),
            Err(_) => (None, true, None),
        };
        let done = capture.finish();
        let keeps_shell = cwd.is_some();
        Ok(Ran { output: done.output, exit_code, timed_out, truncated: done.truncated, cwd, keeps_shell })
    }

    /// The exit code of a shell whose output has ended.
    async fn exit_code(&mut self) -> Option<i32> {
        match tokio::time::timeout(END_TIME, self.child.wait()).await {
            Ok(Ok(status)) => status.code().or(Some(-1)),
            _ => Some(-1),
        }
    }

    /// Kills the shell and what it started, and waits until it is gone.
    pub(super) async fn end(mut self) {
        self.kill_group();
        let _ = tokio::time::timeout(END_TIME, self.child.wait()).await;
    }

    /// Kills the shell and what it started.
    pub(super) fn kill(self) {
        self.kill_group();
    }

    fn kill_group(&self) {
        let group = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            // Gone already is as good as killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn spawn(program: &str, arguments: &[&str], directory: &Path) -> std::io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
        .env("HOME", directory)
        .env("LANG", "C.UTF-8")
        .env("TERM", "dumb")
        // Bytecode files would be changes to the task's tree.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // One pipe for both streams keeps their order; the shell joins them before its first command.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}
