//! Sandbox pods on one machine: bubblewrap around the server, and nothing else of the host.
//!
//! [`probe`] asks once what the machine can do and answers with a [`Means`] or with an error that names the remedy;
//! [`open_door`] makes the socket; [`prepare`] builds the command. The socket file stays outside: the server gets the
//! listening descriptor, so task code has no file it could unlink or replace, and no directory of the host to write to. The
//! server's program is copied in through a descriptor, so the sandbox needs no path of ours either.
//!
//! Inside: no network but its own loopback, no capability, no new privileges, no further user namespaces, `/usr` and the
//! loader's links read-only, a private `/proc` and `/dev`, and three memory file systems with a size (`/workspace`, the task
//! root; `/tmp`; `/dev/shm`). Neither `/sys` nor `/home`, `/root` or `/var` is there, and of `/etc` only what we write.
//!
//! Started by root the sandbox runs as an unprivileged user of the host: the kernel exempts root from process limits even
//! where a user namespace calls it something else, and a way out of the namespace must not end at uid 0.
//!
//! A sandbox ends when its [`Life`] is dropped, and so when our process ends, however it does: the server holds the other end
//! of a pipe. bubblewrap's own `--die-with-parent` is not used: when its monitor dies while the sandbox is being built, what it
//! has forked already stays for ever.

mod cgroup;
mod probe;

pub use cgroup::{Cgroups, SandboxCgroup};
pub use probe::{BubblewrapError, LimitMeans, Means, probe};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The task root inside the sandbox.
pub const WORKSPACE: &str = "/workspace";
/// The server's program inside the sandbox.
const SERVER: &str = "/sealign/sealign-sandbox";
/// Where the server reads its cgroup's counters, if there is one.
const CGROUP: &str = "/sealign/cgroup";
/// The user and group that task code sees.
const INSIDE_ID: &str = "1000";
/// Size of `/dev/shm` where the disk limit is larger; Docker's default.
const SHARED_MEMORY_BYTES_MAX: u64 = 64 << 20;
/// Longest path of a socket that the kernel takes, with its final NUL.
const SOCKET_PATH_BYTES: usize = 108;
/// Name of the socket in a pod's directory.
const SOCKET: &str = "sandbox.sock";

/// Directories of the host's root that are links into `/usr` on most systems, and directories on some.
const USR_LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Of the host's `/etc` only what finds programs and libraries below `/usr`.
const ETC_FROM_HOST: [&str; 2] = ["/etc/alternatives", "/etc/ld.so.cache"];
/// The rest of `/etc`, written by us so that it says nothing about the host.
const ETC_WRITTEN: [(&str, &str); 4] = [
    ("/etc/group", "sandbox:x:1000:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("/etc/passwd", "sandbox:x:1000:1000::/tmp:/bin/sh\n"),
];

/// What task code may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all task processes together, in bytes. With a cgroup the files count too; without one the three memory
    /// file systems come on top, each with its own size.
    pub memory_bytes: u64,
    /// Task processes and threads.
    pub pids: u64,
    /// Size of the task root, and again of `/tmp`, in bytes.
    pub disk_bytes: u64,
    /// Largest file, in bytes.
    pub file_bytes: u64,
    /// Open descriptors of one process.
    pub open_files: u64,
    /// CPU seconds of one process; the request's wall time is the usual bound.
    pub cpu_seconds: Option<u64>,
}

/// One sandbox pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The `sealign-sandbox` program on the host.
    pub server: PathBuf,
    /// The pod's UID, which requests must name.
    pub pod_uid: String,
    /// What task code may use.
    pub limits: Limits,
    /// Seconds of the runner's silence after its claim that end the sandbox.
    pub silence_seconds: u64,
    /// Seconds without a claim that end the sandbox; `None` leaves that to the Job's deadline.
    pub claim_seconds: Option<u64>,
    /// Variables of task code beside the server's few. Never secrets: task code reads them.
    pub environment: BTreeMap<String, String>,
    /// Further directories of the host that the sandbox sees, read-only, at the same path (an interpreter outside `/usr`).
    pub read_only: Vec<PathBuf>,
}

