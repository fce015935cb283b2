//! The eye on limits that no single process has: memory and process count of all task code together, and a full disk.
//!
//! With a cgroup the kernel enforces and the watch only reads what it counted. With rlimits the watch samples `/proc` while
//! a command runs, and ends all task code when a limit is passed; what happens between two samples is bounded by each
//! process's own rlimits. An allocation that the kernel refuses outright leaves no evidence and is the program's own error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits::{Limits, SERVER_THREADS};
use crate::os;
use crate::processes::{Processes, Stat, proportional_bytes};
use crate::protocol::{LimitKind, LimitMeans};

/// Time between samples while a command runs: at a gigabyte a second, memory passes its limit by tens of megabytes.
const BUSY_PERIOD: Duration = Duration::from_millis(25);
/// Time between samples otherwise, when only background jobs can run.
const IDLE_PERIOD: Duration = Duration::from_millis(500);
/// Samples in a row at the process limit until all task code is ended: a fork bomb stays there, a busy build does not.
const SATURATED_SAMPLES_MAX: u32 = 20;
/// A file system with less than this left is full: every write of a page or two fails.
const FULL_BYTES: u64 = 64 * 1024;

/// A memory file system has no bound on files of ours, and each costs the kernel a kilobyte: bytes of disk per file.
const BYTES_PER_INODE: u64 = 4096;
/// Files that are allowed however small the disk is.
const INODES_MIN: u64 = 16 * 1024;

/// How full the disks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Below,
    OutOfBytes,
    OutOfInodes,
}

/// What the watch looks at.
#[derive(Debug)]
pub struct Watch {
    /// The processes it counts and ends.
    pub processes: Arc<Processes>,
    /// The limits.
    pub limits: Limits,
    /// Who enforces memory and processes.
    pub means: LimitMeans,
    /// File systems of this sandbox alone (not a node's), whose filling is a limit.
    pub disks: Vec<PathBuf>,
    /// Where the cgroup's files can be read, if anywhere.
    pub cgroup: Option<PathBuf>,
    sampling: Mutex<()>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_busy: bool,
    hits: BTreeSet<LimitKind>,
    saturated_samples: u32,
    cgroup_events: (u64, u64),
}

impl Watch {
    /// A watch that has seen nothing.
    pub fn new(processes: Arc<Processes>, limits: Limits, means: LimitMeans) -> Self {
        let (disks, cgroup) = (Vec::new(), None);
        Self {
            processes,
            limits,
            means,
            disks,
            cgroup,
            sampling: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Samples for ever; the server gives it a thread.
    pub fn run(&self) {
        loop {
            let state = self.lock();
            let period = if state.is_busy { BUSY_PERIOD } else { IDLE_PERIOD };
            let (state, _timeout) =
                self.wake.wait_timeout(state, period).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            self.sample();
        }
    }

    /// Says that a command starts.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.is_busy = true;
        self.wake.notify_one();
    }

    /// Says that the command ended; returns the limits hit since the last call, sorted.
    pub fn end(&self) -> Vec<LimitKind> {
        self.sample();
        let mut state = self.lock();
        state.is_busy = false;
        std::mem::take(&mut state.hits).into_iter().collect()
    }

    /// Looks once, and ends all task code if it must. One at a time: the kill of one command's excess must be over before
    /// [`Watch::end`] returns, or it would hit the next command.
    fn sample(&self) {
        let _alone = self.sampling.lock().unwrap_or_else(PoisonError::into_inner);
        let processes = self.processes.all();
        self.processes.reap_orphans(&processes);
        let is_over_memory = self.is_over_memory(&processes);
        let is_saturated = self.is_saturated(&processes);
        let fill = self.fill();
        let events = self.cgroup.as_deref().map(cgroup_events);
        let mut state = self.lock();
        let mut hit = |is_hit: bool, kind| is_hit.then(|| state.hits.insert(kind));
        hit(is_over_memory, LimitKind::Memory);
        hit(is_saturated, LimitKind::Pids);
        hit(fill != Fill::Below, LimitKind::Disk);
        if let Some(events) = events {
            let before = std::mem::replace(&mut state.cgroup_events, events);
            let mut hit = |is_hit: bool, kind| is_hit.then(|| state.hits.insert(kind));
            hit(events.0 > before.0, LimitKind::Memory);
            hit(events.1 > before.1, LimitKind::Pids);
        }
        state.saturated_samples = if is_saturated { state.saturated_samples + 1 } else { 0 };
        let is_bomb = state.saturated_samples >= SATURATED_SAMPLES_MAX || self.is_unbounded(&processes);
        drop(state);
        if is_over_memory || is_bomb || fill == Fill::OutOfInodes {
            self.processes.end_all();
        }
    }

    fn is_over_memory(&self, processes: &[Stat]) -> bool {
        let Some(limit) = self.limits.memory_bytes.filter(|_| self.means == LimitMeans::Rlimits) else {
            return false;
        };
        let page = os::page_bytes();
        let resident =
            processes.iter().fold(0, |sum: u64, process| sum.saturating_add(process.resident_pages));
        // Shared pages count once per process here; the exact figure is dear, so it is asked for only when it matters.
        resident.saturating_mul(page) > limit
            && processes.iter().map(proportional_bytes).fold(0, u64::saturating_add) > limit
    }

    fn is_saturated(&self, processes: &[Stat]) -> bool {
        let limit = self.limits.pids.filter(|_| self.means == LimitMeans::Rlimits);
        limit.is_some_and(|limit| running_tasks(processes) >= limit)
    }

    /// Whether there are more tasks than the process limit allows: then the kernel does not enforce it (it exempts the
    /// machine's root, whatever the namespace calls it), and only the watch stands against a fork bomb.
    fn is_unbounded(&self, processes: &[Stat]) -> bool {
        let limit = self.limits.pids.filter(|_| self.means == LimitMeans::Rlimits);
        limit.is_some_and(|limit| running_tasks(processes) > limit.saturating_add(SERVER_THREADS))
    }

    fn fill(&self) -> Fill {
        let Some(disk_bytes) = self.limits.disk_bytes else { return Fill::Below };
        let inodes_max = (disk_bytes / BYTES_PER_INODE).max(INODES_MIN);
        let spaces = || self.disks.iter().filter_map(|disk| os::space(disk));
        if spaces().any(|space| space.used_inodes > inodes_max) {
            Fill::OutOfInodes
        } else if spaces().any(|space| space.available_bytes < FULL_BYTES) {
            Fill::OutOfBytes
        } else {
            Fill::Below
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn running_tasks(processes: &[Stat]) -> u64 {
    let running = processes.iter().filter(|process| !process.is_zombie);
    running.fold(0, |sum: u64, process| sum.saturating_add(process.threads))
}

/// How often the kernel killed for memory and refused a process, by the files of a cgroup (version 2).
fn cgroup_events(cgroup: &Path) -> (u64, u64) {
    let count = |file: &str, name: &str| {
        let text = std::fs::read_to_string(cgroup.join(file)).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.unwrap_or(0)
    };
    (count("memory.events", "oom_kill "), count("pids.events", "max "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_events_of_the_cgroup_are_hits_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Arc::default(), Limits::default(), LimitMeans::Cgroup);
        watch.cgroup = Some(folder.path().to_owned());
        assert_eq!(watch.end(), []);
        std::fs::write(folder.path().join("memory.events"), "low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
            .unwrap();
        std::fs::write(folder.path().join("pids.events"), "max 3\n").unwrap();
        assert_eq!(watch.end(), [LimitKind::Memory, LimitKind::Pids]);
        assert_eq!(watch.end(), []);
    }
}
