//! The life of one pod: its process is started, its folder says so, and its end is told to whoever asked for it.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealign_manifest::Digest;
use sealign_plan::config::{METRICS_PORT_VARIABLE, POD_DIRECTORY_VARIABLE, STORE_VARIABLE};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use crate::bubblewrap::{self, BubblewrapError, Life, Limits, Means, SandboxCgroup};
use crate::folder::FolderError;
use crate::job_spec::JobSpec;
use crate::log::Log;
use crate::pods::{Phase, Pod, PodDirectory};
use crate::process::{PodIdentity, Programs, Spawner, StartError, signal_group, trusted, variables};

/// Variable that names the file into which a model server writes its address.
pub const ADDRESS_FILE_VARIABLE: &str = "SEALIGN_ADDRESS_FILE";
/// Wait between two looks for that file: small beside the time that a model takes to load.
const ADDRESS_LOOK: Duration = Duration::from_millis(20);
/// Longest address.
const ADDRESS_BYTES_MAX: usize = 200;
/// Seconds of the runner's silence that end a claimed sandbox.
const SILENCE_SECONDS: u64 = 60;
/// Open descriptors of one task process.
const OPEN_FILES: u64 = 1024;
/// Limits of a sandbox whose Job names none: the defaults of `spec.sandbox`.
const MEMORY_BYTES: u64 = 2 << 30;
const DISK_BYTES: u64 = 8 << 30;
const PIDS: u64 = 512;
/// Time for a sandbox to end once its line is cut: it takes milliseconds, and more means that it hangs.
const SANDBOX_END: Duration = Duration::from_secs(5);
/// Time that is left for a program's last words after its end; a grandchild may hold the pipe for longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Something that happened to a pod.
#[derive(Clone, Debug)]
pub struct PodEvent {
    /// UID of its Job.
    pub job_uid: String,
    /// Completion index.
    pub index: u32,
    /// The pod as its folder has it now.
    pub pod: Pod,
}

/// Starts pods.
#[derive(Debug)]
pub struct Launcher {
    /// Where pods are written down.
    pub directory: PodDirectory,
    spawner: Spawner,
    programs: Programs,
    doors: PathBuf,
    logs: PathBuf,
    store_url: String,
    means: Mutex<Option<Arc<Means>>>,
}

/// A process and what has to live as long as it.
struct Started {
    child: Child,
    log: tokio::task::JoinHandle<()>,
    life: Option<Life>,
    cgroup: Option<SandboxCgroup>,
    door: Option<PathBuf>,
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.cgroup.take());
        if let Some(door) = self.door.take() {
            let _gone = std::fs::remove_dir_all(door);
        }
    }
}

