//! Leaving nothing behind: processes, control groups, networks, mounts, files and kernel settings of a bed.
//!
//! The same sweep ends a bed, clears what a failed start left, and clears what a killed run left under the number that a
//! new run takes. It works from what is on the machine, not from what a run remembers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{BedError, Result};
use crate::network::CONTROL_PLANE;
use crate::place::Place;
use crate::process::{kill_noted, output, run, until};

/// Seconds that killed processes may take to leave their control groups.
const LEAVE_SECONDS: u64 = 20;
/// Kernel settings that the kubelet changes for the whole machine.
const SETTINGS: [&str; 6] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Removes everything that carries the place's number.
///
/// # Errors
/// What could not be removed, after everything else was.
pub fn sweep(place: &Place) -> Result<()> {
    kill_noted(place.folder());
    let groups = clear_control_groups(place);
    let _ = output(Command::new("ip").args(["link", "del", &place.host_link()]));
    for namespace in namespaces(place) {
        let _ = output(Command::new("ip").args(["netns", "del", &namespace]));
    }
    restore_settings(place);
    let folder = place.folder();
    for mount in mounts_below(folder) {
        let _ = output(Command::new("umount").arg("-l").arg(mount));
    }
    if folder.exists() && mounts_below(folder).is_empty() {
        fs::remove_dir_all(folder).map_err(BedError::file(folder))?;
    }
    groups
}

/// Sweeps `place` and ends this process when it is interrupted or told to end; otherwise a test that somebody stops with
/// Ctrl-C would leave its cluster running.
pub fn on_signals(place: &Place) -> Result<()> {
    let number = place.number();
    let wait = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.is_ok_and(|runtime| runtime.block_on(told_to_end()));
        if ended {
            let swept = sweep(&Place::named(number));
            std::process::exit(if swept.is_ok() { 130 } else { 1 });
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread
        .spawn(wait)
        .map(drop)
        .map_err(|source| BedError::Start { program: "a thread for signals".into(), source })
}

/// Waits for SIGINT or SIGTERM; false when they cannot be waited for.
async fn told_to_end() -> bool {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return false;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    true
}

/// Notes the machine's kernel settings, unless a live bed has changed them already.
pub fn save_settings(place: &Place) -> Result<()> {
    let path = place.shared().join("settings");
    if path.exists() && !place.is_alone() {
        return Ok(());
    }
    let lines = SETTINGS.iter().filter_map(|name| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        Some(format!("{name} {}\n", value.trim()))
    });
    fs::write(&path, lines.collect::<String>()).map_err(BedError::file(path))
}

fn restore_settings(place: &Place) {
    let path = place.shared().join("settings");
    if !place.is_alone() {
        return;
    }
    for line in fs::read_to_string(&path).unwrap_or_default().lines() {
        if let Some((name, value)) = line.split_once(' ')
            && SETTINGS.contains(&name)
        {
            let _ = fs::write(Path::new("/proc/sys").join(name), value);
        }
    }
    let _ = fs::remove_file(path);
}

fn namespaces(place: &Place) -> Vec<String> {
    let known = run(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    let prefix = place.namespace("");
    let is_ours = |name: &&str| {
        name.strip_prefix(&prefix).is_some_and(|part| part == CONTROL_PLANE || part.starts_with('n'))
    };
    known.lines().filter_map(|line| line.split(' ').next()).filter(is_ours).map(str::to_owned).collect()
}

fn clear_control_groups(place: &Place) -> Result<()> {
    let prefix = place.control_group_prefix();
    let mut left = control_groups(&prefix);
    until(Duration::from_secs(LEAVE_SECONDS), || {
        for group in &left {
            remove_group(group);
        }
        left = control_groups(&prefix);
        left.is_empty().then_some(())
    })
    .ok_or_else(|| BedError::Deadline {
        what: "no end of the processes in the bed's control groups".into(),
        seconds: LEAVE_SECONDS,
        detail: left.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
    })
}

fn control_groups(prefix: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let inside =
        hierarchies.flat_map(|hierarchy| fs::read_dir(hierarchy.path()).into_iter().flatten().flatten());
    let ours = inside.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    ours.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Deepest first; what still has processes stays. Whoever is in a bed's group is the bed's: pods that outlived their node.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Mount points in this machine's namespace below `folder`, deepest first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below
}
