//! The operator at work with its own token and exactly the rights that it asks for. Resolvers are run by the test from the
//! Job's own environment; a runner is only said to be ready, so that its sandboxes are started.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use sealign_manifest::ObjectKeys;
use sealign_manifest::group::Progress;
use sealign_operator::app::{self, Stop};
use sealign_operator::cluster::resource;
use sealign_operator::config::Config;
use sealign_operator::metrics::Metrics;
use sealign_plan::config::WorkerConfig;
use sealign_reconcile::port::Kind;
use sealign_storage::{ArtifactStoreExt as _, Store};
use sealign_worker::resolve::{self, Suites};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::server::ApiServer;
use crate::{eventually, rights};

/// Time over which an idle operator is watched, with a look at every object each second.
const IDLE: Duration = Duration::from_secs(20);
/// Time in which an operator that is told to stop has to be gone.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A running operator.
struct Operator {
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    fn start(server: &ApiServer, store: &Store, namespace: &str, identity: &str, lease: &str) -> Self {
        let installation = json!({ "namespaces": [namespace], "barrenWaitSeconds": 1 }).to_string();
        let variables = [
            ("SEALIGN_STORE", "file:///nowhere"),
            ("SEALIGN_INSTALLATION", installation.as_str()),
            ("SEALIGN_LEASE", lease),
            ("SEALIGN_POLL_SECONDS", "1"),
            ("SEALIGN_PYTHON_IMAGE", "tasks/python:1"),
            ("POD_NAME", identity),
            ("POD_NAMESPACE", "operator"),
        ];
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::read(&variables).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let client = app::counted(server.config("operator"), &metrics).unwrap();
        let (stop, told) = oneshot::channel();
        let told: Stop = told.map(|_| ()).boxed().shared();
        let (store, shown) = (store.clone(), metrics.clone());
        let task = tokio::spawn(async move { app::operate(&config, client, store, shown, told).await });
        Self { metrics, stop, task }
    }

    /// Stops it, and says how long that took.
    async fn end(self) -> Duration {
        let begun = Instant::now();
        self.stop.send(()).unwrap();
        tokio::time::timeout(STOP_MAX, self.task).await.expect("it does not stop").unwrap().unwrap();
        begun.elapsed()
    }

    /// Requests that change something, without the lease's.
    fn writes(&self) -> u64 {
        let is_write = |verb: &str| ["create", "update", "patch", "delete"].contains(&verb);
        let counted = self.metrics.accesses();
        counted
            .iter()
            .filter(|((verb, what), _)| is_write(verb) && !what.starts_with("leases"))
            .map(|(_, n)| n)
            .sum()
    }
}

/// One namespace and what the test does in it.
struct Site {
    client: Client,
    namespace: String,
    store: Store,
}

impl Site {
    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind))
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn apply(&self, kind: Kind, name: &str, spec: Value) {
        let object = json!({ "apiVersion": kind.api_version(), "kind": kind.name(),
            "metadata": { "name": name }, "spec": spec });
        let object = serde_json::from_value(object).unwrap();
        self.api(kind).create(&PostParams::default(), &object).await.unwrap();
    }

    /// The Job of a stage, once it is there.
    async fn job(&self, stage: &str) -> Job {
        let selector = ListParams::default().labels(&format!("sealign.dev/stage={stage}"));
        eventually(&format!("the Job of {stage}"), || async {
            self.jobs().list(&selector).await.unwrap().items.into_iter().next()
        })
        .await
    }

    /// Does a resolver's work, told by its Job, and says that the Job is complete.
    async fn resolve(&self, job: &Job) {
        let variable = |name: &str| {
            let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
            let found = pod.containers[0].env.iter().flatten().find(|variable| variable.name == name);
            found.and_then(|variable| variable.value.clone()).unwrap_or_else(|| panic!("no variable {name}"))
        };
        let suites = Suites { python_image: variable("SEALIGN_PYTHON_IMAGE"), ..Suites::default() };
        match serde_json::from_str(&variable("SEALIGN_CONFIG")).unwrap() {
            WorkerConfig::ResolveTasks(config) => {
                resolve::tasks::resolve(&self.store, &config, &suites).await.unwrap();
            }
            WorkerConfig::ResolvePlan(config) => resolve::plan(&self.store, &config).await.unwrap(),
            other => panic!("no resolver's configuration: {other:?}"),
        }
        let time = "2026-01-01T00:00:00Z";
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Done", "lastTransitionTime": time });
        self.report(
            job,
            json!({ "succeeded": 1, "completedIndexes": "0", "startTime": time, "completionTime": time,
                "conditions": [condition("SuccessCriteriaMet"), condition("Complete")] }),
        )
        .await;
    }

    async fn report(&self, job: &Job, status: Value) {
        let name = job.metadata.name.as_deref().unwrap();
        let patch = Patch::Merge(json!({ "status": status }));
        self.jobs().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Message of a condition, once it has this status.
    async fn condition(&self, kind: Kind, name: &str, condition: &str, status: &str) -> String {
        eventually(&format!("{name}: {condition}={status}"), || async {
            let object = self.api(kind).get(name).await.unwrap();
            let found = object
                .data
                .pointer("/status/conditions")?
                .as_array()?
                .iter()
                .find(|found| found["type"] == condition && found["status"] == status)?;
            Some(found["message"].as_str()?.to_owned())
        })
        .await
    }
}

