//! A sandbox that answers from a script: it listens on its pod's address, and admits requests by the protocol's own gate.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealign_plan::resources::sandbox::PORT;
use sealign_sandbox::http::{Stream, read_body, read_head, write_reply};
use sealign_sandbox::protocol::{Call, Claim, ErrorCode, ErrorReply, Finish};
use sealign_sandbox::signing::{Gate, digest_hex};
use sealign_simulation::scripted::{Files, Values, claim_reply, read};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Time for one request and its reply.
const DEADLINE: Duration = Duration::from_secs(30);
/// Time until the address is ours: a pod that had it may have ended a moment ago.
const BIND_MAX: Duration = Duration::from_secs(10);

/// Hears of claims.
pub type Claimed = Arc<dyn Fn(&str) + Send + Sync>;

/// A sandbox of one pod.
pub struct Sandbox {
    gate: Gate,
    heard: Option<Instant>,
    files: Files,
    values: Values,
    claimed: Claimed,
}

/// How a sandbox ended by itself: its exit code.
pub async fn serve(address: &str, uid: &str, silence: Duration, values: Values, claimed: Claimed) -> i32 {
    let address = SocketAddr::from((address.parse::<std::net::IpAddr>().unwrap(), PORT));
    let listener = bind(address).await;
    let sandbox = Sandbox { gate: Gate::new(uid), heard: None, files: Files::default(), values, claimed };
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
        return Ok((path, claim_reply()));
    }
    let sandbox = &mut *sandbox;
    let reply = sandbox.files.answer(&path, &body, &sandbox.values)?;
    Ok((path, reply))
}
