//! The processes of the sandbox: started under one lock, counted through `/proc`, ended together, and collected when they
//! are orphans.
//!
//! Two parties wait for children: std's `Child` for those we started, and the reaper for orphans that became ours. The
//! lock around [`Processes::spawn`] and the set of owned PIDs keep the reaper from taking a status that std waits for.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::os;

/// Rounds of killing before [`Processes::end_all`] gives up on a process that will not die (one in uninterruptible sleep).
const END_ROUNDS_MAX: u32 = 400;
/// Pause between those rounds.
const END_PAUSE: Duration = Duration::from_millis(5);
/// Raised so that the kernel, short of memory, ends task code before the server.
const TASK_OOM_SCORE: &str = "1000";

/// The processes of the sandbox.
#[derive(Debug, Default)]
pub struct Processes {
    owned: Mutex<BTreeSet<i32>>,
}

/// One process, as `/proc/<pid>/stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its PID.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Whether it has ended and waits to be collected.
    pub is_zombie: bool,
    /// Its threads.
    pub threads: u64,
    /// Its resident memory in pages.
    pub resident_pages: u64,
}

impl Processes {
    /// Starts `command` as a child whose end its owner waits for; [`Processes::disown`] must follow.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut owned = self.lock();
        let child = command.spawn()?;
        if let Ok(pid) = i32::try_from(child.id()) {
            owned.insert(pid);
            // Best effort: the server's own score stays lower either way in a pod whose memory the kubelet manages.
            let _refused = std::fs::write(format!("/proc/{pid}/oom_score_adj"), TASK_OOM_SCORE);
        }
        Ok(child)
    }

    /// Forgets a child that has been waited for.
    pub fn disown(&self, child: &Child) {
        if let Ok(pid) = i32::try_from(child.id()) {
            self.lock().remove(&pid);
        }
    }

    /// Every process of the task: all that descend from the server.
    pub fn all(&self) -> Vec<Stat> {
        let Ok(own) = i32::try_from(std::process::id()) else { return Vec::new() };
        let mut rest = every_process();
        rest.retain(|process| process.pid != own);
        if own == 1 {
            return rest;
        }
        let mut family = BTreeSet::from([own]);
        let mut found = Vec::new();
        loop {
            let (children, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|process| family.contains(&process.parent));
            if children.is_empty() {
                return found;
            }
            family.extend(children.iter().map(|process| process.pid));
            found.extend(children);
            rest = others;
        }
    }

    /// Collects orphans that have ended.
    pub fn reap_orphans(&self, processes: &[Stat]) {
        let owned = self.lock();
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        for process in processes {
            if process.is_zombie && process.parent == own && !owned.contains(&process.pid) {
                os::reap(process.pid);
            }
        }
    }

    /// Kills every process of the task and waits until none runs. As PID 1 one call reaches all of them at once, so a fork
    /// bomb cannot outrun it.
    pub fn end_all(&self) {
        for _round in 0..END_ROUNDS_MAX {
            let processes = self.all();
            self.reap_orphans(&processes);
            if processes.iter().all(|process| process.is_zombie) {
                return;
            }
            if std::process::id() == 1 {
                os::signal(-1, libc::SIGKILL);
            } else {
                for process in &processes {
                    os::signal(process.pid, libc::SIGKILL);
                }
            }
            std::thread::sleep(END_PAUSE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resident memory of `process` in bytes, shared pages divided among their users where the kernel tells.
pub fn proportional_bytes(process: &Stat) -> u64 {
    let resident = process.resident_pages.saturating_mul(os::page_bytes());
    let Ok(text) = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)) else {
        return resident;
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or(resident, |count| count.saturating_mul(1024))
}

fn every_process() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// Parses `/proc/<pid>/stat`. The command name may hold anything, spaces and parentheses too, so fields count from the
/// last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, _) = text.split_once(' ')?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        threads: number(17)?,
        resident_pages: number(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_forge_the_fields_behind_it() {
        let text = "42 (a) Z 1 (b) S 7 42 42 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 3 0 100 1000 55 184467";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat, Stat { pid: 42, parent: 7, is_zombie: false, threads: 3, resident_pages: 55 });
    }
}
