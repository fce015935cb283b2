//! Who may speak to a server, and how it ends.
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

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use running::{POD, Running, client_of};
use sealign_sandbox::client::{BlockingClient, CallError, Endpoint, encode};
use sealign_sandbox::http::{decode_reply, encode_request};
use sealign_sandbox::protocol::{Call as _, ErrorCode, ErrorReply, Exec, LimitMeans, Ping};
use sealign_sandbox::signing::Session;

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> ErrorCode {
    result.unwrap_err().refusal().expect("the server should answer").code
}

fn raw(endpoint: &Endpoint, bytes: &[u8]) -> Result<(), ErrorCode> {
    let Endpoint::Unix(path) = endpoint else { panic!("a socket") };
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(bytes).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    match decode_reply(&reply).expect("a whole reply") {
        (200, _) => Ok(()),
        (_, body) => Err(serde_json::from_slice::<ErrorReply>(body).unwrap().code),
    }
}

#[test]
fn a_claim_tells_what_the_sandbox_is() {
    let running = Running::unclaimed(&["--pids", "64", "--memory-bytes", "1000000000"]);
    let reply = running.client.claim("item").unwrap();
    assert_eq!((reply.protocol.as_str(), reply.means), ("v1", LimitMeans::Rlimits));
    assert_eq!(reply.root, running.root.path().to_str().unwrap());
    assert!(reply.shell.ends_with("/bash") || reply.shell.ends_with("/sh"));
    assert_eq!(reply.limits, [("memoryBytes".to_owned(), 1_000_000_000), ("pids".to_owned(), 64)].into());
}

#[test]
fn nothing_is_done_before_the_claim() {
    let running = Running::unclaimed(&[]);
    let request = Exec { command: "touch done".into(), timeout_seconds: 1, output_cap_bytes: 1 };
    assert_eq!(code(running.client.exec(&request)), ErrorCode::Unclaimed);
    assert!(!running.root.path().join("done").exists());
}

#[test]
fn a_second_runner_is_refused_and_the_first_may_ask_again() {
    let running = Running::claimed(&[]);
    let thief = client_of(&running.endpoint, 2);
    assert_eq!(code(thief.claim("item")), ErrorCode::AlreadyClaimed);
    assert_eq!(code(thief.ping()), ErrorCode::BadSignature);
    assert_eq!(code(running.client.claim("another item")), ErrorCode::AlreadyClaimed);
    running.client.claim("item").unwrap();
}

#[test]
fn requests_for_another_pod_are_refused() {
    let running = Running::claimed(&[]);
    let other = BlockingClient::new(running.endpoint.clone(), Arc::new(Session::new([1; 32], "other-pod")));
    assert_eq!(code(other.claim("item")), ErrorCode::WrongPod);
    assert_eq!(code(other.ping()), ErrorCode::WrongPod);
}

#[test]
fn replayed_unsigned_and_altered_requests_are_refused() {
    let running = Running::claimed(&[]);
    let request = Exec { command: "echo x >> log".into(), timeout_seconds: 5, output_cap_bytes: 1 };
    let bytes = encode(running.client.session(), &request).unwrap();
    assert_eq!(raw(&running.endpoint, &bytes), Ok(()));
    assert_eq!(raw(&running.endpoint, &bytes), Err(ErrorCode::Replay));
    let unsigned = encode_request(Exec::PATH, &[], b"{}");
    assert_eq!(raw(&running.endpoint, &unsigned), Err(ErrorCode::Unsigned));
    let mut altered = encode(running.client.session(), &request).unwrap();
    let last = altered.len() - 2;
    altered[last] ^= 1;
    assert_eq!(raw(&running.endpoint, &altered), Err(ErrorCode::BadSignature));
    assert_eq!(std::fs::read_to_string(running.root.path().join("log")).unwrap(), "x\n");
}

#[test]
fn foreign_paths_and_large_bodies_are_refused_before_they_are_read() {
    let running = Running::claimed(&[]);
    assert_eq!(raw(&running.endpoint, &encode_request("/v2/ping", &[], b"")), Err(ErrorCode::BadRequest));
    let head = format!("POST {} HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", Ping::PATH);
    assert_eq!(raw(&running.endpoint, head.as_bytes()), Err(ErrorCode::TooLarge));
}

