//! One controller a kind: watches feed a queue of object names, and each name goes to `reconcile_once`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::{Action, Config as QueueConfig, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client};
use sealign_plan::{Installation, labels};
use sealign_reconcile::port::Kind;
use sealign_reconcile::{ReconcileError, Reconciler};

use crate::cluster::resource;
use crate::metrics::Metrics;
use crate::triggers;

/// News about an object that comes within this time is answered by one look.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Time until a failed object is looked at again where the reconciler gave none.
const RETRY: Duration = Duration::from_secs(10);

/// What reconciles share.
pub struct Shared {
    kind: Kind,
    reconciler: Arc<Reconciler>,
    metrics: Arc<Metrics>,
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

/// Runs the controller of `kind` until `stop` resolves; running reconciles end first.
pub async fn run(
    kind: Kind,
    client: Client,
    installation: &Installation,
    reconciler: Arc<Reconciler>,
    metrics: Arc<Metrics>,
    concurrency: u16,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    metrics.concurrency(kind, concurrency);
    let controller = build(kind, &client, installation, concurrency).graceful_shutdown_on(stop);
    let shared = Arc::new(Shared { kind, reconciler, metrics });
    consume(controller.run(reconcile, |_, error: &Failed, _| Action::requeue(error.wait), shared)).await;
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

fn build(
    kind: Kind,
    client: &Client,
    installation: &Installation,
    concurrency: u16,
) -> Controller<DynamicObject> {
    // Our own kinds are seen everywhere, so that an object in a namespace that is not enabled is told so.
    let everywhere = |kind: Kind| Api::<DynamicObject>::all_with(client.clone(), &resource(kind));
    let mut controller = Controller::new_with(everywhere(kind), watcher::Config::default(), resource(kind))
        .with_config(QueueConfig::default().debounce(DEBOUNCE).concurrency(concurrency));
    let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    for child in triggers::owned(kind) {
        for api in children(*child, client, installation) {
            controller = controller.owns_with(api, resource(*child), ours.clone());
        }
    }
    let store = controller.store();
    for other in triggers::referenced(kind) {
        let (store, other, own) = (store.clone(), *other, resource(kind));
        let mapper = move |changed: DynamicObject| concerned(&store, &own, other, &changed);
        controller =
            controller.watches_with(everywhere(other), resource(other), watcher::Config::default(), mapper);
    }
    controller
}

/// Where children of a kind are watched: Jobs only in namespaces that are enabled, where our role reaches.
fn children(kind: Kind, client: &Client, installation: &Installation) -> Vec<Api<DynamicObject>> {
    match &installation.namespaces {
        Some(namespaces) if kind == Kind::Job => namespaces
            .iter()
            .map(|namespace| Api::namespaced_with(client.clone(), namespace, &resource(kind)))
            .collect(),
        _ => vec![Api::all_with(client.clone(), &resource(kind))],
    }
}

fn concerned(
    store: &Store<DynamicObject>,
    own: &ApiResource,
    kind: Kind,
    changed: &DynamicObject,
) -> Vec<ObjectRef<DynamicObject>> {
    let Some(name) = changed.metadata.name.as_deref() else { return Vec::new() };
    let is_concerned = |object: &Arc<DynamicObject>| {
        object.metadata.namespace == changed.metadata.namespace && triggers::names(object, kind, name)
    };
    let objects = store.state().into_iter().filter(is_concerned);
    objects.map(|object| ObjectRef::from_obj_with(&*object, own.clone())).collect()
}

async fn reconcile(object: Arc<DynamicObject>, shared: Arc<Shared>) -> Result<Action, Failed> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let started = Instant::now();
    shared.metrics.begun(shared.kind);
    let outcome = shared.reconciler.reconcile_once(shared.kind, namespace, name).await;
    shared.metrics.ended(shared.kind, started.elapsed(), &outcome);
    shared.metrics.conditions(shared.kind, &object, outcome.requeue.is_none());
    match (outcome.error, outcome.requeue) {
        (Some(source), wait) => {
            Err(Failed { category: source.category().name(), wait: wait.unwrap_or(RETRY), source })
        }
        (None, Some(wait)) => Ok(Action::requeue(wait)),
        (None, None) => Ok(Action::await_change()),
    }
}
