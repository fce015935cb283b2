//! Starts the processes of one machine, gives each torchrun's environment, and ends all when one fails.
//!
//! With several machines one launcher runs on each, with the same master address; a machine whose launcher ends takes its
//! connections with it, which the processes of the others notice at their next operation.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

/// Pause between looks at the processes.
const POLL: Duration = Duration::from_millis(100);

/// Time that processes get to end after SIGTERM, before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// Processes of one machine at most: no machine has more devices.
const LOCAL_MAX: usize = 64;

/// Variable by which a process knows the launcher that it must not outlive.
pub const LAUNCHER: &str = "SEALIGN_LAUNCHER_PID";

/// Why a launch ended without success.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The numbers do not make a group.
    #[error("{field} must be {expected}")]
    Setting {
        /// The flag.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// A process could not be started, or no port is free.
    #[error("rank {rank} cannot be started")]
    Start {
        /// The process.
        rank: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A process failed; the others were ended.
    #[error(
        "rank {rank} {how}; the other processes were ended. The next start continues from the newest checkpoint"
    )]
    Rank {
        /// The process that ended first.
        rank: usize,
        /// How it ended.
        how: String,
        /// Its exit code; `None` after a signal.
        code: Option<i32>,
    },
    /// This launcher was told to stop.
    #[error("the launcher was told to stop; the next start continues from the newest checkpoint")]
    Stopped,
}

/// A group as its launchers see it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Processes on this machine.
    pub local_size: usize,
    /// Machines.
    pub machines: usize,
    /// Number of this machine, from 0.
    pub machine: usize,
    /// Host of rank 0.
    pub master_address: String,
    /// Port of the rendezvous; 0 takes a free one, which only works on one machine.
    pub master_port: u16,
}

impl Launch {
    fn check(&self) -> Result<(), LaunchError> {
        for (field, expected, holds) in [
            ("--nproc", "between 1 and 64", (1..=LOCAL_MAX).contains(&self.local_size)),
            ("--nnodes", "at least 1", self.machines >= 1),
            ("--node-rank", "below --nnodes", self.machine < self.machines),
            ("--master-port", "set when there are several nodes", self.machines == 1 || self.master_port > 0),
        ] {
            if !holds {
                return Err(LaunchError::Setting { field, expected });
            }
        }
        Ok(())
    }

    /// The variables of one process.
    fn variables(&self, local_rank: usize, port: u16) -> Vec<(&'static str, String)> {
        vec![
            ("RANK", (self.machine * self.local_size + local_rank).to_string()),
            ("LOCAL_RANK", local_rank.to_string()),
            ("WORLD_SIZE", (self.machines * self.local_size).to_string()),
            ("LOCAL_WORLD_SIZE", self.local_size.to_string()),
            ("GROUP_RANK", self.machine.to_string()),
            ("MASTER_ADDR", self.master_address.clone()),
            ("MASTER_PORT", port.to_string()),
            (LAUNCHER, std::process::id().to_string()),
        ]
    }

    /// Runs the command `local_size` times and returns when all have succeeded, or after the first failure and the end of
    /// the rest. `stop` ends the launch from a signal handler.
    pub fn run(&self, make: impl Fn() -> Command, stop: &AtomicBool) -> Result<(), LaunchError> {
        self.check()?;
        let first = self.machine * self.local_size;
        let port = match self.master_port {
            0 => free_port().map_err(|source| LaunchError::Start { rank: first, source })?,
            port => port,
        };
        let mut processes = Processes { first, running: Vec::new() };
        for local_rank in 0..self.local_size {
            let rank = first + local_rank;
            let child = make().envs(self.variables(local_rank, port)).spawn();
            processes.running.push((rank, child.map_err(|source| LaunchError::Start { rank, source })?));
        }
        processes.watch(stop)
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The processes that still run. Dropping it ends them.
struct Processes {
    first: usize,
    running: Vec<(usize, Child)>,
}

impl Processes {
    fn watch(&mut self, stop: &AtomicBool) -> Result<(), LaunchError> {
        while !self.running.is_empty() {
            if stop.load(Ordering::Relaxed) {
                return Err(LaunchError::Stopped);
            }
            // A process that was killed comes before those that failed because it was gone.
            let mut failed: Option<(usize, ExitStatus)> = None;
            let mut still = Vec::with_capacity(self.running.len());
            for (rank, mut child) in self.running.drain(..) {
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => {}
                    Ok(Some(status)) => {
                        if failed
                            .is_none_or(|(_, other)| status.signal().is_some() && other.signal().is_none())
                        {
                            failed = Some((rank, status));
                        }
                    }
                    Ok(None) | Err(_) => still.push((rank, child)),
                }
            }
            self.running = still;
            if let Some((rank, status)) = failed {
                return Err(LaunchError::Rank { rank, how: describe(status), code: status.code() });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if self.running.is_empty() {
            return;
        }
        tracing::debug!(first = self.first, count = self.running.len(), "ending the other processes");
        for (_, child) in &self.running {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself in the meantime.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            self.running.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
            if self.running.is_empty() {
                return;
            }
            std::thread::sleep(POLL);
        }
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// In a process that a launcher started: asks the kernel for SIGTERM when the launcher dies.
pub fn follow_launcher() {
    let launcher = std::env::var(LAUNCHER).ok().and_then(|text| text.parse::<i32>().ok());
    if launcher.is_some() {
        // A kernel that cannot do it leaves what the collectives' timeout would end.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
        if rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero).map(i32::from) != launcher {
            // It died before the kernel was asked.
            std::process::exit(1);
        }
    }
}