#[test]
fn fields_out_of_range_are_named() {
    let running = Running::claimed(&[]);
    let good = Exec { command: "true".into(), timeout_seconds: 1, output_cap_bytes: 1 };
    for (request, field) in [
        (Exec { timeout_seconds: 0, ..good.clone() }, "timeoutSeconds"),
        (Exec { timeout_seconds: 1_000_000, ..good.clone() }, "timeoutSeconds"),
        (Exec { output_cap_bytes: 1 << 30, ..good.clone() }, "outputCapBytes"),
        (Exec { command: "a\0b".into(), ..good.clone() }, "command"),
        (Exec { command: "x".repeat(300_000), ..good }, "command"),
    ] {
        let refused = running.client.call(&request, Duration::from_secs(5)).unwrap_err();
        assert!(refused.refusal().unwrap().message.starts_with(field), "{refused}");
    }
}

#[test]
fn a_ping_is_answered_while_a_command_runs_and_another_command_is_not() {
    let running = Running::claimed(&[]);
    let worker = running.client.clone();
    let request = Exec { command: "sleep 2".into(), timeout_seconds: 9, output_cap_bytes: 1 };
    let second = request.clone();
    let work = std::thread::spawn(move || worker.exec(&request).unwrap());
    let started = Instant::now();
    while !running.client.ping().unwrap().is_busy {
        assert!(started.elapsed() < Duration::from_secs(2), "the command should be at work");
    }
    assert_eq!(code(running.client.exec(&second)), ErrorCode::Busy);
    assert_eq!(work.join().unwrap().exit_code, 0);
}

#[test]
fn strangers_that_hold_connections_do_not_stop_the_runner() {
    let running = Running::claimed(&[]);
    let Endpoint::Unix(path) = &running.endpoint else { panic!("a socket") };
    let idle: Vec<UnixStream> = (0..12).map(|_| UnixStream::connect(path).unwrap()).collect();
    assert_eq!(running.sh("echo here").output.head, "here\n");
    drop(idle);
}

#[test]
fn finish_ends_the_server_with_0() {
    let mut running = Running::claimed(&[]);
    running.client.finish().unwrap();
    assert_eq!(running.ended().code(), Some(0));
}

#[test]
fn silence_after_the_claim_ends_the_server_with_10_and_pings_prevent_it() {
    let mut running = Running::claimed(&["--silence-seconds", "1"]);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(200));
        running.client.ping().unwrap();
    }
    assert_eq!(running.ended().code(), Some(10));
}

#[test]
fn silence_also_ends_a_server_whose_command_runs() {
    let mut running = Running::claimed(&["--silence-seconds", "1"]);
    let worker = running.client.clone();
    let request = Exec { command: "sleep 4720".into(), timeout_seconds: 60, output_cap_bytes: 1 };
    let work = std::thread::spawn(move || worker.exec(&request).is_err());
    assert_eq!(running.ended().code(), Some(10));
    assert!(work.join().unwrap());
}

#[test]
fn strangers_do_not_count_as_the_runner() {
    let mut running = Running::claimed(&["--silence-seconds", "1"]);
    let thief = client_of(&running.endpoint, 2);
    let started = Instant::now();
    while running.child.try_wait().unwrap().is_none() {
        let _refused = thief.ping();
        assert!(started.elapsed() < Duration::from_secs(5), "refused pings kept the server alive");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(running.ended().code(), Some(10));
}

#[test]
fn an_unclaimed_server_ends_with_11_at_its_deadline() {
    let mut running = Running::unclaimed(&["--claim-seconds", "1"]);
    assert_eq!(running.ended().code(), Some(11));
}

#[test]
fn sigterm_ends_the_server_with_143_and_its_task_processes_too() {
    let mut running = Running::claimed(&[]);
    let reply = running.sh("setsid sleep 4730 >/dev/null 2>&1 & echo $!");
    let pid: u32 = reply.output.head.trim().parse().unwrap();
    assert!(Command::new("kill").arg(running.child.id().to_string()).status().unwrap().success());
    let status = running.ended();
    assert_eq!((status.code(), status.signal()), (Some(143), None));
    assert!(!std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists());
}

#[test]
fn tcp_serves_the_runner_but_no_peer_of_its_own_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let root = tempfile::tempdir().unwrap();
    for (allow, is_served) in [("true", true), ("false", false)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealign-sandbox"))
            .args(["--pod-uid", POD, "--listen", &address, "--allow-local-peers", allow, "--root"])
            .arg(root.path())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(5), "the server should listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        let client = client_of(&Endpoint::Tcp(address.parse().unwrap()), 1);
        assert_eq!(client.claim("item").is_ok(), is_served, "local peers {allow}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_wrong_flag_is_named_and_exits_with_2() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sealign-sandbox")).args(["--sockets", "/x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--socket"));
}
