//! What task code can and cannot do in a sandbox of bubblewrap with our server as PID 1. Real processes throughout.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sealign_local::bubblewrap::{
    Life, LimitMeans, Limits, Means, Prepared, SandboxSpec, open_door, prepare, probe,
};
use sealign_sandbox::client::{BlockingClient, Endpoint};
use sealign_sandbox::protocol::{Exec, ExecIsolated, ExecReply, FileWrite, LimitKind, WriteFiles};
use sealign_sandbox::signing::Session;

const POD: &str = "3f1c9a52-sandbox";
const PYTHON: &str = "/usr/bin/python3";

fn means() -> &'static Means {
    static MEANS: OnceLock<Means> = OnceLock::new();
    MEANS.get_or_init(|| {
        let means = probe().expect("these tests need bubblewrap; the error names the remedy");
        println!("{}", means.describe());
        means
    })
}

/// The server's program: the one that `SEALIGN_SANDBOX_PROGRAM` names, else built once by the cargo that runs this test, because
/// a test of one package cannot name another's binary.
fn server() -> PathBuf {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--offline", "-p", "sealign-sandbox", "--bin", "sealign-sandbox"]);
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../sandbox/Cargo.toml");
        build.arg("--manifest-path").arg(std::fs::canonicalize(manifest).unwrap());
        build.arg("--target-dir").arg(target());
        assert!(build.status().unwrap().success());
        target().join("debug/sealign-sandbox")
    };
    let find = || std::env::var_os("SEALIGN_SANDBOX_PROGRAM").map_or_else(build, PathBuf::from);
    SERVER.get_or_init(find).clone()
}

/// The target directory this test was built into: `<target>/<profile>/deps/<test>`.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        server: server(),
        pod_uid: POD.to_owned(),
        limits: Limits {
            memory_bytes: 200 << 20,
            pids: 64,
            disk_bytes: 32 << 20,
            file_bytes: 16 << 20,
            open_files: 256,
            cpu_seconds: None,
        },
        silence_seconds: 60,
        claim_seconds: Some(30),
        environment: [("COLOUR".to_owned(), "red".to_owned())].into(),
        read_only: Vec::new(),
    }
}

struct Sandbox {
    child: Child,
    client: BlockingClient,
    socket: PathBuf,
    life: Option<Life>,
    _pod_dir: tempfile::TempDir,
}

impl Sandbox {
    fn start(spec: &SandboxSpec) -> Self {
        let pod_dir = tempfile::tempdir().unwrap();
        let (listener, socket) = open_door(pod_dir.path()).unwrap();
        let Prepared { mut command, life, cgroup } = prepare(spec, means(), &listener).unwrap();
        assert_eq!(cgroup.is_some(), matches!(means().limits, LimitMeans::Cgroup(_)));
        command.stderr(Stdio::inherit());
        let child = command.spawn().unwrap();
        drop(listener);
        let session = Session::new([3; 32], POD);
        let client = BlockingClient::new(Endpoint::Unix(socket.clone()), Arc::new(session));
        Self { child, client, socket, life: Some(life), _pod_dir: pod_dir }
    }

    fn claimed() -> Self {
        let sandbox = Self::start(&spec());
        assert!(sandbox.client.claim("item").unwrap().is_pid_one);
        sandbox
    }

    fn sh(&self, command: &str) -> ExecReply {
        let request = Exec { command: command.to_owned(), timeout_seconds: 20, output_cap_bytes: 10_000 };
        self.client.exec(&request).unwrap()
    }

