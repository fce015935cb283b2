//! The one persistent shell of a sandbox.
//!
//! A command is sent as the argument of `eval`, so that its syntax errors stay its own, with an empty standard input, so
//! that it cannot eat the commands behind it. The status comes back on a descriptor that commands do not get, behind a
//! nonce of this command; whatever a command prints is output and nothing else. Task code runs inside the shell all the
//! same and can lie to itself about a status: verdicts come from [`crate::isolated`] only.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::confine::{Confinement, confine};
use crate::launcher::Launcher;
use crate::os;
use crate::output::{Drain, Feed, HeadTail, wait};
use crate::protocol::{ErrorCode, ErrorReply, Exec, ExecReply, LimitKind, ShellRestart};
use crate::watch::Watch;

/// How often the loop looks whether the shell has ended; everything else wakes it at once.
const TICK: Duration = Duration::from_millis(50);
/// Time between interrupt and kill.
const GRACE: Duration = Duration::from_secs(2);
/// Exit code of a command that ran out of its time, as `timeout` has it.
const TIMED_OUT_CODE: i32 = 124;
/// Longest unfinished line kept of the status descriptor; ours have 50 bytes.
const STATUS_BYTES_MAX: usize = 4096;
/// How much one turn of the loop reads of the output.
const READ_BYTES: usize = 64 * 1024;

/// The shell programs in order of preference.
const PROGRAMS: [&str; 5] = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh", "/usr/bin/sh"];

/// The first shell that the sandbox has.
pub fn find_program() -> Option<PathBuf> {
    PROGRAMS.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// A running shell.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    input: Feed,
    output: Drain,
    status: Drain,
    status_text: Vec<u8>,
}

/// How a command ended.
enum End {
    Status(i32),
    ShellExited(ExitStatus),
    OutOfTime,
}

impl Shell {
    /// Starts `program`.
    pub fn start(launcher: &Launcher, program: &std::path::Path) -> io::Result<Self> {
        let (input_reader, input) = io::pipe()?;
        let (output, output_writer) = io::pipe()?;
        let (status, status_writer) = io::pipe()?;
        let mut command = launcher.command(program.as_os_str());
        if program.ends_with("bash") {
            command.arg0("bash").args(["--noprofile", "--norc"]);
        } else {
            command.arg0("sh");
        }
        command.stdin(input_reader).stdout(output_writer.try_clone()?).stderr(Stdio::from(output_writer));
        let rlimits = launcher.rlimits.clone();
        confine(&mut command, Confinement { rlimits, status: Some(OwnedFd::from(status_writer)) });
        let child = launcher.processes.spawn(&mut command)?;
        Ok(Self {
            child,
            input: Feed::new(input)?,
            output: Drain::new(output)?,
            status: Drain::new(status)?,
            status_text: Vec::new(),
        })
    }

    /// Ends the shell and all task code.
    pub fn end(mut self, launcher: &Launcher) {
        launcher.processes.end_all();
        let _gone = self.child.wait();
        launcher.processes.disown(&self.child);
    }

    fn run(&mut self, text: &str, nonce: &str, deadline: Instant, kept: &mut HeadTail) -> io::Result<End> {
        self.input.queue(text.as_bytes());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(End::OutOfTime);
            }
            wait(&[&self.output, &self.status], &self.input, left.min(TICK))?;
            self.input.write();
            // The status first: all the foreground output that was written before it is in the other pipe by then.
            if let Some(code) = self.read_status(nonce)? {
                self.output.read_pending(&mut |bytes| kept.push(bytes))?;
                return Ok(End::Status(code));
            }
            self.output.read(READ_BYTES, &mut |bytes| kept.push(bytes))?;
            if let Some(status) = self.child.try_wait()? {
                self.output.read_pending(&mut |bytes| kept.push(bytes))?;
                return Ok(End::ShellExited(status));
            }
        }
    }

    fn read_status(&mut self, nonce: &str) -> io::Result<Option<i32>> {
        let Self { status, status_text, .. } = self;
        status.read(STATUS_BYTES_MAX, &mut |bytes| status_text.extend_from_slice(bytes))?;
        while let Some(end) = status_text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = status_text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let code = line.trim_end().strip_prefix(nonce).and_then(|rest| rest.trim_start().parse().ok());
            if code.is_some() {
                return Ok(code);
            }
        }
        if status_text.len() > STATUS_BYTES_MAX {
            status_text.clear();
        }
        Ok(None)
    }

    /// Interrupts what runs, gives it [`GRACE`] to end, then kills it; collects the output meanwhile.
    fn interrupt(&mut self, launcher: &Launcher, nonce: &str, kept: &mut HeadTail) -> io::Result<()> {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            os::signal(-pid, libc::SIGINT);
        }
        self.run("", nonce, Instant::now() + GRACE, kept)?;
        launcher.processes.end_all();
        self.output.read_pending(&mut |bytes| kept.push(bytes))
    }
}

