//! Programs apart from the shell, limits, and files through a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    dead_code,
    reason = "a test fails by panicking, and each file uses a part of the fixture"
)]

mod running;

use std::time::{Duration, Instant};

use running::{Running, isolated};
use sealign_sandbox::protocol::{
    Changes, ErrorCode, ExecIsolated, FileWrite, LimitKind, ReadFile, Seal, ShellRestart, WriteFiles,
};

const PYTHON: &str = "/usr/bin/python3";

fn write(running: &Running, path: &str, content: &str) {
    let file = FileWrite { path: path.into(), content: content.into(), mode: 0o644 };
    running.client.plain(&WriteFiles { files: vec![file] }).unwrap();
}

#[test]
fn streams_codes_and_signals_come_apart() {
    let running = Running::claimed(&[]);
    let reply =
        running.client.exec_isolated(&isolated(&["sh", "-c", "echo out; echo err >&2; exit 5"])).unwrap();
    assert_eq!((reply.stdout.head.as_str(), reply.stderr.head.as_str()), ("out\n", "err\n"));
    assert_eq!((reply.exit_code, reply.signal, reply.timed_out), (Some(5), None, false));
    let reply = running.client.exec_isolated(&isolated(&["sh", "-c", "kill -SEGV $$"])).unwrap();
    assert_eq!((reply.exit_code, reply.signal), (None, Some(11)));
}

#[test]
fn directory_variables_and_input_are_the_requests() {
    let running = Running::claimed(&[]);
    write(&running, "deep/er/file", "x");
    let request = ExecIsolated {
        cwd: "deep/er".into(),
        env: [("COLOUR".to_owned(), "red".to_owned())].into(),
        stdin: Some("typed".into()),
        ..isolated(&["sh", "-c", "ls; echo $COLOUR; cat"])
    };
    assert_eq!(running.client.exec_isolated(&request).unwrap().stdout.head, "file\nred\ntyped");
}

#[test]
fn programs_that_ignore_a_large_input_do_not_hold_the_server() {
    let running = Running::claimed(&[]);
    let stdin = Some("x".repeat(500_000).as_str().into());
    let reply = running.client.exec_isolated(&ExecIsolated { stdin, ..isolated(&["true"]) }).unwrap();
    assert_eq!(reply.exit_code, Some(0));
}

#[test]
fn a_timeout_kills_and_says_so_with_what_was_printed() {
    let running = Running::claimed(&[]);
    let started = Instant::now();
    let request = ExecIsolated { timeout_seconds: 1, ..isolated(&["sh", "-c", "echo begun; sleep 60"]) };
    let reply = running.client.exec_isolated(&request).unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!((reply.timed_out, reply.signal, reply.stdout.head.as_str()), (true, Some(9), "begun\n"));
}

#[test]
fn nothing_survives_an_isolated_program_and_nothing_holds_its_end() {
    let running = Running::claimed(&[]);
    running.sh("setsid sleep 4740 & export LOST=1");
    let started = Instant::now();
    let reply =
        running.client.exec_isolated(&isolated(&["sh", "-c", "setsid sleep 4741 & echo done"])).unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(reply.stdout.head, "done\n");
    let left =
        running.sh("grep -lz '^474[01]$' /proc/[0-9]*/cmdline 2>/dev/null | grep -v self; echo \"[$LOST]\"");
    assert_eq!(left.output.head, "[]\n");
}

#[test]
fn a_missing_program_and_forbidden_requests_are_refused_by_name() {
    let running = Running::claimed(&[]);
    let refused = |request: &ExecIsolated| {
        let error = running.client.exec_isolated(request).unwrap_err();
        error.refusal().expect("the server should answer").clone()
    };
    assert_eq!(refused(&isolated(&["/no/such/program"])).code, ErrorCode::SpawnFailed);
    assert!(refused(&isolated(&[])).message.starts_with("argv"));
    for name in ["LD_PRELOAD", "SEALIGN_KEY", "", "A=B"] {
        let env = [(name.to_owned(), "x".to_owned())].into();
        assert!(refused(&ExecIsolated { env, ..isolated(&["true"]) }).message.starts_with("env"), "{name:?}");
    }
    for cwd in ["..", "/etc", "missing"] {
        let code = refused(&ExecIsolated { cwd: cwd.into(), ..isolated(&["true"]) }).code;
        assert!(matches!(code, ErrorCode::PathRefused | ErrorCode::NotFound), "{cwd}");
    }
}