    fn python(&self, program: &str) -> ExecReply {
        let file = FileWrite { path: "program.py".into(), content: program.into(), mode: 0o644 };
        self.client.plain(&WriteFiles { files: vec![file] }).unwrap();
        self.sh(&format!("{PYTHON} -S -E program.py"))
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the sandbox should have ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn there_is_no_network_but_its_own_loopback() {
    let sandbox = Sandbox::claimed();
    let reply = sandbox.sh("cat /proc/net/dev | tail -n +3 | cut -d: -f1; cat /proc/net/route | tail -n +2");
    assert_eq!(reply.output.head.trim(), "lo");
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let program = format!(
        "
import socket
for address in [('127.0.0.1', {port}), ('1.1.1.1', 53), ('169.254.169.254', 80)]:
    try:
        socket.create_connection(address, timeout=2)
        print('connected', address)
    except OSError as error:
        print(error.errno)
"
    );
    let reply = sandbox.python(&program);
    assert_eq!(reply.output.head, "111\n101\n101\n", "refused by its own loopback, and unreachable twice");
}

#[test]
fn of_the_host_only_usr_is_visible_and_nothing_but_the_three_memory_disks_is_writable() {
    let sandbox = Sandbox::claimed();
    let reply = sandbox.sh("ls -A / | tr '\\n' ' '; ls -A /etc | tr '\\n' ' '");
    let allowed = [
        "alternatives",
        "bin",
        "dev",
        "etc",
        "group",
        "hosts",
        "ld.so.cache",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "nsswitch.conf",
        "passwd",
        "proc",
        "sbin",
        "sealign",
        "tmp",
        "usr",
        "var",
        "workspace",
    ];
    for name in reply.output.head.split_whitespace() {
        assert!(allowed.contains(&name), "{name} should not be visible");
    }
    let reply = sandbox.sh("find / -xdev -writable -not -path '/proc/*' -not -type l 2>/dev/null; \
        for d in /usr /etc /sealign /dev /var; do touch $d/x 2>/dev/null && echo $d; done; \
        for d in /workspace /tmp /dev/shm /var/tmp; do touch $d/x || echo no $d; done; echo end");
    let writable: Vec<&str> = reply.output.head.lines().filter(|line| !line.starts_with("/proc")).collect();
    // The root's own directories belong to the sandbox's user; being on a read-only mount they take nothing.
    assert!(writable.ends_with(&["end"]), "{writable:?}");
    assert!(!reply.output.head.contains("no /"));
    let mounts = sandbox.sh("cat /proc/mounts").output.head;
    let mut open: Vec<&str> = mounts
        .lines()
        .filter(|line| line.split(' ').nth(3).is_some_and(|options| options.starts_with("rw")))
        .map(|line| line.split(' ').nth(1).unwrap())
        .filter(|place| !place.starts_with("/dev/") || *place == "/dev/shm")
        .collect();
    open.sort_unstable();
    assert_eq!(open, ["/dev/shm", "/proc", "/tmp", "/workspace"]);
}

#[test]
fn neither_environment_nor_command_line_of_the_host_reaches_task_code() {
    let sandbox = Sandbox::claimed();
    let mut names: Vec<String> = sandbox
        .sh("env | cut -d= -f1")
        .output
        .head
        .lines()
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["COLOUR", "HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"]);
    let line = sandbox.sh("tr '\\0' ' ' < /proc/1/cmdline").output.head;
    assert!(line.starts_with("/sealign/sealign-sandbox --listen-fd="), "{line}");
    assert!(!line.contains(env!("CARGO_MANIFEST_DIR")));
}

#[test]
fn task_code_has_no_capability_no_privilege_to_gain_and_no_namespace_to_make() {
    let sandbox = Sandbox::claimed();
    let status = sandbox
        .sh("grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid)' /proc/self/status; grep -E '^Cap' /proc/1/status");
    for line in status.output.head.lines() {
        let (name, value) = line.split_once(":\t").unwrap();
        match name {
            "NoNewPrivs" => assert_eq!(value, "1"),
            "Seccomp" => assert_eq!(value, "2"),
            "Uid" => assert_eq!(value, "1000\t1000\t1000\t1000"),
            _ => assert_eq!(value, "0000000000000000", "{name}"),
        }
    }
    assert_ne!(sandbox.sh("unshare -U true").exit_code, 0);
    assert_ne!(sandbox.sh("mount -t tmpfs none /tmp").exit_code, 0);
    assert_ne!(sandbox.sh("ls /sealign/sealign-sandbox && chmod u+w /sealign/sealign-sandbox").exit_code, 0);
}

#[test]
fn the_sandbox_does_not_run_as_the_hosts_root() {
    let sandbox = Sandbox::claimed();
    let uids = std::fs::read_to_string(format!("/proc/{}/status", sandbox.child.id())).unwrap();
    let uid = uids.lines().find(|line| line.starts_with("Uid:")).unwrap();
    match means().host_id {
        Some(id) => assert!(uid.contains(&id.to_string()), "{uid}"),
        None => assert!(
            !uid.contains("\t0\t"),
            "root without a lesser user only where the machine forbids it: {uid}"
        ),
    }
}

#[test]
fn the_server_can_be_neither_read_nor_traced_nor_limited_nor_ended_by_task_code() {
    let sandbox = Sandbox::claimed();
    let program = "
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
for name in ['environ', 'mem', 'maps', 'auxv', 'stack', 'syscall', 'io']:
    try:
        with open('/proc/1/' + name, 'rb') as file:
            file.read(1)
        print('read', name)
    except OSError:
        pass
for name in ['fd', 'map_files', 'fdinfo']:
    try:
        print('listed', os.listdir('/proc/1/' + name))
    except OSError:
        pass
for name in ['exe', 'cwd', 'root']:
    try:
        print('followed', os.readlink('/proc/1/' + name))
    except OSError:
        pass
if libc.ptrace(16, 1, 0, 0) == 0 or libc.ptrace(0x4206, 1, 0, 0) == 0:
    print('traced')
local = ctypes.create_string_buffer(8)
class Vec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
near, far = Vec(ctypes.addressof(local), 8), Vec(0x400000, 8)
if libc.process_vm_readv(1, ctypes.byref(near), 1, ctypes.byref(far), 1, 0) >= 0:
    print('memory')
handle = os.pidfd_open(1)
for number in range(12):
    if libc.syscall(438, handle, number, 0) >= 0:
        print('descriptor', number)
try:
    resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))
    print('limited')
