//! The Job controller: Jobs of the cluster as processes of this machine.
//!
//! It keeps [`JobState`] for every Job that is not finished, starts the next index the moment one ends, and writes statuses
//! the way Kubernetes does, but not more often than anybody could read them. Nothing is polled: Jobs, exits and deadlines
//! each wake it. What it knows survives it: statuses in the cluster, pods in their directory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::core::DynamicObject;
use sealign_reconcile::port::{Cluster, ClusterError, Kind};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::job_spec::JobSpec;
use crate::job_state::{JobState, is_finished};
use crate::launch::{Launcher, PodEvent};
use crate::memory::MemoryCluster;
use crate::notice::{Notice, NoticeSink};
use crate::pods::{Phase, Pod};

/// Least time between two statuses of one running Job.
const STATUS_PAUSE: Duration = Duration::from_millis(200);
/// Longest sleep without a deadline; only a bound for the timer's arithmetic.
const SLEEP_MAX: Duration = Duration::from_hours(1);
/// Pod events that wait at most; a pod waits for room before it goes on.
const EVENTS_MAX: usize = 1_024;
/// Why a pod that outlived its cluster failed, as Kubernetes says it of a node that went away.
const LOST: &str = "NodeLost";

/// Runs Jobs.
pub struct JobController {
    cluster: Arc<MemoryCluster>,
    launcher: Arc<Launcher>,
    sandboxes_max: usize,
    notices: NoticeSink,
    jobs: BTreeMap<String, Tracked>,
    pods: JoinSet<()>,
    sender: mpsc::Sender<PodEvent>,
    events: mpsc::Receiver<PodEvent>,
}

struct Tracked {
    spec: Arc<JobSpec>,
    state: JobState,
    stops: BTreeMap<u32, watch::Sender<bool>>,
    /// Every pod there was, for the day the Job goes.
    names: BTreeSet<String>,
    is_dirty: bool,
    written: Option<Instant>,
    /// Its last status is written.
    is_over: bool,
    /// The object is gone; only its pods are waited for.
    is_gone: bool,
}

impl JobController {
    /// A controller that runs at most `sandboxes_max` sandboxes at once, of all Jobs together.
    pub fn new(
        cluster: Arc<MemoryCluster>,
        launcher: Arc<Launcher>,
        sandboxes_max: usize,
        notices: NoticeSink,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (jobs, pods) = (BTreeMap::new(), JoinSet::new());
        Self { cluster, launcher, sandboxes_max, notices, jobs, pods, sender, events }
    }

    /// Runs Jobs until `shutdown` is sent or dropped; then ends every pod and waits for them.
    pub async fn run(mut self, mut shutdown: oneshot::Receiver<()>) {
        let mut changes = self.cluster.watch_jobs();
        self.recover().await;
        loop {
            self.decide();
            self.fill();
            let wait = self.report();
            tokio::select! {
                _ = &mut shutdown => break,
                // The sender lives in the cluster that we hold.
                _ = changes.changed() => self.sync().await,
                Some(event) = self.events.recv() => self.note_all(event),
                () = tokio::time::sleep(wait) => {}
                Some(_) = self.pods.join_next() => {}
            }
        }
        self.end().await;
    }

    /// Takes up what an earlier process left: its pods are lost, and their indexes have failed.
    async fn recover(&mut self) {
        let survivors = self.launcher.directory.survivors();
        self.sync().await;
        for mut pod in survivors {
            if matches!(pod.phase, Phase::Pending | Phase::Running) {
                (pod.phase, pod.reason, pod.address) = (Phase::Failed, LOST.to_owned(), String::new());
                if let Err(error) = self.launcher.directory.write(&pod) {
                    tracing::error!(pod = pod.name, %error, "a lost pod could not be written down");
                }
            }
            if let Some(job) = self.jobs.get_mut(&pod.job_uid) {
                let spec = job.spec.clone();
                job.state.pod_ended(&spec, pod.index, pod.phase == Phase::Succeeded);
                job.names.insert(pod.name);
                job.is_dirty = true;
            } else if !self.exists(&pod).await {
                self.launcher.directory.remove(&pod.name);
            }
        }
    }

