//! Putting it together: client, store, lease, controllers, server; and the way out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt, Shared, join_all};
use jiff::Timestamp;
use kube::client::ClientBuilder;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Api, Client};
use sealign_reconcile::port::Kind;
use sealign_reconcile::{Reconciler, Settings};
use sealign_storage::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cluster::{KubeCluster, resource};
use crate::config::Config;
use crate::controller::Means;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::requests::Counting;
use crate::routes::{self, Routes};
use crate::server::{self, Shown};
use crate::{controller, events, preflight};

/// Wait before a store that failed its probe is tried again.
const PROBE_AGAIN: Duration = Duration::from_secs(10);

/// Resolves when the process is to end.
pub type Stop = Shared<BoxFuture<'static, ()>>;

/// Runs the operator until SIGTERM or SIGINT, or until its lease is lost (an error: somebody else works now).
///
/// # Errors
/// With the step that failed and its causes.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let metrics = Arc::new(Metrics::new().context("metrics could not be registered")?);
    let (missing, shown) = watch::channel(Some("the API server has not answered yet".to_owned()));
    let shown = Shown { metrics: metrics.clone(), missing: shown };
    let served = tokio::spawn(server::serve(config.listen, shown, stop.clone()));
    let store =
        Store::open(&config.installation.store_url, &config.store).context("the store of SEALIGN_STORE")?;
    let client = client(&metrics).await?;
    let worked = if proven(&store, &missing, stop.clone()).await {
        operate(&config, client, store, metrics, stop).await
    } else {
        Ok(())
    };
    served.await.context("the server's task")?.context("the address of SEALIGN_LISTEN")?;
    worked
}

/// A client whose requests are counted, without kube's own repetition: that repeats POSTs, up to 15 times, for longer than a
/// lease.
async fn client(metrics: &Arc<Metrics>) -> anyhow::Result<Client> {
    let mut configuration =
        kube::Config::infer().await.context("no cluster: set KUBECONFIG or run in a pod")?;
    configuration.default_retry = false;
    let client = counted(configuration, metrics)?;
    client.apiserver_version().await.context("the API server does not answer")?;
    Ok(client)
}

/// A client of `configuration` whose requests are counted.
///
/// # Errors
/// When the configuration names files or certificates that cannot be used.
pub fn counted(configuration: kube::Config, metrics: &Arc<Metrics>) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(configuration).context("the client could not be built")?;
    Ok(builder.with_layer(&Counting(metrics.clone())).build())
}

/// Waits until the store has shown that it can be worked with, and says meanwhile what is missing; false when told to stop.
async fn proven(store: &Store, missing: &watch::Sender<Option<String>>, stop: Stop) -> bool {
    loop {
        let Err(problem) = preflight::store(store).await else {
            missing.send_replace(None);
            return true;
        };
        let problem = sealign_reconcile::error::chain(&problem);
        tracing::error!(%problem, "preflight");
        missing.send_replace(Some(problem));
        tokio::select! {
            () = tokio::time::sleep(PROBE_AGAIN) => {}
            () = stop.clone() => return false,
        }
    }
}

/// Seeks the lease, if any, and runs the controllers until `stop` resolves; the way out ends running reconciles and gives the
/// lease back.
///
/// # Errors
/// When the lease cannot be asked for, or is lost.
pub async fn operate(
    config: &Config,
    client: Client,
    store: Store,
    metrics: Arc<Metrics>,
    stop: Stop,
) -> anyhow::Result<()> {
    let Some(name) = &config.lease else {
        controllers(config, client, store, metrics, stop).await;
        return Ok(());
    };
    let mut leadership = Leadership::seek(client.clone(), &config.namespace, name, &config.identity)
        .await
        .context("the Lease could not be read or created")?;
    metrics.leader(name, false);
    tokio::select! {
        is_gained = leadership.gained() => anyhow::ensure!(is_gained, "the lease is not asked for any more"),
        () = stop.clone() => {
            leadership.release().await;
            return Ok(());
        }
    }
    metrics.leader(name, true);
    tracing::info!(lease = %name, identity = %config.identity, "leading");
    let is_lost = tokio::select! {
        () = controllers(config, client, store, metrics.clone(), stop) => false,
        () = leadership.lost() => true,
    };
    metrics.leader(name, false);
    // Dropping the controllers above ended their reconciles where they stood, which every crash does too.
    anyhow::ensure!(!is_lost, "the lease was lost");
    leadership.release().await;
    Ok(())
}

/// Runs every controller until `stop` resolves.
async fn controllers(config: &Config, client: Client, store: Store, metrics: Arc<Metrics>, stop: Stop) {
    let (sink, send) = events::channel(client.clone(), &config.identity);
    let sending = tokio::spawn(send);
    let cluster = Arc::new(KubeCluster::new(client.clone()).with_suites(config.suites.clone()));
    let settings = Settings { seed: seed(&config.identity), poll: config.poll, ..Settings::default() };
    let clock = Arc::new(Timestamp::now);
    let reconciler = Reconciler::new(cluster, Arc::new(store), config.installation.clone(), settings, clock)
        .with_events(Arc::new(sink));
    let reconciler = Arc::new(reconciler);
    let mut routes = Routes::default();
    let mut prepared = Vec::new();
    for kind in Kind::OURS {
        let (sender, news) = routes::channel();
        let controller = controller::prepare(kind, &client, config.concurrency, news);
        routes.add(kind, controller.store.clone(), sender);
        metrics.controller(kind, config.concurrency);
        prepared.push((kind, controller));
    }
    let routes = Arc::new(routes);
    let runs = prepared.into_iter().map(|(kind, controller)| {
        let (reconciler, metrics, routes) = (reconciler.clone(), metrics.clone(), routes.clone());
        controller.run(Means { kind, reconciler, metrics, routes }, stop.clone())
    });
    tokio::select! {
        _ = join_all(runs) => {}
        // It never ends by itself.
        () = routes.follow_jobs(job_watches(&client, config)) => {}
    }
    // The last reference to the sink ends the sending task, after what is queued.
    drop(reconciler);
    if let Err(error) = sending.await {
        tracing::warn!(%error, "the task that sends events ended badly");
    }
}

/// Where Jobs are watched: only in namespaces that are enabled, where our role reaches.
fn job_watches(client: &Client, config: &Config) -> Vec<Api<PartialObjectMeta<DynamicObject>>> {
    let jobs = resource(Kind::Job);
    match &config.installation.namespaces {
        Some(namespaces) => namespaces
            .iter()
            .map(|namespace| Api::namespaced_with(client.clone(), namespace, &jobs))
            .collect(),
        None => vec![Api::all_with(client.clone(), &jobs)],
    }
}

/// Replicas of one installation jitter differently.
fn seed(identity: &str) -> u64 {
    u64::from(sealign_manifest::Digest::of_bytes(identity.as_bytes()).seed())
}

fn told_to_stop() -> anyhow::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let wait = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    // A task of its own, so that whoever holds a clone hears of it without having polled the first one.
    let task = tokio::spawn(wait);
    Ok(task.map(|_| ()).boxed().shared())
}