impl Launcher {
    /// A launcher for the state folder `state`. Doors of sandboxes lie in a short path outside it, for this user only.
    ///
    /// # Errors
    /// [`FolderError`] when folders cannot be made.
    pub fn new(state: &Path, programs: Programs, store_url: String) -> Result<Self, FolderError> {
        let made = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Access { action: "made", path, source }
        };
        let logs = state.join("logs");
        std::fs::create_dir_all(&logs).map_err(made(&logs))?;
        let directory = PodDirectory::open(&state.join("pods"))?;
        let digest = Digest::of_bytes(state.as_os_str().as_encoded_bytes());
        let doors = PathBuf::from(format!("/tmp/sealign-{}", digest.short(12)));
        private_folder(&doors).map_err(made(&doors))?;
        let spawner = Spawner::start().map_err(made(state))?;
        Ok(Self { directory, spawner, programs, doors, logs, store_url, means: Mutex::default() })
    }

    /// Asks the machine whether it can run sandboxes, once.
    ///
    /// # Errors
    /// [`BubblewrapError`], which names the remedy.
    pub fn sandbox_means(&self) -> Result<Arc<Means>, BubblewrapError> {
        let mut known = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(means) = &*known {
            return Ok(means.clone());
        }
        let means = Arc::new(bubblewrap::probe()?);
        *known = Some(means.clone());
        Ok(means)
    }

    /// The file with a pod's output.
    pub fn log_path(&self, pod: &str) -> PathBuf {
        self.logs.join(format!("{pod}.log"))
    }

    /// Runs `pod` to its end, or to the moment that `stop` turns true. Every state is on disk before it is told.
    pub async fn live(
        self: Arc<Self>,
        spec: Arc<JobSpec>,
        mut pod: Pod,
        mut stop: watch::Receiver<bool>,
        events: mpsc::Sender<PodEvent>,
    ) {
        let outcome = self.run(&spec, &mut pod, &mut stop, &events).await;
        (pod.phase, pod.exit_code, pod.reason) = match outcome {
            Ok(status) if status.success() => (Phase::Succeeded, Some(0), String::new()),
            Ok(status) => {
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                let reason = if *stop.borrow() { "Terminated" } else { "Error" };
                (Phase::Failed, code, reason.to_owned())
            }
            Err(error) => (Phase::Failed, None, format!("StartError: {error}")),
        };
        if pod.phase == Phase::Succeeded && spec.is_sandbox() {
            let _none = std::fs::remove_file(self.log_path(&pod.name));
        }
        self.tell(&spec, &pod, &events).await;
    }

    async fn run(
        &self,
        spec: &JobSpec,
        pod: &mut Pod,
        stop: &mut watch::Receiver<bool>,
        events: &mpsc::Sender<PodEvent>,
    ) -> Result<ExitStatus, StartError> {
        let mut started = if spec.is_sandbox() {
            self.start_sandbox(spec, pod).await?
        } else {
            self.start_trusted(spec, pod).await?
        };
        pod.phase = Phase::Running;
        self.tell(spec, pod, events).await;
        let address_file = spec.is_server().then(|| self.address_file(&pod.name));
        let waited = loop {
            tokio::select! {
                ended = started.child.wait() => break ended,
                () = stopped(stop) => break end(spec, &mut started).await,
                address = appeared(address_file.as_deref()), if pod.address.is_empty() => {
                    pod.address = address;
                    self.tell(spec, pod, events).await;
                }
            }
        };
        let program = spec.command.first().cloned().unwrap_or_default();
        let _late = tokio::time::timeout(LAST_WORDS, &mut started.log).await;
        started.log.abort();
        waited.map_err(|source| StartError::Spawn { program, source })
    }

    async fn start_trusted(&self, spec: &JobSpec, pod: &Pod) -> Result<Started, StartError> {
        let identity = PodIdentity { name: &pod.name, uid: &pod.uid, index: pod.index };
        let mut all = variables(spec, &identity, &|name| std::env::var(name).ok())?;
        let mut set = |name: &str, value: String| {
            all.retain(|(known, _)| known != name);
            all.push((name.to_owned(), value));
        };
        set(STORE_VARIABLE, self.store_url.clone());
        set(POD_DIRECTORY_VARIABLE, self.directory.path().display().to_string());
        if spec.is_server() {
            set(ADDRESS_FILE_VARIABLE, self.address_file(&pod.name).display().to_string());
        }
        // Ranks meet under a name of the cluster's DNS, which is this machine.
        if all.iter().any(|(name, _)| name == "MASTER_ADDR") {
            all.retain(|(name, _)| name != "MASTER_ADDR");
            all.push(("MASTER_ADDR".to_owned(), "127.0.0.1".to_owned()));
        }
        // Ports are this machine's too; a run shows its progress on the terminal.
        all.retain(|(name, _)| name != METRICS_PORT_VARIABLE);
        let command = trusted(&self.programs, spec, &all)?;
        self.spawn(spec, pod, command).await
    }

    async fn start_sandbox(&self, spec: &JobSpec, pod: &mut Pod) -> Result<Started, StartError> {
        let means = self.sandbox_means()?;
        let short: String = pod.uid.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        let (listener, socket) = bubblewrap::open_door(&self.doors.join(short))?;
        let disk_bytes = spec.number_flag("--disk-bytes").unwrap_or(DISK_BYTES);
        let sandbox = bubblewrap::SandboxSpec {
            server: self.programs.find(spec.command.first().map_or("", String::as_str))?,
            pod_uid: pod.uid.clone(),
            limits: Limits {
                memory_bytes: spec.number_flag("--memory-bytes").unwrap_or(MEMORY_BYTES),
                pids: spec.number_flag("--pids").unwrap_or(PIDS),
                disk_bytes,
                file_bytes: disk_bytes,
                open_files: OPEN_FILES,
                cpu_seconds: None,
            },
            silence_seconds: SILENCE_SECONDS,
            claim_seconds: None,
            environment: std::collections::BTreeMap::new(),
            read_only: Vec::new(),
        };
        let prepared = bubblewrap::prepare(&sandbox, &means, &listener)?;
        let mut started = self.spawn(spec, pod, prepared.command).await?;
        (started.life, started.cgroup) = (Some(prepared.life), prepared.cgroup);
        started.door = socket.parent().map(Path::to_owned);
        pod.address = format!("unix:{}", socket.display());
        Ok(started)
    }

    async fn spawn(
        &self,
        spec: &JobSpec,
        pod: &Pod,
        mut command: std::process::Command,
    ) -> Result<Started, StartError> {
        let program = spec.command.first().cloned().unwrap_or_default();
        let failed = |source| StartError::Spawn { program: program.clone(), source };
        let log = Log::attach(&mut command, self.log_path(&pod.name)).map_err(failed)?;
        let child = self.spawner.spawn(command).await.map_err(failed)?;
        Ok(Started { child, log: tokio::spawn(log.copy()), life: None, cgroup: None, door: None })
    }

    fn address_file(&self, pod: &str) -> PathBuf {
        self.directory.folder(pod).join("address")
    }

    async fn tell(&self, spec: &JobSpec, pod: &Pod, events: &mpsc::Sender<PodEvent>) {
        if let Err(error) = self.directory.write(pod) {
            tracing::error!(pod = pod.name, %error, "a pod's state could not be written");
        }
        let event = PodEvent { job_uid: spec.uid.clone(), index: pod.index, pod: pod.clone() };
        // The controller is gone only when everything ends.
        let _gone = events.send(event).await;
    }
}