/// Runs `request` in the shell of `slot`, starting one where there is none.
pub fn exec(
    slot: &mut Option<Shell>,
    launcher: &Launcher,
    watch: &Watch,
    request: &Exec,
    nonce: &str,
) -> Result<ExecReply, ErrorReply> {
    let started = Instant::now();
    let mut shell = match slot.take() {
        Some(shell) => shell,
        None => start(launcher)?,
    };
    watch.begin();
    let mut kept = HeadTail::new(request.output_cap_bytes);
    let deadline = started + Duration::from_secs(request.timeout_seconds);
    let result = shell.run(&script(&request.command, nonce), nonce, deadline, &mut kept).and_then(|end| {
        if matches!(end, End::OutOfTime) {
            shell.interrupt(launcher, nonce, &mut kept)?;
        }
        Ok(end)
    });
    let mut limits_hit = watch.end();
    let (exit_code, shell_restarted) = match result {
        Ok(End::Status(code)) => (code, None),
        Ok(End::ShellExited(status)) if !limits_hit.is_empty() => {
            (exit_code(status), Some(ShellRestart::Limit))
        }
        Ok(End::ShellExited(status)) => (exit_code(status), Some(ShellRestart::Exited)),
        Ok(End::OutOfTime) => (TIMED_OUT_CODE, Some(ShellRestart::TimedOut)),
        Err(error) => {
            shell.end(launcher);
            return Err(ErrorReply::new(ErrorCode::Io, format!("the shell's pipes: {error}")));
        }
    };
    note_signal(&mut limits_hit, exit_code - 128);
    match shell_restarted {
        None => *slot = Some(shell),
        Some(ShellRestart::Exited) => launcher.processes.disown(&shell.child),
        Some(ShellRestart::TimedOut | ShellRestart::Limit) => shell.end(launcher),
    }
    Ok(ExecReply {
        exit_code,
        output: kept.into_output(),
        timed_out: shell_restarted == Some(ShellRestart::TimedOut),
        shell_restarted,
        limits_hit,
        wall_milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn start(launcher: &Launcher) -> Result<Shell, ErrorReply> {
    let missing = || ErrorReply::new(ErrorCode::SpawnFailed, "the sandbox has neither bash nor sh");
    let program = launcher.shell.as_deref().ok_or_else(missing)?;
    Shell::start(launcher, program).map_err(|error| {
        ErrorReply::new(ErrorCode::SpawnFailed, format!("start {}: {error}", program.display()))
    })
}

/// The lines that run `command` and report its status. `command eval` keeps a syntax error from ending a POSIX shell.
fn script(command: &str, nonce: &str) -> String {
    let quoted = command.replace('\'', r"'\''");
    format!("{{ command eval '{quoted}'\n}} </dev/null 3>&-\nprintf '%s %d\\n' {nonce} \"$?\" >&3\n")
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Adds the limit that `signal` stands for, if it is one of those the kernel sends for a limit.
pub fn note_signal(limits_hit: &mut Vec<LimitKind>, signal: i32) {
    let kind = match signal {
        libc::SIGXFSZ => LimitKind::Disk,
        libc::SIGXCPU => LimitKind::Cpu,
        _ => return,
    };
    if !limits_hit.contains(&kind) {
        limits_hit.push(kind);
        limits_hit.sort_unstable();
    }
}
