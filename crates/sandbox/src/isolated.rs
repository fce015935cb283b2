//! A program apart from the shell, with a clean slate on both sides: nothing that ran before can touch it, nothing that it
//! starts outlives it. Its status comes from the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::confine::{Confinement, confine};
use crate::launcher::Launcher;
use crate::output::{Drain, Feed, HeadTail, wait};
use crate::protocol::{ErrorCode, ErrorReply, ExecIsolated, ExecIsolatedReply};
use crate::shell::note_signal;
use crate::watch::Watch;

/// How often the loop looks whether the program has ended; output wakes it at once.
const TICK: Duration = Duration::from_millis(10);
/// How much one turn of the loop reads of a stream.
const READ_BYTES: usize = 64 * 1024;

struct Run {
    child: Child,
    input: Feed,
    stdout: Drain,
    stderr: Drain,
}

/// Runs `request`; the caller has validated it and ended the shell.
pub fn run(
    launcher: &Launcher,
    watch: &Watch,
    request: &ExecIsolated,
) -> Result<ExecIsolatedReply, ErrorReply> {
    launcher.processes.end_all();
    let started = Instant::now();
    let mut run = start(launcher, request)
        .map_err(|error| ErrorReply::new(ErrorCode::SpawnFailed, format!("start the program: {error}")))?;
    watch.begin();
    let mut stdout = HeadTail::new(request.stdout_cap_bytes);
    let mut stderr = HeadTail::new(request.stderr_cap_bytes);
    let deadline = started + Duration::from_secs(request.timeout_seconds);
    let ended = run.wait(deadline, &mut stdout, &mut stderr);
    let timed_out = matches!(ended, Ok(None));
    launcher.processes.end_all();
    let status = run.child.wait();
    launcher.processes.disown(&run.child);
    let rest = run
        .stdout
        .read_pending(&mut |bytes| stdout.push(bytes))
        .and_then(|()| run.stderr.read_pending(&mut |bytes| stderr.push(bytes)));
    let mut limits_hit = watch.end();
    let io_error = |error: io::Error| ErrorReply::new(ErrorCode::Io, format!("the program's pipes: {error}"));
    rest.map_err(io_error)?;
    ended.map_err(io_error)?;
    let status = status.map_err(io_error)?;
    note_signal(&mut limits_hit, status.signal().unwrap_or_default());
    Ok(ExecIsolatedReply {
        exit_code: status.code(),
        signal: status.signal(),
        stdout: stdout.into_output(),
        stderr: stderr.into_output(),
        timed_out,
        limits_hit,
        wall_milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn start(launcher: &Launcher, request: &ExecIsolated) -> io::Result<Run> {
    let (input_reader, input) = io::pipe()?;
    let (stdout, stdout_writer) = io::pipe()?;
    let (stderr, stderr_writer) = io::pipe()?;
    let (program, arguments) = request.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = launcher.command(OsStr::new(program));
    command.args(arguments).envs(&request.env).current_dir(launcher.root.join(&request.cwd));
    command.stdin(input_reader).stdout(Stdio::from(stdout_writer)).stderr(Stdio::from(stderr_writer));
    confine(&mut command, Confinement { rlimits: launcher.rlimits.clone(), status: None });
    let child = launcher.processes.spawn(&mut command)?;
    let mut input = Feed::new(input)?;
    input.queue(request.stdin.as_ref().map_or(&[], |bytes| &bytes.0));
    Ok(Run { child, input, stdout: Drain::new(stdout)?, stderr: Drain::new(stderr)? })
}

impl Run {
    /// Moves bytes until the program ends; `None` where the deadline comes first.
    fn wait(
        &mut self,
        deadline: Instant,
        stdout: &mut HeadTail,
        stderr: &mut HeadTail,
    ) -> io::Result<Option<ExitStatus>> {
        loop {
            if self.input.is_done() {
                self.input.close();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // With both outputs closed there is nothing to wake us but the end itself, which is near.
            let is_silent = !self.stdout.is_open() && !self.stderr.is_open();
            let patience = if is_silent { Duration::from_millis(1) } else { TICK };
            wait(&[&self.stdout, &self.stderr], &self.input, left.min(patience))?;
            self.input.write();
            self.stdout.read(READ_BYTES, &mut |bytes| stdout.push(bytes))?;
            self.stderr.read(READ_BYTES, &mut |bytes| stderr.push(bytes))?;
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
        }
    }
}