    async fn exists(&self, pod: &Pod) -> bool {
        let listed = self.cluster.list(Kind::Job, None, &BTreeMap::new()).await;
        listed.is_ok_and(|jobs| jobs.iter().any(|job| job.metadata.uid.as_deref() == Some(&pod.job_uid)))
    }

    /// Compares the Jobs of the cluster with those that are tracked.
    async fn sync(&mut self) {
        let listed = match self.cluster.list(Kind::Job, None, &BTreeMap::new()).await {
            Ok(listed) => listed,
            Err(error) => return tracing::error!(%error, "Jobs could not be listed"),
        };
        let mut seen = BTreeSet::new();
        for object in &listed {
            seen.insert(object.metadata.uid.clone().unwrap_or_default());
            self.take_up(object);
        }
        for (_, job) in self.jobs.iter_mut().filter(|(uid, _)| !seen.contains(*uid)) {
            job.is_gone = true;
            job.stop();
        }
        self.forget();
    }

    fn take_up(&mut self, object: &DynamicObject) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let spec = match JobSpec::read(object) {
            Ok(spec) => Arc::new(spec),
            Err(error) => return self.refuse(object, &error.to_string()),
        };
        let now = self.cluster.now();
        let job = self.jobs.entry(uid).or_insert_with(|| Tracked {
            spec: spec.clone(),
            state: JobState::recall(object.data.get("status")),
            stops: BTreeMap::new(),
            names: BTreeSet::new(),
            is_dirty: false,
            written: None,
            is_over: is_finished(object.data.get("status")),
            is_gone: false,
        });
        if job.is_over {
            return;
        }
        if spec.suspended && !job.spec.suspended {
            job.stop();
        }
        if job.state.started.is_none() && !spec.suspended && job.state.end.is_none() {
            job.state.started = Some(now);
            job.is_dirty = true;
        } else if spec.suspended && job.state.started.take().is_some() {
            job.is_dirty = true;
        }
        job.spec = spec;
    }

    fn refuse(&mut self, object: &DynamicObject, problem: &str) {
        if is_finished(object.data.get("status")) {
            return;
        }
        self.notices.send(Notice::JobRefused { problem: problem.to_owned() });
        let key = crate::objects::ObjectKey::new(
            Kind::Job,
            object.metadata.namespace.as_deref().unwrap_or_default(),
            object.metadata.name.as_deref().unwrap_or_default(),
        );
        let now = self.cluster.now();
        let condition = |kind: &str| {
            serde_json::json!({ "type": kind, "status": "True", "reason": "Unsupported", "message": problem,
                "lastTransitionTime": now, "lastProbeTime": now })
        };
        let status = serde_json::json!({ "conditions": [condition("FailureTarget"), condition("Failed")] });
        if let Err(error) = self.cluster.set_job_status(&key, &status, true) {
            tracing::warn!(%error, "a Job's status could not be written");
        }
    }

    fn decide(&mut self) {
        let now = self.cluster.now();
        for job in self.jobs.values_mut().filter(|job| job.is_live()) {
            if job.state.decide(&job.spec, now) {
                job.is_dirty = true;
                job.stop();
            }
        }
    }

    /// Starts what may start, oldest Job first.
    fn fill(&mut self) {
        let live = |job: &Tracked| if job.spec.is_sandbox() { job.stops.len() } else { 0 };
        let mut sandboxes: usize = self.jobs.values().map(live).sum();
        let mut order: Vec<_> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.is_live())
            .map(|(uid, job)| (job.spec.created, job.spec.key.clone(), uid.clone()))
            .collect();
        order.sort();
        for (_, _, uid) in order {
            let Some(job) = self.jobs.get_mut(&uid) else { continue };
            while let Some(index) = job.state.next_index(&job.spec) {
                if job.spec.is_sandbox() {
                    if sandboxes >= self.sandboxes_max {
                        break;
                    }
                    sandboxes += 1;
                }
                let pod = job.begin(index, self.cluster.fresh_uid());
                if let Err(error) = self.launcher.directory.write(&pod) {
                    tracing::error!(pod = pod.name, %error, "a pod could not be written down");
                }
                let (stop, asked) = watch::channel(false);
                job.stops.insert(index, stop);
                let launcher = self.launcher.clone();
                self.pods.spawn(launcher.live(job.spec.clone(), pod, asked, self.sender.clone()));
            }
        }
    }

    /// Notes an event and those that wait behind it, so that one status tells of all of them.
    fn note_all(&mut self, event: PodEvent) {
        self.note(event);
        for _ in 0..EVENTS_MAX {
            let Ok(event) = self.events.try_recv() else { break };
            self.note(event);
        }
        self.forget();
    }

    fn note(&mut self, event: PodEvent) {
        let PodEvent { job_uid, index, pod } = event;
        let Some(job) = self.jobs.get_mut(&job_uid) else { return };
        job.is_dirty = true;
        match pod.phase {
            Phase::Pending => {}
            Phase::Running => {
                if !job.spec.is_server() || !pod.address.is_empty() {
                    job.state.ready.insert(index);
                }
            }
            Phase::Succeeded | Phase::Failed => {
                let was_asked = job.stops.remove(&index).is_some_and(|stop| *stop.borrow());
                let spec = job.spec.clone();
                job.state.pod_ended(&spec, index, pod.phase == Phase::Succeeded);
                if pod.phase == Phase::Failed && !was_asked {
                    let log = self.launcher.log_path(&pod.name);
                    self.notices.send(Notice::PodFailed { zone: spec.zone.clone(), pod, log });
                }
            }
        }
    }

    /// Writes the statuses that are due; says how long nothing will be.
    fn report(&mut self) -> Duration {
        let now = self.cluster.now();
        let mut wait = SLEEP_MAX;
        for job in self.jobs.values_mut().filter(|job| job.is_live()) {
            if let Some(deadline) = job.state.deadline(&job.spec).filter(|_| job.state.end.is_none()) {
                let left = deadline.duration_since(now).max(jiff::SignedDuration::ZERO);
                wait = wait.min(Duration::try_from(left).unwrap_or_default());
            }
            if !job.is_dirty {
                continue;
            }
            let pause = job.written.map_or(Duration::ZERO, |at| STATUS_PAUSE.saturating_sub(at.elapsed()));
            if job.state.end.is_none() && !pause.is_zero() {
                wait = wait.min(pause);
                continue;
            }
            job.is_dirty = false;
            job.written = Some(Instant::now());
            job.is_over = job.state.end.is_some() && job.state.active.is_empty();
            match self.cluster.set_job_status(&job.spec.key, &job.state.status(&job.spec), true) {
                // It was deleted meanwhile, and the next look at the Jobs says so.
                Ok(()) | Err(ClusterError::NotFound(_)) => {}
                Err(error) => {
                    tracing::error!(job = job.spec.key.name, %error, "a status could not be written");
                    (job.is_dirty, job.is_over) = (true, false);
                    wait = wait.min(STATUS_PAUSE);
                }
            }
        }
        wait
    }

    /// Drops Jobs that are gone and whose pods have ended, with their pods' folders.
    fn forget(&mut self) {
        let done: Vec<String> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.is_gone && job.stops.is_empty())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in done {
            let Some(job) = self.jobs.remove(&uid) else { continue };
            for name in &job.names {
                self.launcher.directory.remove(name);
            }
        }
    }

    async fn end(mut self) {
        for job in self.jobs.values_mut() {
            job.stop();
        }
        loop {
            tokio::select! {
                joined = self.pods.join_next() => if joined.is_none() { break },
                Some(event) = self.events.recv() => self.note_all(event),
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
        self.report();
    }
}

impl Tracked {
    fn is_live(&self) -> bool {
        !self.is_gone && !self.is_over
    }

    fn begin(&mut self, index: u32, uid: String) -> Pod {
        let spec = &self.spec;
        self.state.active.insert(index);
        self.is_dirty = true;
        let name = spec.pod_name(index);
        self.names.insert(name.clone());
        let mut labels = spec.labels.clone();
        labels.insert("batch.kubernetes.io/job-name".to_owned(), spec.key.name.clone());
        labels.insert("batch.kubernetes.io/job-completion-index".to_owned(), index.to_string());
        Pod {
            name,
            uid,
            job: spec.key.name.clone(),
            job_uid: spec.uid.clone(),
            index,
            labels,
            annotations: spec.annotations.clone(),
            address: String::new(),
            phase: Phase::Pending,
            exit_code: None,
            reason: String::new(),
        }
    }

    fn stop(&mut self) {
        for stop in self.stops.values() {
            stop.send_replace(true);
        }
    }
}