/// A command that is ready to be spawned, and what must live as long as its process.
#[derive(Debug)]
pub struct Prepared {
    /// Spawn it once. Standard input and output are closed; standard error is the caller's and carries only words of bubblewrap
    /// and the server, never of the task.
    pub command: Command,
    /// Keep it for as long as the sandbox is to live.
    pub life: Life,
    /// The sandbox's cgroup; dropping it ends what is left in it and removes it.
    pub cgroup: Option<SandboxCgroup>,
}

/// The line that keeps a sandbox alive; dropping it ends everything in there within milliseconds.
#[derive(Debug)]
pub struct Life {
    _line: io::PipeWriter,
}

/// Makes the socket of a pod in `pod_dir`, which becomes accessible to this user only. Returns the listener for [`prepare`] and
/// the path for the runner. Drop the listener once the sandbox is spawned: then connecting fails as soon as it has ended.
pub fn open_door(pod_dir: &Path) -> Result<(UnixListener, PathBuf), BubblewrapError> {
    let path = pod_dir.join(SOCKET);
    let bytes = path.as_os_str().len();
    if bytes >= SOCKET_PATH_BYTES {
        return Err(BubblewrapError::SocketPathTooLong { path, bytes, limit: SOCKET_PATH_BYTES - 1 });
    }
    let open = || {
        fs::create_dir_all(pod_dir)?;
        fs::set_permissions(pod_dir, fs::Permissions::from_mode(0o700))?;
        UnixListener::bind(&path)
    };
    match open() {
        Ok(listener) => Ok((listener, path)),
        Err(source) => Err(BubblewrapError::OpenDoor { path, source }),
    }
}

/// Builds the command of the sandbox `spec` whose server accepts from `listener`.
pub fn prepare(
    spec: &SandboxSpec,
    means: &Means,
    listener: &UnixListener,
) -> Result<Prepared, BubblewrapError> {
    let open = |source| BubblewrapError::OpenServer { path: spec.server.clone(), source };
    let server = OwnedFd::from(File::open(&spec.server).map_err(open)?);
    let door = OwnedFd::from(listener.try_clone().map_err(BubblewrapError::PassDescriptors)?);
    let mut passed = Passed::default();
    let cgroup = match &means.limits {
        LimitMeans::Cgroup(cgroups) => Some(cgroups.create(&spec.pod_uid, &spec.limits)?),
        LimitMeans::Rlimits { .. } => None,
    };
    let mut arguments = Arguments::default();
    arguments.isolation();
    arguments.host_files(spec);
    for (path, text) in ETC_WRITTEN {
        let reader = text_descriptor(text).map_err(BubblewrapError::PassDescriptors)?;
        arguments.file("0444", &passed.number(reader), path);
    }
    arguments.file("0555", &passed.number(server), SERVER);
    if let Some(cgroup) = &cgroup {
        arguments.add(["--ro-bind".into(), cgroup.path().into(), CGROUP.into()]);
    }
    arguments.memory_file_systems(&spec.limits);
    arguments.text(["--remount-ro", "/", "--chdir", WORKSPACE, "--", SERVER]);
    let (line, held) = io::pipe().map_err(BubblewrapError::PassDescriptors)?;
    arguments.server_flags(spec, &passed.number(door), cgroup.is_some());
    arguments.text([format!("--life-fd={}", passed.number(line)).as_str()]);
    let mut command = Command::new(&means.program);
    command.args(arguments.0).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(id) = means.host_id {
        command.uid(id).gid(id);
    }
    let membership = cgroup.as_ref().map(SandboxCgroup::membership).transpose()?;
    inherit(&mut command, passed, membership);
    Ok(Prepared { command, life: Life { _line: held }, cgroup })
}

