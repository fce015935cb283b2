//! Programs that the tests start: they end with the value, and with this process however it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Clock ticks of a second in `/proc`: fixed in Linux's interface.
const TICKS: f64 = 100.0;

/// A running program.
pub struct Program {
    pub name: String,
    child: Child,
    log: PathBuf,
}

/// What a program has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    /// Largest resident set, MiB.
    pub peak_mib: f64,
}

impl Program {
    /// Starts `program` with its output in `folder`. Call it on the main thread: a program ends with the thread that
    /// started it.
    pub fn start(
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: &[String],
        variables: &[(&str, &str)],
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { name: name.to_owned(), child, log }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Fails with the end of its log where it has ended.
    pub fn check(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended with {status}: {}", self.name, self.log_tail());
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What it has used.
    pub fn usage(&self) -> Usage {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default();
        let stat = read("stat");
        // The name may hold anything, so fields are counted from the closing parenthesis: 11 and 12 are the times.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        let status = read("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kib: f64 = peak.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Usage { cpu_seconds: ticks / TICKS, peak_mib: kib / 1024.0 }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