#[test]
fn memory_over_the_limit_ends_the_program_as_a_limit() {
    let running = Running::claimed(&["--memory-bytes", "100000000"]);
    let program = "x = []\nwhile True: x.append(bytearray(1000000))";
    let reply = running.client.exec_isolated(&isolated(&[PYTHON, "-S", "-E", "-c", program])).unwrap();
    assert_eq!((reply.limits_hit, reply.signal, reply.timed_out), (vec![LimitKind::Memory], Some(9), false));
    let reply = running.sh(&format!("{PYTHON} -S -E -c '{program}'"));
    assert_eq!(
        (reply.limits_hit, reply.shell_restarted),
        (vec![LimitKind::Memory], Some(ShellRestart::Limit))
    );
    assert_eq!(running.sh("echo fresh").limits_hit, []);
}

#[test]
fn many_processes_together_count_against_memory() {
    let running = Running::claimed(&["--memory-bytes", "100000000"]);
    let one = format!("{PYTHON} -S -E -c 'x = bytearray(30000000); import time; time.sleep(4)'");
    let reply = running.sh(&format!("{one} & {one} & {one} & {one} & wait"));
    assert_eq!(reply.limits_hit, [LimitKind::Memory]);
}

#[test]
fn a_file_over_its_limit_and_cpu_over_its_limit_are_limits() {
    let running = Running::claimed(&["--file-bytes", "1000000", "--cpu-seconds", "1"]);
    let reply = running
        .client
        .exec_isolated(&isolated(&["sh", "-c", "exec head -c 2000000 /dev/zero > big"]))
        .unwrap();
    assert_eq!(reply.limits_hit, [LimitKind::Disk]);
    let reply = running.client.exec_isolated(&isolated(&["sh", "-c", "while :; do :; done"])).unwrap();
    assert_eq!(reply.limits_hit, [LimitKind::Cpu]);
}

#[test]
fn calls_that_reach_other_processes_or_the_kernel_are_filtered_in_children() {
    let running = Running::claimed(&[]);
    let program = "
import ctypes, resource, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *arguments):
    result = getattr(libc, name)(*arguments)
    print(name, result, ctypes.get_errno() if result < 0 else 0)
attempt('unshare', 0x10000000)
attempt('mount', b'none', b'/tmp', b'tmpfs', 0, None)
print(resource.prlimit(0, resource.RLIMIT_CORE))
try:
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (4, 4))
    print('reached')
except PermissionError:
    print('refused')
";
    let reply = running.client.exec_isolated(&isolated(&[PYTHON, "-S", "-E", "-c", program])).unwrap();
    assert_eq!(reply.stdout.head, "unshare -1 1\nmount -1 1\n(0, 0)\nrefused\n", "{}", reply.stderr.head);
}

#[test]
fn a_sealed_tree_tells_what_task_code_changed() {
    let running = Running::claimed(&[]);
    write(&running, "src/fix.py", "old\n");
    write(&running, "keep.py", "same\n");
    assert_eq!(running.client.plain(&Seal::default()).unwrap().files, 2);
    running
        .sh("echo new > src/fix.py; mkdir -p d; mkfifo d/pipe; ln -s /etc/passwd link; touch -d @0 keep.py");
    let request = Changes { max_file_bytes: 1000, max_total_bytes: 1000 };
    let changes = running.client.plain(&request).unwrap().changes;
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["d/pipe", "link", "src/fix.py"]);
    let content = |index: usize| changes[index].new.clone().unwrap().content.map(|bytes| bytes.0);
    assert_eq!(content(0), None);
    assert_eq!(content(1).as_deref(), Some(b"/etc/passwd".as_slice()));
    assert_eq!(content(2).as_deref(), Some(b"new\n".as_slice()));
}

#[test]
fn links_and_pipes_of_task_code_cannot_move_the_servers_reads_and_writes() {
    let running = Running::claimed(&[]);
    running.sh("ln -s /tmp out; ln -s /etc/hostname file; mkfifo pipe");
    for path in ["out/escaped", "file", "pipe", "../x", "/etc/hostname"] {
        let read = running.client.plain(&ReadFile { path: path.into(), max_bytes: 10 }).unwrap_err();
        assert_eq!(read.refusal().unwrap().code, ErrorCode::PathRefused, "read {path}");
        let file = FileWrite { path: path.into(), content: "x".into(), mode: 0o644 };
        let write = running.client.plain(&WriteFiles { files: vec![file] }).unwrap_err();
        assert_eq!(write.refusal().unwrap().code, ErrorCode::PathRefused, "write {path}");
    }
}

#[test]
fn orphans_are_collected() {
    let running = Running::claimed(&[]);
    running.sh("for i in 1 2 3 4 5 6 7 8; do (setsid true &) ; done");
    let deadline = Instant::now() + Duration::from_secs(5);
    while zombies_of(running.child.id()) > 0 {
        assert!(Instant::now() < deadline, "zombies should be collected within a second");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn zombies_of(parent: u32) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.contains(&format!(") Z {parent} "))).count()
}
