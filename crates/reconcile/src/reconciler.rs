//! One object, one step further.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_plan::policies::report_rate;
use sealign_plan::{Installation, Snapshot};
use serde_json::Value;

use crate::backoff;
use crate::error::{Category, ReconcileError, chain};
use crate::execute::Hands;
use crate::observe::{self, Memory, World};
use crate::port::{Artifacts, Cluster, ClusterError, Kind};
use crate::report::{self, EventSink, NoEvents, ObjectEvent};
use crate::settings::{Clock, CrashPoints, NoCrash, Settings};

/// Objects whose failures and reports are remembered: a bound, not a limit of the product.
const OBJECTS_MAX: usize = 100_000;

/// What one reconcile came to.
#[derive(Debug)]
pub struct Outcome {
    /// Look again after this time though nothing was heard; `None` for an object that is gone.
    pub requeue: Option<Duration>,
    /// Commands that were done.
    pub commands: usize,
    /// Whether the status was written.
    pub wrote_status: bool,
    /// The object has reached its end.
    pub is_finished: bool,
    /// What stopped it.
    pub error: Option<ReconcileError>,
}

/// Names an object.
type ObjectKey = (Kind, String, String);

#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    reported: Option<Timestamp>,
    failures: u32,
}

/// Takes objects one step further. Safe to run twice at once, in two processes too: names decide.
pub struct Reconciler {
    cluster: Arc<dyn Cluster>,
    artifacts: Arc<dyn Artifacts>,
    installation: Installation,
    settings: Settings,
    clock: Clock,
    events: Arc<dyn EventSink>,
    crash_points: Arc<dyn CrashPoints>,
    memory: Memory,
    objects: Mutex<BTreeMap<ObjectKey, Remembered>>,
}

