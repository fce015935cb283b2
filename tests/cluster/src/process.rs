//! Programs of a bed: started with a log each, remembered by pid and start time, ended by exactly that.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{BedError, Result};

/// Bytes of a program's output that an error quotes.
const QUOTED_BYTES: usize = 2_000;
/// Between two looks. Many of them are a kubectl, which costs a tenth of a second of CPU.
const POLL: Duration = Duration::from_millis(200);

/// A program that runs until it is ended.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    note: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts `command` as `name`: log and note go below `folder`.
    pub fn start(folder: &Path, name: &str, mut command: Command) -> Result<Self> {
        let log = folder.join("log").join(format!("{name}.log"));
        let note = folder.join("pid").join(name);
        let out = File::options().create(true).append(true).open(&log).map_err(BedError::file(&log))?;
        let err = out.try_clone().map_err(BedError::file(&log))?;
        // A group of its own: Ctrl-C at the terminal is for the one who ends the bed in order.
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|source| BedError::Start { program, source })?;
        let born = started_at(child.id()).unwrap_or_default();
        fs::write(&note, format!("{} {born}", child.id())).map_err(BedError::file(&note))?;
        Ok(Self { name: name.to_owned(), child, note, log })
    }

    /// Name it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        fs::read(&self.log).map(|bytes| tail(&bytes)).unwrap_or_default()
    }

    /// Kills it, without a chance to clean up, and waits for its end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.note);
    }
}

/// Kills what notes in `folder` name, unless the pid belongs to somebody else by now.
pub fn kill_noted(folder: &Path) {
    let Ok(notes) = fs::read_dir(folder.join("pid")) else { return };
    for note in notes.flatten() {
        let text = fs::read_to_string(note.path()).unwrap_or_default();
        if let Some((pid, born)) = text.split_once(' ')
            && let Ok(id) = pid.parse::<u32>()
            && started_at(id).is_some_and(|now| now == born)
            && let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::KILL);
            let _ = until(Duration::from_secs(5), || started_at(id).is_none().then_some(()));
        }
        let _ = fs::remove_file(note.path());
    }
}

/// Start time of a process in clock ticks, as text; none when there is no such process (or only its zombie).
fn started_at(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so fields are counted from the closing parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Runs a command to its end and returns what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = output(command)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = if stderr.is_empty() { stdout } else { stderr };
    Err(BedError::Command { command: shown(command), output: format!("{status}: {}", tail(&said)) })
}

/// Runs a command to its end, whatever it says.
pub fn output(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).output().map_err(|source| BedError::Start { program, source })
}

/// Tries `look` until it finds something or `limit` is over.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(QUOTED_BYTES);
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_whose_pid_changed_hands_kills_nobody() {
        let folder = std::env::temp_dir().join(format!("sealign-process-{}", std::process::id()));
        fs::create_dir_all(folder.join("pid")).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let note = folder.join("pid/sleeper");
        fs::write(&note, format!("{} 1", child.id())).unwrap();
        kill_noted(&folder);
        assert!(child.try_wait().unwrap().is_none() && !note.exists());
        fs::write(&note, format!("{} {}", child.id(), started_at(child.id()).unwrap())).unwrap();
        kill_noted(&folder);
        assert!(!child.wait().unwrap().success());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_failed_command_is_shown_with_the_end_of_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("no luck") && error.to_string().contains("exit 3"), "{error}");
    }
}
