//! A real server process for a test, with a client of it, ended when the test ends.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealign_sandbox::client::{BlockingClient, Endpoint};
use sealign_sandbox::protocol::{Exec, ExecIsolated, ExecReply};
use sealign_sandbox::signing::Session;

/// The pod every test server is.
pub const POD: &str = "pod-under-test";

/// A server and the folders it works in.
pub struct Running {
    /// The server's process.
    pub child: Child,
    /// A client that may claim it.
    pub client: BlockingClient,
    /// Its task root.
    pub root: tempfile::TempDir,
    /// Where its socket is.
    pub endpoint: Endpoint,
    _door: tempfile::TempDir,
}

impl Running {
    /// Starts a server with `flags` on top of the necessary ones, without a claim.
    pub fn unclaimed(flags: &[&str]) -> Self {
        let (root, door) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let socket = door.path().join("sandbox.sock");
        // As a background job of a script starts it: with interrupts ignored, which children must not inherit.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' INT QUIT; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_sealign-sandbox")]);
        command.args(["--pod-uid", POD, "--socket"]).arg(&socket).arg("--root").arg(root.path()).args(flags);
        let child = command.env("SEALIGN_CANARY", "canary-7f3a").spawn().unwrap();
        wait_for(&socket);
        let endpoint = Endpoint::Unix(socket);
        let client = client_of(&endpoint, 1);
        Self { child, client, root, endpoint, _door: door }
    }

    /// Starts a server with `flags` and claims it.
    pub fn claimed(flags: &[&str]) -> Self {
        let running = Self::unclaimed(flags);
        running.client.claim("item").unwrap();
        running
    }

    /// Runs `command` in the shell with five seconds of time.
    pub fn sh(&self, command: &str) -> ExecReply {
        self.sh_within(command, 5)
    }

    /// Runs `command` in the shell with `timeout_seconds` of time.
    pub fn sh_within(&self, command: &str, timeout_seconds: u64) -> ExecReply {
        let request = Exec { command: command.to_owned(), timeout_seconds, output_cap_bytes: 1000 };
        self.client.exec(&request).unwrap()
    }

    /// The server's status once it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server should have ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM lets the server end its task processes first; it is no PID 1 here.
        if self.child.try_wait().unwrap().is_none() {
            let _gone = Command::new("kill").arg(self.child.id().to_string()).status();
        }
        let _status = self.child.wait();
    }
}

/// A client whose key is made of `seed`.
pub fn client_of(endpoint: &Endpoint, seed: u8) -> BlockingClient {
    BlockingClient::new(endpoint.clone(), Arc::new(Session::new([seed; 32], POD)))
}

/// An isolated run of `argv` with small bounds.
pub fn isolated(argv: &[&str]) -> ExecIsolated {
    ExecIsolated {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        cwd: String::new(),
        env: [].into(),
        stdin: None,
        timeout_seconds: 5,
        stdout_cap_bytes: 1000,
        stderr_cap_bytes: 1000,
    }
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(path).is_err() {
        assert!(Instant::now() < deadline, "the server should listen");
        std::thread::sleep(Duration::from_millis(1));
    }
}
