//! The embedded run: a state folder, the control plane over it, and Jobs as processes, until everything that was asked for
//! has ended. Killed at any moment and started again, it goes on where the store says that it was.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::core::DynamicObject;
use sealign_reconcile::port::{ClusterError, Kind};
use sealign_reconcile::report::{EventSink, ObjectEvent};
use sealign_reconcile::{Ended, Installation, Reconciler, Settings};
use sealign_storage::{OpenError, Store};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::admission::{Admission, Refused};
use crate::bubblewrap::BubblewrapError;
use crate::folder::{Folder, FolderError};
use crate::job_state::is_finished;
use crate::jobs::JobController;
use crate::launch::Launcher;
use crate::memory::{Applied, Machine, MemoryCluster, Sources};
use crate::notice::{Notice, NoticeSink};
use crate::objects::{ObjectKey, key_of};
use crate::process::Programs;
use crate::references;
use crate::standing::Standing;
use crate::store_watch;
use crate::workplace::Workplace;

/// Sandboxes at once, of all campaigns together: they mostly wait for the model, and one costs some 20 MiB.
pub const SANDBOXES_MAX: usize = 64;
/// Time without any change after which what is blocked is believed to stay so.
const STALL: Duration = Duration::from_secs(3);
/// Seconds until a worker counts as not started; there are no images to pull here.
const START_SECONDS: i64 = 60;
/// Wait before the second round in a row that brought nothing: what fails here fails for a reason of this machine, and a
/// person is watching.
const BARREN_SECONDS: i64 = 0;

/// Why an embedded run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The state folder.
    #[error("{0}")]
    Folder(#[from] FolderError),
    /// The store.
    #[error("{0}")]
    Store(#[from] OpenError),
    /// The cluster.
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    /// Sandboxes cannot be run; the text names the remedy.
    #[error("{0}")]
    Sandbox(#[from] BubblewrapError),
    /// An object of the manifest.
    #[error("{kind} {name}: {refused}")]
    Refused {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong and what to do.
        refused: Refused,
    },
    /// The control plane came to an end that only simulations know.
    #[error("the control plane stopped: {0}")]
    Stopped(String),
}

/// How an embedded run is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where programs are found.
    pub programs: Programs,
    /// Sandboxes at once.
    pub sandboxes_max: usize,
    /// Who is told what happens beside statuses.
    pub notices: NoticeSink,
}

impl Default for Options {
    fn default() -> Self {
        Self { programs: Programs::default(), sandboxes_max: SANDBOXES_MAX, notices: NoticeSink::default() }
    }
}

/// An object and how it stands.
#[derive(Clone, Debug)]
pub struct ObjectResult {
    /// Kind.
    pub kind: Kind,
    /// The object with its status.
    pub object: DynamicObject,
    /// How it stands.
    pub standing: Standing,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// The objects that were asked for, in the order in which they were given.
    pub objects: Vec<ObjectResult>,
    /// Everything had ended before: nothing was done.
    pub was_complete: bool,
}

impl RunResult {
    /// Whether every object ended well.
    pub fn is_success(&self) -> bool {
        self.objects.iter().all(|result| result.standing == Standing::Succeeded)
    }
}

/// A state folder that is open for running.
pub struct Engine {
    state: PathBuf,
    options: Options,
    admission: Arc<Admission>,
    cluster: Arc<MemoryCluster>,
    store: Arc<Store>,
    launcher: Arc<Launcher>,
}

impl Engine {
    /// Opens, and holds, the state folder at `state`; it is made where it is missing. Objects go through `admission`. Needs a
    /// tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`EngineError`]; `Folder(InUse)` when another run holds it.
    pub fn open(state: &Path, admission: Arc<Admission>, options: Options) -> Result<Self, EngineError> {
        let folder = Folder::open(state)?;
        let state = folder.path().to_owned();
        let cluster = MemoryCluster::new(Arc::new(Workplace::new(state.join("store"))))
            .with_admission(admission.clone())
            .with_collection()
            .with_folder(folder)?;
        let store = Arc::new(Store::open_directory(&state.join("store"))?);
        let launcher = Launcher::new(&state, options.programs.clone(), store_url(&state))?;
        let (cluster, launcher) = (Arc::new(cluster), Arc::new(launcher));
        Ok(Self { state, options, admission, cluster, store, launcher })
    }

    /// The state folder's absolute path.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Schemas and rules.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The store below the state folder.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<MemoryCluster> {
        &self.cluster
    }

    /// Creates objects, accepts those that are there as wanted, and changes what may change; all of them or, when one is
    /// refused, none.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for a reference to nothing and for a field that cannot change.
    pub fn apply(&self, objects: &[(Kind, DynamicObject)]) -> Result<Vec<Applied>, EngineError> {
        let before = self.cluster.snapshot();
        let mut present: BTreeSet<ObjectKey> = before.iter().map(|(key, _)| key.clone()).collect();
        for (kind, object) in objects {
            present.insert(key_of(*kind, object)?);
        }
        for (kind, object) in objects {
            let refused = |refused| EngineError::Refused {
                kind: kind.name(),
                name: object.metadata.name.clone().unwrap_or_default(),
                refused,
            };
            references::check(*kind, object, &present).map_err(refused)?;
            let old = before.get(&key_of(*kind, object)?);
            self.admission.admit(*kind, object, old).map_err(refused)?;
        }
        objects.iter().map(|(kind, object)| Ok(self.cluster.apply(*kind, object)?)).collect()
    }

    /// How the objects of `keys` stand.
    pub fn results(&self, keys: &[ObjectKey]) -> Vec<ObjectResult> {
        let objects = self.cluster.snapshot();
        let result = |key: &ObjectKey| {
            let object = objects.get(key)?.clone();
            Some(ObjectResult { kind: key.kind, standing: Standing::of(key.kind, &object), object })
        };
        keys.iter().filter_map(result).collect()
    }

    /// Runs until every object of `roots` has ended, or waits for a person. `progress` is called with all objects whenever
    /// something may have changed; it must not block. Dropping the future is a crash; nothing is lost by it.
    ///
    /// # Errors
    /// [`EngineError::Sandbox`] at once, when a sandbox is needed and this machine has none.
    pub async fn run(
        &self,
        roots: &[ObjectKey],
        progress: impl Fn(&[(Kind, DynamicObject)]) + Send + Sync,
    ) -> Result<RunResult, EngineError> {
        let before = self.results(roots);
        if before.iter().all(|result| result.standing == Standing::Succeeded) {
            return Ok(RunResult { objects: before, was_complete: true });
        }
        if before.iter().any(|result| !result.standing.is_end() && needs_sandbox(result)) {
            let means = self.launcher.sandbox_means()?;
            self.options.notices.send(Notice::SandboxMeans { line: means.describe() });
        }
        let (shutdown, ended) = oneshot::channel();
        let controller = JobController::new(
            self.cluster.clone(),
            self.launcher.clone(),
            self.options.sandboxes_max,
            self.options.notices.clone(),
        );
        let jobs = tokio::spawn(controller.run(ended));
        let watch = tokio::spawn(store_watch::watch(self.state.join("store"), self.cluster.clone()));
        let outcome = self.reconcile(roots, &progress).await;
        watch.abort();
        drop(shutdown);
        jobs.await.map_err(|error| EngineError::Stopped(error.to_string()))?;
        outcome?;
        Ok(RunResult { objects: self.results(roots), was_complete: false })
    }

    async fn reconcile(
        &self,
        roots: &[ObjectKey],
        progress: &(impl Fn(&[(Kind, DynamicObject)]) + Send + Sync),
    ) -> Result<(), EngineError> {
        let installation = Installation {
            store_url: store_url(&self.state),
            worker_start_seconds: START_SECONDS,
            barren_wait_seconds: BARREN_SECONDS,
            is_serial: true,
            ..Installation::default()
        };
        let clock = Arc::new(|| Machine.now());
        let events = Arc::new(Events(self.options.notices.clone()));
        let settings = Settings::embedded();
        let reconciler =
            Reconciler::new(self.cluster.clone(), self.store.clone(), installation, settings, clock)
                .with_events(events);
        let mut engine = sealign_reconcile::Engine::new(&reconciler, None);
        let quiet = Mutex::new(Quiet::default());
        let is_reached = |objects: &[(Kind, DynamicObject)]| {
            progress(objects);
            let mut quiet = quiet.lock().unwrap_or_else(PoisonError::into_inner);
            self.is_over(roots, &mut quiet)
        };
        match engine.run_until(is_reached).await {
            Ended::Reached => Ok(()),
            Ended::Crashed(error) => Err(EngineError::Stopped(error.to_string())),
        }
    }

    /// Every root has ended; or nothing moves any more and some root waits for a person.
    fn is_over(&self, roots: &[ObjectKey], quiet: &mut Quiet) -> bool {
        let results = self.results(roots);
        if results.iter().all(|result| result.standing.is_end()) {
            return true;
        }
        let objects = self.cluster.snapshot();
        let has_live_jobs =
            objects.iter().any(|(key, job)| key.kind == Kind::Job && !is_finished(job.data.get("status")));
        let is_stuck = results.iter().all(|result| !matches!(result.standing, Standing::Running { .. }))
            && results.iter().any(|result| !matches!(result.standing, Standing::Waiting { .. }))
            && !has_live_jobs;
        is_stuck && quiet.has_lasted(objects.version())
    }
}

