//! A sandbox that answers from a script: it listens on its pod's address, admits requests by the protocol's own gate,
//! holds files in memory, and runs nothing. Commands print a line; the grader's driver is answered from the values
//! that the tasks' tests expect, right ones where the fix is in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealign_plan::resources::sandbox::PORT;
use sealign_sandbox::base64::Bytes;
use sealign_sandbox::http::{Stream, read_body, read_head, write_reply};
use sealign_sandbox::protocol::{
    Call, Change, ChangeKind, ChangesReply, Claim, ClaimReply, Done, EntryKind, ErrorCode, ErrorReply,
    ExecIsolated, ExecIsolatedReply, ExecReply, FileState, Finish, LimitMeans, Output, PingReply, ReadFile,
    ReadFileReply, SealReply, VERSION, WriteFiles,
};
use sealign_sandbox::signing::{Gate, digest_hex};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::scripts::FIX;

/// Time for one request and its reply.
const DEADLINE: Duration = Duration::from_secs(30);
/// Time until the address is ours: a pod that had it may have ended a moment ago.
const BIND_MAX: Duration = Duration::from_secs(10);

/// What tests' calls give: by call, its value.
pub type Values = Arc<BTreeMap<String, String>>;

/// Hears of claims.
pub type Claimed = Arc<dyn Fn(&str) + Send + Sync>;

/// A sandbox of one pod.
pub struct Sandbox {
    gate: Gate,
    heard: Option<Instant>,
    files: BTreeMap<String, Vec<u8>>,
    sealed: BTreeMap<String, Vec<u8>>,
    values: Values,
    claimed: Claimed,
}

/// How a sandbox ended by itself: its exit code.
pub async fn serve(address: &str, uid: &str, silence: Duration, values: Values, claimed: Claimed) -> i32 {
    let address = SocketAddr::from((address.parse::<std::net::IpAddr>().unwrap(), PORT));
    let listener = bind(address).await;
    let sandbox = Sandbox {
        gate: Gate::new(uid),
        heard: None,
        files: BTreeMap::new(),
        sealed: BTreeMap::new(),
        values,
        claimed,
    };
    let (sandbox, finished) = (Arc::new(Mutex::new(sandbox)), Arc::new(Notify::new()));
    loop {
        let wait = silence / 4;
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (sandbox, finished) = (sandbox.clone(), finished.clone());
                tokio::task::spawn_blocking(move || {
                    if handle(stream, &sandbox) {
                        finished.notify_one();
                    }
                });
            }
            () = finished.notified() => return 0,
            () = tokio::time::sleep(wait) => {}
        }
        let heard = sandbox.lock().unwrap().heard;
        if heard.is_some_and(|at| at.elapsed() > silence) {
            return 10;
        }
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + BIND_MAX;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers one request; true when it was the last.
fn handle(stream: TcpStream, sandbox: &Mutex<Sandbox>) -> bool {
    let Ok(stream) = stream.into_std() else { return false };
    stream.set_nonblocking(false).unwrap();
    let mut stream = Stream::Tcp(stream);
    let deadline = Instant::now() + DEADLINE;
    let answer = answer(&mut stream, sandbox, deadline);
    let is_last = matches!(&answer, Ok((path, _)) if path == Finish::PATH);
    let (status, body) = match answer {
        Ok((_, body)) => (200, body),
        Err(error) => (error.code.status(), serde_json::to_vec(&error).unwrap()),
    };
    // A runner that died does not wait for it.
    let _ = write_reply(&mut stream, status, &body, deadline);
    is_last
}

/// Path and reply of a request, admitted as the real server admits it.
fn answer(
    stream: &mut Stream,
    sandbox: &Mutex<Sandbox>,
    deadline: Instant,
) -> Result<(String, Vec<u8>), ErrorReply> {
    let mut head = read_head(stream, deadline)?;
    let path = head.path.clone();
    let is_claim = path == Claim::PATH;
    if !is_claim {
        let mut sandbox = sandbox.lock().unwrap();
        sandbox.gate.admit(&path, &head.credentials)?;
        sandbox.heard = Some(Instant::now());
    }
    let body = read_body(stream, &mut head, deadline)?;
    if head.credentials.body_digest.as_deref() != Some(digest_hex(&body).as_str()) {
        return Err(ErrorReply::new(ErrorCode::BadSignature, "not the digest of the body"));
    }
    let mut sandbox = sandbox.lock().unwrap();
    if is_claim {
        let claim: Claim = read(&body);
        sandbox.gate.admit_claim(&claim, &head.credentials)?;
        if sandbox.heard.replace(Instant::now()).is_none() {
            (sandbox.claimed)(&claim.item);
        }
        return Ok((path, written(&described())));
    }
    let reply = sandbox.serve(&path, &body)?;
    Ok((path, reply))
}

