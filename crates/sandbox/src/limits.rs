//! What a task may use, and how that becomes the limits of one process. What sums over processes is the business of
//! [`crate::watch`], or of the cgroup around the sandbox.

use std::collections::BTreeMap;

use crate::protocol::LimitMeans;

/// Threads of the server itself, which count against the same per-user process limit as the task's.
pub const SERVER_THREADS: u64 = 24;
/// Address space on top of twice the memory limit: interpreters reserve far more than they touch, and the watch looks at
/// what is touched. This bound only stops what would outrun the watch.
const ADDRESS_SPACE_EXTRA: u64 = 1 << 30;
/// CPU seconds between the warning signal and the kill.
const CPU_GRACE_SECONDS: u64 = 5;

/// Limits of a sandbox; `None` sets none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all task processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Task processes and threads.
    pub pids: Option<u64>,
    /// Size of the task root and of `/tmp`, each. Whoever mounted them enforces it; the server only recognises a full one.
    pub disk_bytes: Option<u64>,
    /// Largest file a task may write, in bytes.
    pub file_bytes: Option<u64>,
    /// Open descriptors of one process.
    pub open_files: Option<u64>,
    /// CPU seconds of one process.
    pub cpu_seconds: Option<u64>,
}

/// How the C library numbers resources; the static build is against another one.
#[cfg(target_env = "musl")]
pub type Resource = libc::c_int;
/// How the C library numbers resources.
#[cfg(not(target_env = "musl"))]
pub type Resource = libc::__rlimit_resource_t;

/// One resource limit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Which, as libc numbers them.
    pub resource: Resource,
    /// The limit in force.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

impl Limits {
    /// The limits by name, as a claim's reply shows them.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let Self { memory_bytes, pids, disk_bytes, file_bytes, open_files, cpu_seconds } = *self;
        [
            ("memoryBytes", memory_bytes),
            ("pids", pids),
            ("diskBytes", disk_bytes),
            ("fileBytes", file_bytes),
            ("openFiles", open_files),
            ("cpuSeconds", cpu_seconds),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }

    /// The limits of one task process. No core dumps in any case.
    pub fn rlimits(&self, means: LimitMeans) -> Vec<Rlimit> {
        let mut limits = vec![Rlimit { resource: libc::RLIMIT_CORE, soft: 0, hard: 0 }];
        let mut set = |resource, value: Option<u64>| {
            limits.extend(value.map(|value| Rlimit { resource, soft: value, hard: value }));
        };
        set(libc::RLIMIT_FSIZE, self.file_bytes);
        set(libc::RLIMIT_NOFILE, self.open_files);
        if means == LimitMeans::Rlimits {
            set(libc::RLIMIT_NPROC, self.pids.map(|pids| pids.saturating_add(SERVER_THREADS)));
            let address_space = |bytes: u64| bytes.saturating_mul(2).saturating_add(ADDRESS_SPACE_EXTRA);
            set(libc::RLIMIT_AS, self.memory_bytes.map(address_space));
        }
        limits.extend(self.cpu_seconds.map(|seconds| Rlimit {
            resource: libc::RLIMIT_CPU,
            soft: seconds,
            hard: seconds.saturating_add(CPU_GRACE_SECONDS),
        }));
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_takes_over_memory_and_processes() {
        let limits =
            Limits { memory_bytes: Some(1), pids: Some(2), file_bytes: Some(3), ..Limits::default() };
        let resources = |means| limits.rlimits(means).iter().map(|limit| limit.resource).collect::<Vec<_>>();
        assert_eq!(resources(LimitMeans::Cgroup), [libc::RLIMIT_CORE, libc::RLIMIT_FSIZE]);
        assert_eq!(
            resources(LimitMeans::Rlimits),
            [libc::RLIMIT_CORE, libc::RLIMIT_FSIZE, libc::RLIMIT_NPROC, libc::RLIMIT_AS]
        );
    }

    #[test]
    fn only_limits_that_are_set_are_told() {
        let limits = Limits { pids: Some(64), ..Limits::default() };
        assert_eq!(limits.by_name(), BTreeMap::from([("pids".to_owned(), 64)]));
    }
}