except PermissionError:
    pass
for number in [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV, signal.SIGUSR1]:
    os.kill(1, number)
class Info(ctypes.Structure):
    _fields_ = [('signo', ctypes.c_int), ('errno', ctypes.c_int), ('code', ctypes.c_int), ('pad', ctypes.c_int * 29)]
for code in [0, 0x80, -1, -6]:
    libc.syscall(129, 1, signal.SIGTERM, ctypes.byref(Info(signal.SIGTERM, 0, code)))
print('done')
";
    let reply = sandbox.python(program);
    assert_eq!(reply.output.head, "done\n");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sandbox.sh("echo still here").output.head, "still here\n");
}

#[test]
fn there_is_no_socket_to_replace_and_no_second_door() {
    let sandbox = Sandbox::claimed();
    let reply = sandbox.sh(
        "find / -xdev -type s 2>/dev/null; cat /proc/net/unix | tail -n +2; cat /proc/net/tcp | tail -n +2",
    );
    assert_eq!(reply.output.head, "", "no socket is visible, the server's own included");
    assert_eq!(sandbox.sh("ls /proc/self/fd | wc -l").output.head, "4\n");
    let mut other = Sandbox::claimed();
    other.client.finish().unwrap();
    assert_eq!(other.ended().code(), Some(0));
    let connected = std::os::unix::net::UnixStream::connect(&other.socket);
    assert!(connected.is_err(), "nobody answers for a sandbox that has ended");
}

#[test]
fn sandboxes_do_not_see_each_other() {
    let (one, other) = (Sandbox::claimed(), Sandbox::claimed());
    one.sh(
        "echo secret > /tmp/note; echo secret > /workspace/note; echo secret > /dev/shm/note; sleep 4750 &",
    );
    assert_eq!(
        other
            .sh("ls /tmp /workspace /dev/shm; grep -l 4750 /proc/[0-9]*/cmdline")
            .output
            .text()
            .matches("note")
            .count(),
        0
    );
    assert!(!other.sh("cat /proc/[0-9]*/cmdline").output.text().contains("sleep\x004750"));
}

