//! The server process: it accepts connections, admits signed requests, and ends when its runner falls silent.
//!
//! One thread a connection, few of them; one request at work, `ping` beside it. Exit codes are part of the protocol:
//! 0 after a signed `finish` and only then, [`EXIT_SILENT`], [`EXIT_UNCLAIMED`], [`EXIT_TERMINATED`]. As PID 1 the exit ends
//! every task process; elsewhere the server ends them first.

mod work;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::files::Root;
use crate::http::{Stream, read_body, read_head, write_reply};
use crate::launcher::Launcher;
use crate::limits::Limits;
use crate::os;
use crate::processes::Processes;
use crate::protocol::{
    Call, Claim, ClaimReply, ErrorCode, ErrorReply, Finish, LimitMeans, Ping, PingReply, VERSION,
};
use crate::signing::{BODY_DIGEST_HEADER, Gate, digest_hex, is_pod_uid};
use crate::watch::Watch;
use work::Workbench;

/// Exit code when the runner was silent for too long after its claim.
pub const EXIT_SILENT: i32 = 10;
/// Exit code when nobody claimed the sandbox in time.
pub const EXIT_UNCLAIMED: i32 = 11;
/// Exit code after a SIGTERM from outside: 128 + 15.
pub const EXIT_TERMINATED: i32 = 143;

/// Most connections at a time: one at work, one ping, and room for strangers that will be refused.
const CONNECTIONS_MAX: usize = 16;
/// Time for a request to arrive whole.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);
/// Time for the head alone; a stranger can hold a thread for no longer.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a reply to be taken.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a failed accept (descriptors exhausted), instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pod it is; requests for another are refused.
    pub pod_uid: String,
    /// The task root.
    pub root: PathBuf,
    /// The shell of `exec`; see [`crate::shell::find_program`].
    pub shell: Option<PathBuf>,
    /// The whole environment of task code.
    pub environment: BTreeMap<String, String>,
    /// What task code may use.
    pub limits: Limits,
    /// Who enforces memory and processes.
    pub means: LimitMeans,
    /// Where the sandbox's cgroup can be read, if anywhere.
    pub cgroup: Option<PathBuf>,
    /// File systems of this sandbox alone (not a node's), whose filling is a limit.
    pub disks: Vec<PathBuf>,
    /// How long the runner may be silent after its claim.
    pub silence: Duration,
    /// How long to wait for a claim; `None` waits until something else ends the pod.
    pub claim_within: Option<Duration>,
    /// Whether to serve TCP peers of this very pod: task code is one of them, a runner never is.
    pub allow_local_peers: bool,
}

/// Where a server listens.
#[derive(Debug)]
pub enum Listener {
    /// A socket file, best one that the sandbox cannot see.
    Unix(UnixListener),
    /// The pod network.
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<(Stream, bool)> {
        match self {
            Self::Unix(listener) => Ok((Stream::Unix(listener.accept()?.0), false)),
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                let is_local = stream.local_addr()?.ip() == peer.ip() || peer.ip().is_loopback();
                Ok((Stream::Tcp(stream), is_local))
            }
        }
    }
}

/// What all threads share.
struct Server {
    config: Config,
    gate: Mutex<Gate>,
    last_heard: Mutex<Instant>,
    work: Mutex<Workbench>,
    watch: Arc<Watch>,
    connections: AtomicUsize,
    is_ending: AtomicBool,
}

/// The bytes of a reply, and whether the server ends after it.
struct Answer {
    body: Vec<u8>,
    is_last: bool,
}

/// Serves until one of the ends that the module describes; returns only if it cannot start.
pub fn serve(config: Config, listener: &Listener) -> io::Result<std::convert::Infallible> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
    if !is_pod_uid(&config.pod_uid) {
        return Err(invalid("--pod-uid: 1 to 64 letters, digits and -"));
    }
    os::block_sigterm()?;
    if std::process::id() != 1 {
        os::become_subreaper()?;
    }
    let processes = Arc::<Processes>::default();
    let root = Root::open(&config.root)?;
    let launcher = Launcher {
        processes: Arc::clone(&processes),
        shell: config.shell.clone(),
        root: config.root.clone(),
        environment: config.environment.clone(),
        rlimits: config.limits.rlimits(config.means),
    };
    let mut watch = Watch::new(processes, config.limits, config.means);
    (watch.disks, watch.cgroup) = (config.disks.clone(), config.cgroup.clone());
    let watch = Arc::new(watch);
    let server = Arc::new(Server {
        gate: Mutex::new(Gate::new(config.pod_uid.clone())),
        last_heard: Mutex::new(Instant::now()),
        work: Mutex::new(Workbench::new(root, launcher, Arc::clone(&watch))),
        watch,
        connections: AtomicUsize::new(0),
        is_ending: AtomicBool::new(false),
        config,
    });
    start(&server, |server| server.watch.run())?;
    start(&server, Server::end_on_sigterm)?;
    start(&server, Server::end_on_silence)?;
    server.accept(listener)
}

