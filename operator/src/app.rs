//! Putting it together: client, store, lease, controllers, server; and the way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt, Shared, join_all};
use jiff::Timestamp;
use kube::Client;
use sealign_reconcile::port::Kind;
use sealign_reconcile::{Reconciler, Settings};
use sealign_storage::Store;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::KubeCluster;
use crate::config::Config;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::server::{self, Shown};
use crate::{controller, events};

/// Resolves when the process is to end.
type Stop = Shared<BoxFuture<'static, ()>>;

/// Runs the operator until SIGTERM or SIGINT, or until its lease is lost (an error: somebody else works now).
///
/// # Errors
/// With the step that failed and its causes.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let metrics = Arc::new(Metrics::new().context("metrics could not be registered")?);
    let is_ready = Arc::new(AtomicBool::new(false));
    let shown = Shown { metrics: metrics.clone(), is_ready: is_ready.clone() };
    let served = tokio::spawn(server::serve(config.listen, shown, stop.clone()));
    let store =
        Store::open(&config.installation.store_url, &config.store).context("the store of SEALIGN_STORE")?;
    let client = client().await?;
    is_ready.store(true, Ordering::Release);
    let worked = work(&config, client, store, metrics, stop).await;
    served.await.context("the server's task")?.context("the address of SEALIGN_LISTEN")?;
    worked
}

/// A client without kube's own repetition: it repeats POSTs, up to 15 times, for longer than a lease.
async fn client() -> anyhow::Result<Client> {
    let mut configuration =
        kube::Config::infer().await.context("no cluster: set KUBECONFIG or run in a pod")?;
    configuration.default_retry = false;
    let client = Client::try_from(configuration).context("the client could not be built")?;
    client.apiserver_version().await.context("the API server does not answer")?;
    Ok(client)
}

async fn work(
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

async fn controllers(config: &Config, client: Client, store: Store, metrics: Arc<Metrics>, stop: Stop) {
    let (sink, send) = events::channel(client.clone(), &config.identity);
    let sending = tokio::spawn(send);
    let cluster = Arc::new(KubeCluster::new(client.clone()));
    let settings = Settings { seed: seed(&config.identity), ..Settings::default() };
    let clock = Arc::new(Timestamp::now);
    let reconciler = Reconciler::new(cluster, Arc::new(store), config.installation.clone(), settings, clock)
        .with_events(Arc::new(sink));
    let reconciler = Arc::new(reconciler);
    let runs = Kind::OURS.map(|kind| {
        let (client, metrics) = (client.clone(), metrics.clone());
        let stop = stop.clone();
        let reconciler = reconciler.clone();
        controller::run(kind, client, &config.installation, reconciler, metrics, config.concurrency, stop)
    });
    join_all(runs).await;
    // The last reference to the sink ends the sending task, after what is queued.
    drop(reconciler);
    if let Err(error) = sending.await {
        tracing::warn!(%error, "the task that sends events ended badly");
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