/// Resolves when the pod is asked to end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A controller that is gone asks for the same.
    let _gone = stop.wait_for(|stop| *stop).await;
}

/// Ends a process: a sandbox at once, since nothing in it is worth a last word; a trusted one after its grace.
async fn end(spec: &JobSpec, started: &mut Started) -> std::io::Result<ExitStatus> {
    let is_sandbox = started.life.take().is_some();
    let child = &mut started.child;
    if !is_sandbox {
        signal_group(child, libc::SIGTERM);
    }
    let grace = if is_sandbox { SANDBOX_END } else { Duration::from_secs(spec.grace_seconds) };
    if let Ok(ended) = tokio::time::timeout(grace, child.wait()).await {
        return ended;
    }
    if is_sandbox {
        child.start_kill()?;
    } else {
        signal_group(child, libc::SIGKILL);
    }
    child.wait().await
}

/// Resolves with the address that a server has written.
async fn appeared(file: Option<&Path>) -> String {
    let Some(file) = file else { return std::future::pending().await };
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let address = text.trim();
        if address.starts_with("http://") && address.len() <= ADDRESS_BYTES_MAX {
            return address.to_owned();
        }
        tokio::time::sleep(ADDRESS_LOOK).await;
    }
}

/// Makes an empty folder that only this user can enter. Names in `/tmp` can be taken by others: what is not ours is refused.
fn private_folder(path: &Path) -> std::io::Result<()> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        let ours = std::fs::metadata("/proc/self")?.uid();
        if !found.is_dir() || found.uid() != ours {
            return Err(std::io::Error::other("it exists and belongs to someone else; remove it"));
        }
        std::fs::remove_dir_all(path)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(path)
}