#[test]
fn a_fork_bomb_stays_within_its_limit_and_the_server_answers() {
    let sandbox = Sandbox::claimed();
    let request = Exec {
        command: "bomb() { bomb | bomb & }; bomb; sleep 3".into(),
        timeout_seconds: 10,
        output_cap_bytes: 100,
    };
    let worker = sandbox.client.clone();
    let work = std::thread::spawn(move || worker.exec(&request).unwrap());
    let mut peak = 0;
    while !work.is_finished() {
        sandbox.client.ping().unwrap();
        peak = peak.max(processes_of(sandbox.child.id()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let reply = work.join().unwrap();
    println!("fork bomb: at most {peak} processes seen from outside");
    assert!(reply.limits_hit.contains(&LimitKind::Pids), "{reply:?}");
    assert!(peak <= 64 + 32, "{peak}");
    assert_eq!(sandbox.sh("echo alive").output.head, "alive\n");
}

/// Processes below `pid`, itself included, as the host sees them.
fn processes_of(pid: u32) -> usize {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family.len()
}

#[test]
fn a_memory_bomb_a_full_disk_and_a_million_files_end_as_limits() {
    let sandbox = Sandbox::claimed();
    let reply = sandbox.python("x = []\nwhile True: x.append(bytearray(1 << 20))");
    assert!(reply.limits_hit.contains(&LimitKind::Memory), "{reply:?}");
    let reply = sandbox.sh("for i in 1 2 3; do head -c 15000000 /dev/zero > /workspace/big$i; done");
    assert!(reply.limits_hit.contains(&LimitKind::Disk), "{reply:?}");
    assert!(!sandbox.sh("rm -f /workspace/big*").limits_hit.contains(&LimitKind::Memory));
    let files = "
import os
os.mkdir('/tmp/many')
for i in range(1000000): os.close(os.open('/tmp/many/%d' % i, os.O_CREAT | os.O_WRONLY))
";
    let reply = sandbox.python(files);
    assert!(reply.limits_hit.contains(&LimitKind::Disk) && reply.exit_code != 0, "{reply:?}");
}

#[test]
fn cutting_the_line_ends_the_sandbox_with_everything_in_it() {
    let mut sandbox = Sandbox::claimed();
    sandbox.sh("setsid sleep 4760 &");
    sandbox.life = None;
    assert_eq!(sandbox.ended().code(), Some(sealign_sandbox::life::EXIT_ORPHANED));
    assert_is_gone("sleep\x004760");
}

#[test]
fn a_killed_monitor_leaves_nothing_behind() {
    let mut sandbox = Sandbox::claimed();
    sandbox.sh("setsid sleep 4761 &");
    sandbox.child.kill().unwrap();
    sandbox.ended();
    sandbox.life = None;
    assert_is_gone("sleep\x004761");
}

#[test]
fn a_sandbox_whose_line_is_cut_while_it_is_built_ends_too() {
    for step in 0..24_u64 {
        let mut sandbox = Sandbox::start(&spec());
        // Building takes some 5 ms: cuts meet every part of it.
        std::thread::sleep(Duration::from_micros(250 * step));
        sandbox.life = None;
        sandbox.ended();
    }
}

fn assert_is_gone(command_line: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_running(command_line) {
        assert!(Instant::now() < deadline, "task processes outlived the sandbox");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn sigterm_to_the_server_from_outside_is_143() {
    let mut sandbox = Sandbox::claimed();
    let own = sandbox.child.id();
    let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
    assert!(Command::new("kill").arg(children.trim()).status().unwrap().success());
    assert_eq!(sandbox.ended().code(), Some(143));
}

fn is_running(command_line: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|entry| {
        std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains(command_line))
    })
}

#[test]
fn the_time_of_one_sandbox_is_printed() {
    let _built = server();
    let size = std::fs::metadata(server()).unwrap().len();
    let mut times = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let mut sandbox = Sandbox::start(&spec());
        sandbox.client.claim("item").unwrap();
        let claimed = started.elapsed();
        let isolated = ExecIsolated {
            argv: vec!["/usr/bin/true".into()],
            cwd: String::new(),
            env: [].into(),
            stdin: None,
            timeout_seconds: 5,
            stdout_cap_bytes: 10,
            stderr_cap_bytes: 10,
        };
        assert_eq!(sandbox.client.exec_isolated(&isolated).unwrap().exit_code, Some(0));
        let program = started.elapsed();
        assert_eq!(sandbox.sh("true").exit_code, 0);
        let shell = started.elapsed();
        sandbox.client.finish().unwrap();
        assert_eq!(sandbox.ended().code(), Some(0));
        times.push((
            claimed,
            program.saturating_sub(claimed),
            shell.saturating_sub(program),
            started.elapsed(),
        ));
    }
    times.sort_by_key(|times| times.3);
    let (claimed, program, shell, all) = times[times.len() / 2];
    println!(
        "one sandbox (median of {}, server of {size} bytes): start and claim {claimed:?}, isolated true {program:?}, \
         shell and true {shell:?}, all until exit {all:?}",
        times.len()
    );
}