/// Command line words.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, words: impl IntoIterator<Item = OsString>) {
        self.0.extend(words);
    }

    fn text<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.add(words.into_iter().map(OsString::from));
    }

    fn isolation(&mut self) {
        self.text(["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]);
        self.text(["--uid", INSIDE_ID, "--gid", INSIDE_ID, "--hostname", "sandbox"]);
        self.text(["--new-session", "--as-pid-1", "--clearenv"]);
    }

    fn host_files(&mut self, spec: &SandboxSpec) {
        self.text(["--ro-bind", "/usr", "/usr"]);
        for name in USR_LINKS {
            let path = Path::new("/").join(name);
            if let Ok(target) = fs::read_link(&path) {
                self.add(["--symlink".into(), target.into(), path.into()]);
            } else if path.is_dir() {
                self.add(["--ro-bind".into(), path.clone().into(), path.into()]);
            }
        }
        self.text(["--dir", "/etc"]);
        for path in ETC_FROM_HOST {
            self.text(["--ro-bind-try", path, path]);
        }
        for path in &spec.read_only {
            self.add(["--ro-bind".into(), path.into(), path.into()]);
        }
        self.text(["--proc", "/proc", "--dev", "/dev"]);
    }

    fn file(&mut self, mode: &str, descriptor: &str, path: &str) {
        self.text(["--perms", mode, "--file", descriptor, path]);
    }

    fn memory_file_systems(&mut self, limits: &Limits) {
        let disk = limits.disk_bytes.to_string();
        let shared = limits.disk_bytes.min(SHARED_MEMORY_BYTES_MAX).to_string();
        self.text(["--perms", "1777", "--size", &shared, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]);
        self.text(["--perms", "1777", "--size", &disk, "--tmpfs", "/tmp"]);
        self.text(["--dir", "/var", "--symlink", "../tmp", "/var/tmp"]);
        self.text(["--perms", "0755", "--size", &disk, "--tmpfs", WORKSPACE]);
    }

    fn server_flags(&mut self, spec: &SandboxSpec, door: &str, has_cgroup: bool) {
        let Limits { memory_bytes, pids, disk_bytes, file_bytes, open_files, cpu_seconds } = spec.limits;
        let mut flag = |name: &str, value: &str| self.text([format!("--{name}={value}").as_str()]);
        flag("listen-fd", door);
        flag("pod-uid", &spec.pod_uid);
        flag("root", WORKSPACE);
        flag("silence-seconds", &spec.silence_seconds.to_string());
        flag("memory-bytes", &memory_bytes.to_string());
        flag("pids", &pids.to_string());
        flag("disk-bytes", &disk_bytes.to_string());
        flag("file-bytes", &file_bytes.to_string());
        flag("open-files", &open_files.to_string());
        for disk in [WORKSPACE, "/tmp", "/dev/shm"] {
            flag("disk", disk);
        }
        flag("means", if has_cgroup { "cgroup" } else { "rlimits" });
        if has_cgroup {
            flag("cgroup", CGROUP);
        }
        for (name, value) in [("cpu-seconds", cpu_seconds), ("claim-seconds", spec.claim_seconds)] {
            if let Some(value) = value {
                flag(name, &value.to_string());
            }
        }
        for (name, value) in &spec.environment {
            flag("env", &format!("{name}={value}"));
        }
    }
}

/// Descriptors that the sandbox gets, under the numbers they have here.
#[derive(Default)]
struct Passed(Vec<OwnedFd>);

impl Passed {
    fn number(&mut self, descriptor: impl Into<OwnedFd>) -> String {
        let descriptor = descriptor.into();
        let number = descriptor.as_raw_fd().to_string();
        self.0.push(descriptor);
        number
    }
}

/// A descriptor from which `text` (far below a pipe's capacity) can be read once.
fn text_descriptor(text: &str) -> io::Result<OwnedFd> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.as_bytes())?;
    Ok(reader.into())
}

/// Lets the child keep `passed` and join `membership`. In the child only: clearing close-on-exec here would hand one
/// sandbox's door to another that is forked at the same time.
#[expect(unsafe_code, reason = "std has no other way to pass a descriptor beyond the three standard ones")]
fn inherit(command: &mut Command, passed: Passed, membership: Option<File>) {
    let keep = move || {
        for descriptor in &passed.0 {
            // SAFETY: fcntl with F_SETFD takes integers, and the descriptor is open: the closure owns it.
            if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        match &membership {
            Some(file) => (&mut &*file).write_all(b"0"),
            None => Ok(()),
        }
    };
    // SAFETY: `keep` makes system calls on descriptors it owns and allocates nothing.
    unsafe { command.pre_exec(keep) };
}