/// From a TaskSet to sandboxes of a campaign, with nothing granted but what is listed; then nothing is written any more.
pub async fn a_campaign_is_driven_and_idles_without_a_write(server: &ApiServer) {
    let client = server.admin();
    for name in ["operator", "work"] {
        crate::namespace(&client, name).await;
    }
    rights::grant(&client, "operator", "work").await;
    let site = Site { client, namespace: "work".into(), store: Store::memory() };
    let operator = Operator::start(server, &site.store, "work", "op-a", "sealign-operator");
    drive(&site).await;
    suspend_and_resume(&site).await;
    elsewhere(&site).await;
    idle(&operator).await;
    told(&site).await;
    let took = operator.end().await;
    println!("        stopped in {:.1} s", took.as_secs_f64());
    let (asked, refused) = rights::asked(&server.audit());
    assert!(refused.is_empty(), "the list of rights lacks {refused:?}");
    let granted = rights::granted();
    let beyond: BTreeSet<_> = asked.difference(&granted).filter(|(_, what)| what != "pods").collect();
    assert!(beyond.is_empty(), "asked for what is not listed: {beyond:?}");
    let unused: Vec<_> = granted.difference(&asked).map(|(verb, what)| format!("{verb} {what}")).collect();
    println!("        granted and not used in this scenario: {}", unused.join(", "));
}

async fn drive(site: &Site) {
    let mini = json!({ "mini": { "split": "Train", "count": 3 } });
    site.apply(Kind::TaskSet, "tasks", json!({ "source": mini, "health": { "repeats": 0 } })).await;
    let resolver = site.job("resolve").await;
    site.resolve(&resolver).await;
    site.condition(Kind::TaskSet, "tasks", "Ready", "True").await;
    site.jobs().delete(resolver.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    let policy = json!({ "name": "a", "model": { "scripted": { "policy": "strong" } } });
    let spec = json!({ "taskSetRef": { "name": "tasks" }, "samplesPerTask": 2, "parallelism": 4, "policies": [policy],
        "queue": { "name": "lq" }, "sandbox": { "runtimeClassName": "nowhere" } });
    site.apply(Kind::RolloutCampaign, "c", spec).await;
    let resolver = eventually("the campaign's resolver", || async {
        let selector = ListParams::default().labels("sealign.dev/stage=resolve");
        site.jobs().list(&selector).await.unwrap().items.into_iter().find(|job| {
            job.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "RolloutCampaign")
        })
    })
    .await;
    site.resolve(&resolver).await;
    let runner = site.job("run").await;
    assert_eq!(runner.spec.as_ref().unwrap().suspend, Some(false), "a runner waits in no queue");
    ready(site, &runner).await;
    let why = eventually("the missing RuntimeClass is told", || async {
        let object = site.api(Kind::RolloutCampaign).get("c").await.unwrap();
        let conditions = object.data.pointer("/status/conditions")?.to_string();
        conditions.contains("RuntimeClass `nowhere` does not exist").then_some(conditions)
    })
    .await;
    assert!(why.contains("create it, or name another in spec.sandbox.runtimeClassName"), "{why}");
    let classes: Api<RuntimeClass> = Api::all(site.client.clone());
    let class = json!({ "metadata": { "name": "nowhere" }, "handler": "runc" });
    classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let sandboxes = site.job("rollout").await;
    let spec = sandboxes.spec.unwrap();
    assert_eq!((spec.completions, spec.parallelism, spec.suspend), (Some(6), Some(4), Some(true)));
    assert_eq!(sandboxes.metadata.labels.unwrap()["kueue.x-k8s.io/queue-name"], "lq");
}

/// Says that the runner's pod is ready and that models answer.
async fn ready(site: &Site, runner: &Job) {
    let active = json!({ "active": 1, "ready": 1, "startTime": "2026-01-01T00:00:00Z" });
    site.report(runner, active).await;
    let campaign = site.api(Kind::RolloutCampaign).get("c").await.unwrap();
    let keys: ObjectKeys = sealign_plan::names::keys(Kind::RolloutCampaign, &campaign);
    let progress = Progress { ready: true, ..Progress::default() };
    site.store.overwrite_json(&keys.progress(), &progress).await.unwrap();
}