fn start(server: &Arc<Server>, body: impl FnOnce(&Arc<Server>) + Send + 'static) -> io::Result<()> {
    let server = Arc::clone(server);
    std::thread::Builder::new().spawn(move || body(&server)).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn accept(self: &Arc<Self>, listener: &Listener) -> ! {
        loop {
            let accepted = listener.accept();
            let Ok((stream, is_local)) = accepted else {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if is_local && !self.config.allow_local_peers {
                continue;
            }
            let held = Held::take(self);
            if let Some(held) = held {
                // A thread that cannot start drops the connection; the runner sees that and tries again.
                let _refused = start(self, move |server| server.handle(stream, held));
            }
        }
    }

    fn handle(&self, mut stream: Stream, held: Held) {
        let answer = self.answer(&mut stream);
        let deadline = Instant::now() + REPLY_DEADLINE;
        let is_last = matches!(&answer, Ok(answer) if answer.is_last);
        let (status, body) = match answer {
            Ok(answer) => (200, answer.body),
            Err(error) => (error.code.status(), serde_json::to_vec(&error).unwrap_or_default()),
        };
        // What a command says while the server ends it is not its result.
        if self.is_ending.load(Ordering::SeqCst) {
            return;
        }
        // A peer that left does not change what was done; there is nobody else to tell.
        let _gone = write_reply(&mut stream, status, &body, deadline);
        if is_last {
            self.exit(0);
        }
        drop(held);
    }

    fn answer(&self, stream: &mut Stream) -> Result<Answer, ErrorReply> {
        let arrived = Instant::now();
        let mut head = read_head(stream, arrived + HEAD_DEADLINE)?;
        let path = head.path.clone();
        let limit = work::body_limit(&path).ok_or_else(|| {
            ErrorReply::new(ErrorCode::BadRequest, format!("path {path:?}: not of this protocol"))
        })?;
        if head.content_length > limit {
            return Err(ErrorReply::new(ErrorCode::TooLarge, format!("body: over {limit} bytes")));
        }
        let is_claim = path == Claim::PATH;
        if !is_claim {
            lock(&self.gate).admit(&path, &head.credentials)?;
            self.heard();
        }
        let body = read_body(stream, &mut head, arrived + REQUEST_DEADLINE)?;
        if head.credentials.body_digest.as_deref() != Some(digest_hex(&body).as_str()) {
            let code = if head.credentials.body_digest.is_none() {
                ErrorCode::Unsigned
            } else {
                ErrorCode::BadSignature
            };
            return Err(ErrorReply::new(code, format!("{BODY_DIGEST_HEADER}: not the digest of the body")));
        }
        let body = match path.as_str() {
            Claim::PATH => work::run(&body, |claim: Claim| {
                lock(&self.gate).admit_claim(&claim, &head.credentials)?;
                self.heard();
                Ok(self.describe())
            })?,
            Ping::PATH => {
                work::run(&body, |_: Ping| Ok(PingReply { is_busy: self.work.try_lock().is_err() }))?
            }
            _ => work::dispatch(&self.work, &path, &body)?,
        };
        Ok(Answer { body, is_last: path == Finish::PATH })
    }

    fn describe(&self) -> ClaimReply {
        let Config { root, shell, limits, means, .. } = &self.config;
        ClaimReply {
            protocol: VERSION.to_owned(),
            root: root.to_string_lossy().into_owned(),
            shell: shell.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned(),
            means: *means,
            limits: limits.by_name(),
            is_pid_one: std::process::id() == 1,
        }
    }

    fn heard(&self) {
        *lock(&self.last_heard) = Instant::now();
    }

    fn end_on_silence(self: &Arc<Self>) {
        loop {
            let is_claimed = lock(&self.gate).is_claimed();
            let silent_for = lock(&self.last_heard).elapsed();
            let (limit, code) = match (is_claimed, self.config.claim_within) {
                (true, _) => (self.config.silence, EXIT_SILENT),
                (false, Some(limit)) => (limit, EXIT_UNCLAIMED),
                (false, None) => (Duration::MAX, EXIT_UNCLAIMED),
            };
            if silent_for >= limit {
                self.exit(code);
            }
            // Short enough to notice a claim, which changes what is being waited for.
            let left = limit.saturating_sub(silent_for);
            std::thread::sleep(left.clamp(Duration::from_millis(5), Duration::from_millis(250)));
        }
    }

    fn end_on_sigterm(self: &Arc<Self>) {
        loop {
            match os::wait_for_sigterm() {
                Ok(is_from_outside) if is_from_outside || std::process::id() != 1 => {
                    self.exit(EXIT_TERMINATED)
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    fn exit(&self, code: i32) -> ! {
        self.is_ending.store(true, Ordering::SeqCst);
        if std::process::id() != 1 {
            self.watch.processes.end_all();
        }
        std::process::exit(code)
    }
}

/// A place among the connections, given back when dropped.
struct Held(Arc<Server>);

impl Held {
    fn take(server: &Arc<Server>) -> Option<Self> {
        let held = Self(Arc::clone(server));
        (server.connections.fetch_add(1, Ordering::SeqCst) < CONNECTIONS_MAX).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}