impl Reconciler {
    /// A reconciler over two ports, whose events go nowhere.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        artifacts: Arc<dyn Artifacts>,
        installation: Installation,
        settings: Settings,
        clock: Clock,
    ) -> Self {
        Self {
            cluster,
            artifacts,
            installation,
            settings,
            clock,
            events: Arc::new(NoEvents),
            crash_points: Arc::new(NoCrash),
            memory: Memory::default(),
            objects: Mutex::default(),
        }
    }

    /// Sends events to `sink`.
    #[must_use]
    pub fn with_events(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.events = sink;
        self
    }

    /// Lets a simulation end the process.
    #[must_use]
    pub fn with_crash_points(mut self, crash_points: Arc<dyn CrashPoints>) -> Self {
        self.crash_points = crash_points;
        self
    }

    /// A reconciler that knows what this one knows, over other ports: a simulation goes on from one moment in many ways.
    #[must_use]
    pub fn fork(&self, cluster: Arc<dyn Cluster>, artifacts: Arc<dyn Artifacts>, clock: Clock) -> Self {
        Self {
            cluster,
            artifacts,
            clock,
            installation: self.installation.clone(),
            settings: self.settings,
            events: self.events.clone(),
            crash_points: self.crash_points.clone(),
            memory: self.memory.clone(),
            objects: Mutex::new(self.objects().clone()),
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.cluster
    }

    /// How often to look.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Looks at one object, decides, acts and reports.
    pub async fn reconcile_once(&self, kind: Kind, namespace: &str, name: &str) -> Outcome {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let object = match self.cluster.get(kind, namespace, name).await {
            Ok(Some(object)) => object,
            Ok(None) => {
                self.objects().remove(&key);
                return Outcome {
                    requeue: None,
                    commands: 0,
                    wrote_status: false,
                    is_finished: true,
                    error: None,
                };
            }
            Err(error) => return self.failed(&key, 0, false, ReconcileError::ReadCluster(error)),
        };
        let remembered = self.objects().get(&key).copied().unwrap_or_default();
        let before = report::present(&object);
        let mut snapshot = Snapshot::new(kind, object, remembered.reported);
        let now = self.now();
        let world = World { cluster: &*self.cluster, artifacts: &*self.artifacts, memory: &self.memory };
        let step = match world.decide(&mut snapshot, &self.installation, now).await {
            Ok(step) => step,
            Err(error) => {
                let told = self.tell_error(&key, &snapshot.object, &before, &before, &error).await;
                return self.failed(&key, 0, told, error);
            }
        };
        let hands =
            Hands { cluster: &*self.cluster, artifacts: &*self.artifacts, crash_points: &*self.crash_points };
        let (commands, acted) = hands.run(namespace, &step.commands).await;
        if let Err(error) = acted {
            let told = self.tell_error(&key, &snapshot.object, &before, &step.status, &error).await;
            return self.failed(&key, commands, told, error);
        }
        let is_due = report_rate::is_due(&before, &step.status, remembered.reported, now);
        if is_due && let Err(error) = self.write(&key, &snapshot.object, &before, &step.status, now).await {
            return self.failed(&key, commands, false, error);
        }
        self.objects().entry(key).or_default().failures = 0;
        let settings = self.settings;
        let quiet = if step.is_finished { settings.finished_poll } else { settings.poll };
        let requeue = if commands > 0 { settings.soon } else { quiet };
        Outcome {
            requeue: Some(step.requeue.map_or(requeue, |wanted| wanted.max(settings.soon).min(requeue))),
            commands,
            wrote_status: is_due,
            is_finished: step.is_finished,
            error: None,
        }
    }

    /// Writes what `error` says into the status, where it says anything and that is due. A failure to do so is not told: the
    /// first error is the one that counts.
    async fn tell_error(
        &self,
        key: &ObjectKey,
        object: &DynamicObject,
        before: &Value,
        status: &Value,
        error: &ReconcileError,
    ) -> bool {
        let now = self.now();
        let generation = object.metadata.generation;
        let Some(after) = report::with_error(key.0, generation, status, error, now) else { return false };
        let reported = self.objects().get(key).and_then(|remembered| remembered.reported);
        report_rate::is_due(before, &after, reported, now)
            && self.write(key, object, before, &after, now).await.is_ok()
    }

    async fn write(
        &self,
        key: &ObjectKey,
        object: &DynamicObject,
        before: &Value,
        after: &Value,
        now: Timestamp,
    ) -> Result<(), ReconcileError> {
        let (kind, namespace, name) = key;
        let version = observe::version(object);
        self.cluster
            .patch_status(*kind, namespace, name, version, after)
            .await
            .map_err(ReconcileError::WriteStatus)?;
        self.remember(key, |remembered| remembered.reported = Some(now));
        for event in report::events(before, after) {
            self.events.tell(ObjectEvent {
                kind: *kind,
                namespace: namespace.clone(),
                name: name.clone(),
                uid: object.metadata.uid.clone().unwrap_or_default(),
                event,
            });
        }
        Ok(())
    }

    fn failed(&self, key: &ObjectKey, commands: usize, wrote_status: bool, error: ReconcileError) -> Outcome {
        let category = error.category();
        let is_gone = matches!(&error, ReconcileError::WriteStatus(ClusterError::NotFound(_)));
        let requeue = if category == Category::Conflict {
            // Not a failure of anybody's: look again.
            self.settings.soon
        } else {
            let mut failures = 0;
            self.remember(key, |remembered| {
                remembered.failures = remembered.failures.saturating_add(1);
                failures = remembered.failures;
            });
            let (kind, namespace, name) = key;
            tracing::warn!(kind = kind.name(), %namespace, %name, category = category.name(), error = %chain(&error), "reconcile failed");
            let id = format!("{}/{namespace}/{name}", kind.name());
            backoff::wait(self.settings.retry, self.settings.retry_max, failures, self.settings.seed, &id)
        };
        Outcome {
            requeue: (!is_gone).then_some(requeue),
            commands,
            wrote_status,
            is_finished: false,
            error: Some(error),
        }
    }

    fn remember(&self, key: &ObjectKey, change: impl FnOnce(&mut Remembered)) {
        let mut objects = self.objects();
        if objects.len() >= OBJECTS_MAX && !objects.contains_key(key) {
            objects.clear();
        }
        change(objects.entry(key.clone()).or_default());
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectKey, Remembered>> {
        // Entries are replaced whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
