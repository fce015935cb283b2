//! What this machine can do for sandboxes, asked once by starting an empty one. Every refusal names its remedy.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::Cgroups;

/// The program, found by `PATH`.
const PROGRAM: &str = "bwrap";
/// The first version with everything that we ask of it (`--size`, `--perms`, `--disable-userns`).
const VERSION_MIN: (u32, u32) = (0, 8);
/// The unprivileged user of the host as which root runs sandboxes: `nobody`.
const UNPRIVILEGED_ID: u32 = 65_534;

/// Why a sandbox cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BubblewrapError {
    /// There is no bubblewrap.
    #[error("sandboxes need bubblewrap, and `bwrap` is not installed; remedy: apt-get install bubblewrap")]
    NotInstalled,
    /// It does not run.
    #[error("run {path} --version")]
    RunVersion {
        /// The program.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is too old.
    #[error(
        "sandboxes need bubblewrap 0.8 or newer, and {found} is installed; remedy: upgrade it (Debian 12 and Ubuntu 24.04 have it)"
    )]
    TooOld {
        /// What `bwrap --version` says.
        found: String,
    },
    /// AppArmor forbids unprivileged user namespaces, as Ubuntu 24.04 does by default.
    #[error(
        "AppArmor forbids unprivileged user namespaces here; remedy: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows `userns` for bwrap"
    )]
    RestrictedByAppArmor,
    /// The kernel's switch for unprivileged user namespaces is off.
    #[error(
        "unprivileged user namespaces are switched off; remedy: sysctl -w kernel.unprivileged_userns_clone=1"
    )]
    SwitchedOff,
    /// No user namespaces at all.
    #[error("this machine allows no user namespaces; remedy: sysctl -w user.max_user_namespaces=15000")]
    NoneAllowed,
    /// Something else stopped the trial.
    #[error(
        "an empty sandbox did not start: {message}; remedy: inside a container allow user namespaces (Docker: --security-opt seccomp=unconfined), otherwise see bwrap(1)"
    )]
    TrialFailed {
        /// The last line that bubblewrap wrote.
        message: String,
    },
    /// The server's program cannot be read.
    #[error("read the sandbox server {path}; remedy: make build")]
    OpenServer {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The pod's directory or socket cannot be made.
    #[error("make the sandbox's socket {path}")]
    OpenDoor {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The path is longer than a socket's may be.
    #[error(
        "the sandbox's socket {path} has {bytes} bytes, more than {limit}; remedy: a shorter state folder (--state)"
    )]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The most a socket may have.
        limit: usize,
    },
    /// Descriptors for the sandbox cannot be made.
    #[error("make the descriptors that a sandbox inherits")]
    PassDescriptors(#[source] io::Error),
    /// The sandbox's cgroup cannot be made.
    #[error("make the sandbox's cgroup {path}")]
    MakeCgroup {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What enforces memory and process limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitMeans {
    /// A cgroup per sandbox.
    Cgroup(Cgroups),
    /// Limits of each process and the server's watch over all of them.
    Rlimits {
        /// Why there is no cgroup.
        reason: String,
    },
}

/// What this machine can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Means {
    /// The bubblewrap program.
    pub program: PathBuf,
    /// Its version, as it says it.
    pub version: String,
    /// The host's user and group as which sandboxes run, where that is not our own.
    pub host_id: Option<u32>,
    /// What enforces memory and process limits.
    pub limits: LimitMeans,
}

impl Means {
    /// One line for the user.
    pub fn describe(&self) -> String {
        match &self.limits {
            LimitMeans::Cgroup(_) => format!("{}, limits by a cgroup per sandbox", self.version),
            LimitMeans::Rlimits { reason } => {
                format!("{}, limits by rlimits and the server's watch ({reason})", self.version)
            }
        }
    }
}

/// Checks bubblewrap and user namespaces by starting an empty sandbox; call it once per process. May move this process into
/// a child of its own cgroup (see [`Cgroups::find`]).
pub fn probe() -> Result<Means, BubblewrapError> {
    let program = find_program().ok_or(BubblewrapError::NotInstalled)?;
    let version = Command::new(&program).arg("--version").output();
    let version = version.map_err(|source| BubblewrapError::RunVersion { path: program.clone(), source })?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if parse_version(&version).is_none_or(|found| found < VERSION_MIN) {
        return Err(BubblewrapError::TooOld { found: version });
    }
    let host_id = is_root().then_some(UNPRIVILEGED_ID);
    // Root may be allowed what others are not: better a sandbox as root's namespaced self than none.
    let host_id = match (trial(&program, host_id), host_id) {
        (Ok(()), id) => id,
        (Err(_), Some(_)) if trial(&program, None).is_ok() => None,
        (Err(message), _) => return Err(refusal(message)),
    };
    let limits = match Cgroups::find() {
        Ok(cgroups) => LimitMeans::Cgroup(cgroups),
        Err(reason) => LimitMeans::Rlimits { reason },
    };
    Ok(Means { program, version, host_id, limits })
}

/// The program's full path: sandboxes start with an empty environment, in which no name is looked up.
fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0\t")))
}

/// Starts an empty sandbox with every namespace; the last line of its complaint otherwise.
fn trial(program: &Path, host_id: Option<u32>) -> Result<(), String> {
    let mut command = Command::new(program);
    let mut arguments = super::Arguments::default();
    arguments.isolation();
    arguments.text(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/usr/bin/true"]);
    command.args(arguments.0).env_clear().stdin(Stdio::null());
    if let Some(id) = host_id {
        command.uid(id).gid(id);
    }
    let Output { status, stderr, .. } = command.output().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&stderr);
    Err(complaint.lines().last().map_or_else(|| status.to_string(), str::to_owned))
}

/// The cause behind a failed trial, by the kernel's switches.
fn refusal(message: String) -> BubblewrapError {
    let is = |name: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == value)
    };
    classify(message, &is)
}

fn classify(message: String, is: &dyn Fn(&str, &str) -> bool) -> BubblewrapError {
    if is("kernel/unprivileged_userns_clone", "0") {
        BubblewrapError::SwitchedOff
    } else if is("user/max_user_namespaces", "0") {
        BubblewrapError::NoneAllowed
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        BubblewrapError::RestrictedByAppArmor
    } else {
        BubblewrapError::TrialFailed { message }
    }
}

/// Major and minor of `bubblewrap 0.8.0`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse_version("bubblewrap 0.11.0") >= Some(VERSION_MIN));
        assert!(parse_version("bubblewrap 0.6.1") < Some(VERSION_MIN));
        assert_eq!(parse_version("bwrap"), None);
    }

    #[test]
    fn each_cause_names_its_own_remedy() {
        for (name, value, remedy) in [
            ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
            ("user/max_user_namespaces", "0", "user.max_user_namespaces="),
            (
                "kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            ("none", "", "--security-opt seccomp=unconfined"),
        ] {
            let error = classify("cannot".to_owned(), &|asked, is| (asked, is) == (name, value));
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }
}
