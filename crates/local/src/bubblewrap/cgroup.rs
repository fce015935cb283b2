//! Limits by a delegated cgroup (version 2): exact, and for the whole sandbox. Only used where the cgroup that we run in is ours
//! to divide, as `systemd-run --user --scope -p Delegate=yes` makes it; processes of others are never moved.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{BubblewrapError, Limits};

/// Where version 2 is mounted when it is the only one.
const MOUNT: &str = "/sys/fs/cgroup";
/// The controllers that our limits need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// The leaf that this process moves to, because a cgroup that divides its resources holds no processes.
const SUPERVISOR: &str = "sealign-supervisor";
/// Memory on top of the task's for the server and the tree it seals.
const SERVER_BYTES: u64 = 128 << 20;
/// Tasks on top of the task's own for bubblewrap and the server's threads.
const SERVER_TASKS: u64 = 32;

/// A cgroup in which sandboxes get one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    parent: PathBuf,
}

impl Cgroups {
    /// The cgroup of this process, made ready for children, or why that cannot be.
    pub fn find() -> Result<Self, String> {
        let own =
            fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        Self::find_below(Path::new(MOUNT), &own, std::process::id())
    }

    fn find_below(mount: &Path, own: &str, pid: u32) -> Result<Self, String> {
        if !mount.join("cgroup.controllers").is_file() {
            return Err("cgroup version 2 is not mounted here as the only hierarchy".to_owned());
        }
        let path =
            own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no cgroup version 2 entry")?;
        let parent = mount.join(path);
        let read = |name: &str| {
            fs::read_to_string(parent.join(name)).map_err(|error| format!("{name} of our cgroup: {error}"))
        };
        let has_all =
            |text: &str| CONTROLLERS.iter().all(|name| text.split_whitespace().any(|word| word == *name));
        if !has_all(&read("cgroup.controllers")?) {
            return Err("memory and pids are not delegated to our cgroup".to_owned());
        }
        if !has_all(&read("cgroup.subtree_control")?) {
            let others = read("cgroup.procs")?.split_whitespace().any(|entry| entry != pid.to_string());
            if others {
                let remedy = "start us by `systemd-run --user --scope -p Delegate=yes`";
                return Err(format!("our cgroup holds other processes too; {remedy}"));
            }
            divide(&parent, pid).map_err(|error| format!("divide our cgroup: {error}"))?;
        }
        Ok(Self { parent })
    }

    /// Makes the cgroup of one sandbox.
    pub fn create(&self, pod_uid: &str, limits: &Limits) -> Result<SandboxCgroup, BubblewrapError> {
        let path = self.parent.join(format!("sealign-{pod_uid}"));
        let make = || {
            fs::create_dir(&path)?;
            let cgroup = SandboxCgroup { path: path.clone() };
            fs::write(path.join("memory.max"), limits.memory_bytes.saturating_add(SERVER_BYTES).to_string())?;
            fs::write(path.join("pids.max"), limits.pids.saturating_add(SERVER_TASKS).to_string())?;
            // Swap would let a task use more memory than its limit; a kernel without swap accounting has no such file.
            if path.join("memory.swap.max").exists() {
                fs::write(path.join("memory.swap.max"), "0")?;
            }
            Ok(cgroup)
        };
        make().map_err(|source| BubblewrapError::MakeCgroup { path: path.clone(), source })
    }
}

fn divide(parent: &Path, pid: u32) -> io::Result<()> {
    let leaf = parent.join(SUPERVISOR);
    if !leaf.is_dir() {
        fs::create_dir(&leaf)?;
    }
    fs::write(leaf.join("cgroup.procs"), pid.to_string())?;
    let enable: Vec<String> = CONTROLLERS.iter().map(|name| format!("+{name}")).collect();
    fs::write(parent.join("cgroup.subtree_control"), enable.join(" "))
}

/// The cgroup of one sandbox.
#[derive(Debug)]
pub struct SandboxCgroup {
    path: PathBuf,
}

impl SandboxCgroup {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file through which a process joins by writing `0`.
    pub(super) fn membership(&self) -> Result<File, BubblewrapError> {
        let path = self.path.join("cgroup.procs");
        File::options().write(true).open(&path).map_err(|source| BubblewrapError::MakeCgroup { path, source })
    }
}

impl Drop for SandboxCgroup {
    fn drop(&mut self) {
        // Best effort: what cannot be removed holds a process that is still dying, and it goes with our own cgroup.
        let _older_kernel = fs::write(self.path.join("cgroup.kill"), "1");
        let _still_dying = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memory_bytes: 1000,
        pids: 64,
        disk_bytes: 1,
        file_bytes: 1,
        open_files: 1,
        cpu_seconds: None,
    };

    /// A folder with the files a kernel shows in our cgroup; only the kernel's own effects are missing.
    fn hierarchy(controllers: &str, subtree: &str, processes: &str) -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        let own = mount.path().join("user/app.scope");
        fs::create_dir_all(own.join(SUPERVISOR)).unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "memory pids").unwrap();
        fs::write(own.join("cgroup.controllers"), controllers).unwrap();
        fs::write(own.join("cgroup.subtree_control"), subtree).unwrap();
        fs::write(own.join("cgroup.procs"), processes).unwrap();
        mount
    }

    fn found(mount: &tempfile::TempDir) -> Result<Cgroups, String> {
        Cgroups::find_below(mount.path(), "0::/user/app.scope\n", 42)
    }

    #[test]
    fn a_delegated_cgroup_of_our_own_is_divided() {
        let mount = hierarchy("cpu memory pids", "", "42\n");
        found(&mount).unwrap();
        let own = mount.path().join("user/app.scope");
        assert_eq!(fs::read_to_string(own.join(SUPERVISOR).join("cgroup.procs")).unwrap(), "42");
        assert_eq!(fs::read_to_string(own.join("cgroup.subtree_control")).unwrap(), "+memory +pids");
    }

    #[test]
    fn a_cgroup_that_others_live_in_is_left_alone() {
        let mount = hierarchy("memory pids", "", "42\n43\n");
        assert!(found(&mount).unwrap_err().contains("other processes"));
    }

    #[test]
    fn missing_controllers_and_version_1_are_told_apart() {
        assert!(found(&hierarchy("cpu", "", "42\n")).unwrap_err().contains("not delegated"));
        let empty = tempfile::tempdir().unwrap();
        assert!(found(&empty).unwrap_err().contains("version 2"));
    }

    #[test]
    fn a_sandboxs_limits_leave_room_for_the_server() {
        let mount = hierarchy("memory pids", "memory pids", "");
        let cgroup = found(&mount).unwrap().create("pod", &LIMITS).unwrap();
        let read = |name: &str| fs::read_to_string(cgroup.path().join(name)).unwrap();
        assert_eq!(
            (read("memory.max"), read("pids.max")),
            ((1000 + SERVER_BYTES).to_string(), "96".to_owned())
        );
    }
}