/// Since when nothing has changed.
#[derive(Debug, Default)]
struct Quiet {
    version: u64,
    since: Option<Instant>,
}

impl Quiet {
    fn has_lasted(&mut self, version: u64) -> bool {
        if self.version != version || self.since.is_none() {
            (self.version, self.since) = (version, Some(Instant::now()));
        }
        self.since.is_some_and(|since| since.elapsed() >= STALL)
    }
}

/// Events of the control plane as notices.
struct Events(NoticeSink);

impl EventSink for Events {
    fn tell(&self, event: ObjectEvent) {
        let ObjectEvent { kind, namespace: _, name, uid: _, event } = event;
        self.0.send(Notice::Event {
            object: format!("{} {name}", kind.name()),
            is_warning: event.is_warning,
            reason: event.reason,
            note: event.note,
        });
    }
}

/// The URL of the store of a state folder.
pub fn store_url(state: &Path) -> String {
    format!("file://{}", state.join("store").display())
}

fn needs_sandbox(result: &ObjectResult) -> bool {
    let has = |pointer: &str| result.object.data.pointer(pointer).is_some();
    match result.kind {
        Kind::TaskSet => {
            result.object.data.pointer("/spec/health/repeats").and_then(Value::as_u64).is_none_or(|n| n > 0)
        }
        Kind::RolloutCampaign | Kind::Benchmark => true,
        Kind::AlignmentRun => has("/spec/campaign") || has("/spec/benchmarks/0"),
        Kind::TrajectoryForest | Kind::Job => false,
    }
}