async fn suspend_and_resume(site: &Site) {
    let campaigns = site.api(Kind::RolloutCampaign);
    let suspend = |is: bool| Patch::Merge(json!({ "spec": { "suspend": is } }));
    campaigns.patch("c", &PatchParams::default(), &suspend(true)).await.unwrap();
    site.condition(Kind::RolloutCampaign, "c", "Suspended", "True").await;
    let selector = ListParams::default().labels("sealign.dev/stage in (run,rollout)");
    let gone = || async { site.jobs().list(&selector).await.unwrap().items.is_empty().then_some(()) };
    eventually("live Jobs are deleted", gone).await;
    campaigns.patch("c", &PatchParams::default(), &suspend(false)).await.unwrap();
    let runner = site.job("run").await;
    ready(site, &runner).await;
    site.job("rollout").await;
}

/// An object where nothing is enabled is told so and nothing is made for it.
async fn elsewhere(site: &Site) {
    let other = Site { namespace: "default".into(), client: site.client.clone(), store: site.store.clone() };
    let mini = json!({ "mini": { "split": "Train", "count": 3 } });
    other.apply(Kind::TaskSet, "far", json!({ "source": mini })).await;
    let message = other.condition(Kind::TaskSet, "far", "Ready", "False").await;
    assert!(message.contains("namespace `default` is not enabled"), "{message}");
    assert!(other.jobs().list(&ListParams::default()).await.unwrap().items.is_empty());
}

async fn idle(operator: &Operator) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, looks) = (operator.writes(), reads(operator));
    tokio::time::sleep(IDLE).await;
    let (writes, looks) = (operator.writes() - before, reads(operator) - looks);
    println!("        idle: {writes} writes, {looks} reads of objects in {} s", IDLE.as_secs());
    assert_eq!(writes, 0);
    assert!(looks >= IDLE.as_secs() / 2, "it was not looking at all");
}

fn reads(operator: &Operator) -> u64 {
    let key = ("get".to_owned(), "rolloutcampaigns.sealign.dev".to_owned());
    operator.metrics.accesses().get(&key).copied().unwrap_or_default()
}

/// What happened is an event of its object, and a series of its conditions and figures.
async fn told(site: &Site) {
    let events: Api<Event> = Api::namespaced(site.client.clone(), &site.namespace);
    let reasons = eventually("events", || async {
        let found = events.list(&ListParams::default()).await.unwrap().items;
        let of_campaign = found.iter().filter(|event| {
            event.regarding.as_ref().is_some_and(|object| object.kind.as_deref() == Some("RolloutCampaign"))
        });
        let reasons: BTreeSet<String> = of_campaign.filter_map(|event| event.reason.clone()).collect();
        reasons.contains("Suspended").then_some(reasons)
    })
    .await;
    assert!(reasons.contains("ClusterUnavailable") || reasons.contains("Running"), "{reasons:?}");
}

/// Two operators without a lease: every Job is made once, and nobody minds.
pub async fn two_operators_make_every_job_once(server: &ApiServer) {
    const SETS: usize = 12;
    let client = server.admin();
    let site = Site { client, namespace: "work".into(), store: Store::memory() };
    let operators =
        ["op-b", "op-c"].map(|identity| Operator::start(server, &site.store, "work", identity, ""));
    for n in 0..SETS {
        let mini = json!({ "mini": { "split": "Train", "count": 1, "seed": n } });
        site.apply(Kind::TaskSet, &format!("set-{n}"), json!({ "source": mini })).await;
    }
    let mine = |job: &Job| job.metadata.name.as_deref().is_some_and(|name| name.starts_with("tset-set-"));
    let selector = ListParams::default().labels("sealign.dev/stage=resolve");
    eventually("a Job a set", || async {
        let jobs = site.jobs().list(&selector).await.unwrap().items;
        (jobs.iter().filter(|job| mine(job)).count() == SETS).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for operator in operators {
        operator.end().await;
    }
    let jobs = site.jobs().list(&selector).await.unwrap().items;
    assert_eq!(jobs.iter().filter(|job| mine(job)).count(), SETS);
    let created = server.audit().into_iter().filter(|event| {
        event["verb"] == "create"
            && event.pointer("/objectRef/resource") == Some(&json!("jobs"))
            && event.pointer("/responseStatus/code") == Some(&json!(201))
            && event
                .pointer("/objectRef/name")
                .and_then(Value::as_str)
                .is_some_and(|n| n.starts_with("tset-set-"))
    });
    assert_eq!(created.count(), SETS, "a Job was made twice");
}