fn described() -> ClaimReply {
    ClaimReply {
        protocol: VERSION.into(),
        root: "/repo".into(),
        shell: "/bin/sh".into(),
        means: LimitMeans::Rlimits,
        limits: BTreeMap::new(),
        is_pid_one: true,
    }
}

fn written<T: Serialize>(reply: &T) -> Vec<u8> {
    serde_json::to_vec(reply).unwrap()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> T {
    serde_json::from_slice(body).unwrap()
}

impl Sandbox {
    fn serve(&mut self, path: &str, body: &[u8]) -> Result<Vec<u8>, ErrorReply> {
        Ok(match path {
            "/v1/ping" => written(&PingReply { is_busy: false }),
            "/v1/exec" => written(&ExecReply {
                exit_code: 0,
                output: printed("done\n".into()),
                timed_out: false,
                shell_restarted: None,
                limits_hit: Vec::new(),
                wall_milliseconds: 1,
            }),
            "/v1/exec_isolated" => written(&self.grade(&read::<ExecIsolated>(body))),
            "/v1/write_files" => {
                for file in read::<WriteFiles>(body).files {
                    self.files.insert(file.path, file.content.0);
                }
                written(&Done {})
            }
            "/v1/read_file" => match self.files.get(&read::<ReadFile>(body).path) {
                Some(content) => written(&ReadFileReply {
                    content: Bytes(content.clone()),
                    total_bytes: content.len() as u64,
                    mode: 0o644,
                }),
                None => return Err(ErrorReply::new(ErrorCode::NotFound, "no such file")),
            },
            "/v1/seal" => {
                self.sealed = self.files.clone();
                written(&SealReply { files: self.files.len(), without_content: 0, digest: String::new() })
            }
            "/v1/changes" => written(&self.changes()),
            "/v1/finish" => written(&Done {}),
            other => {
                return Err(ErrorReply::new(ErrorCode::BadRequest, format!("{other} is not in the script")));
            }
        })
    }

    fn changes(&self) -> ChangesReply {
        let state = |content: &Vec<u8>| FileState {
            kind: EntryKind::File,
            mode: 0o644,
            bytes: content.len() as u64,
            digest: String::new(),
            content: Some(Bytes(content.clone())),
        };
        let differing = self.files.iter().filter(|(path, content)| self.sealed.get(*path) != Some(content));
        let changes = differing
            .map(|(path, content)| Change {
                path: path.clone(),
                kind: if self.sealed.contains_key(path) { ChangeKind::Modified } else { ChangeKind::Added },
                old: self.sealed.get(path).map(state),
                new: Some(state(content)),
            })
            .collect();
        ChangesReply { changes, is_truncated: false }
    }

    /// Says what the grader's driver says, for calls whose values are known.
    fn grade(&self, request: &ExecIsolated) -> ExecIsolatedReply {
        let program = String::from_utf8(request.stdin.clone().unwrap().0).unwrap();
        let line = |name: &str| program.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let tests: Vec<[String; 3]> = serde_json::from_str(&line("CALLS = ")).unwrap();
        let nonce: String = serde_json::from_str(&line("NONCE = ")).unwrap();
        let is_fixed = self.files.contains_key(FIX);
        let mut stdout = String::new();
        for [id, _, call] in &tests {
            let result = match self.values.get(call) {
                Some(value) if is_fixed => format!("value {value}"),
                Some(_) => "value 'wrong'".to_owned(),
                // The negative control.
                None => "raised IndexError".to_owned(),
            };
            writeln!(stdout, "{nonce} {id} {result}").unwrap();
        }
        writeln!(stdout, "{nonce} end {}", tests.len()).unwrap();
        ExecIsolatedReply {
            exit_code: Some(0),
            signal: None,
            stdout: printed(stdout),
            stderr: Output::default(),
            timed_out: false,
            limits_hit: Vec::new(),
            wall_milliseconds: 1,
        }
    }
}

fn printed(text: String) -> Output {
    Output { total_bytes: text.len() as u64, head: text, ..Output::default() }
}
