//! One controller a kind: a watch on its objects and news of others feed a queue of names, and each name goes to
//! `reconcile_once`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::core::DynamicObject;
use kube::runtime::controller::{Action, Config as QueueConfig, Controller};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client};
use sealign_reconcile::port::Kind;
use sealign_reconcile::{ReconcileError, Reconciler};

use crate::cluster::resource;
use crate::metrics::Metrics;
use crate::routes::{self, News, Routes};

/// Time until a failed object is looked at again where the reconciler gave none.
const RETRY: Duration = Duration::from_secs(10);

/// What reconciles share.
pub struct Means {
    /// The kind of the controller.
    pub kind: Kind,
    /// The four verbs.
    pub reconciler: Arc<Reconciler>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Who hears of what this controller sees.
    pub routes: Arc<Routes>,
}

/// An error with the wait that its reconcile asked for.
#[derive(Debug, thiserror::Error)]
#[error("{category}")]
struct Failed {
    category: &'static str,
    wait: Duration,
    #[source]
    source: ReconcileError,
}

/// A controller that has not started, and the store that it will fill.
pub struct Prepared {
    controller: Controller<DynamicObject>,
    /// The objects of its kind, once it runs.
    pub store: Store<DynamicObject>,
}

/// Prepares the controller of `kind`, which also listens to `news`.
pub fn prepare(kind: Kind, client: &Client, concurrency: u16, news: News) -> Prepared {
    // Our own kinds are seen everywhere, so that an object in a namespace that is not enabled is told so.
    let everywhere = Api::<DynamicObject>::all_with(client.clone(), &resource(kind));
    let queue = QueueConfig::default().concurrency(concurrency);
    let controller = Controller::new_with(everywhere, watcher::Config::default(), resource(kind))
        .with_config(queue)
        .reconcile_on(routes::heard(news));
    Prepared { store: controller.store(), controller }
}

impl Prepared {
    /// Runs until `stop` resolves; running reconciles end first.
    pub async fn run(self, means: Means, stop: impl Future<Output = ()> + Send + Sync + 'static) {
        let controller = self.controller.graceful_shutdown_on(stop);
        let policy = |_, error: &Failed, _| Action::requeue(error.wait);
        consume(controller.run(reconcile, policy, Arc::new(means))).await;
    }
}

/// Results were counted where they arose; what is left are failures of watches.
async fn consume<T, E: std::fmt::Display>(results: impl Stream<Item = Result<T, E>>) {
    let mut results = std::pin::pin!(results);
    while let Some(result) = results.next().await {
        if let Err(error) = result {
            tracing::debug!(%error, "controller");
        }
    }
}

async fn reconcile(object: Arc<DynamicObject>, means: Arc<Means>) -> Result<Action, Failed> {
    let Means { kind, reconciler, metrics, routes } = &*means;
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    routes.looked_at(*kind, &object);
    let started = Instant::now();
    let outcome = {
        // Dropped when the process stops in the middle, too.
        let _active = metrics.begun(*kind);
        reconciler.reconcile_once(*kind, namespace, name).await
    };
    metrics.ended(*kind, started.elapsed(), &outcome);
    let is_gone = outcome.requeue.is_none();
    metrics.show(*kind, &object, is_gone);
    if is_gone {
        routes.gone(*kind, &object);
    }
    match (outcome.error, outcome.requeue) {
        (Some(source), wait) => {
            Err(Failed { category: source.category().name(), wait: wait.unwrap_or(RETRY), source })
        }
        (None, Some(wait)) => Ok(Action::requeue(wait)),
        (None, None) => Ok(Action::await_change()),
    }
}
