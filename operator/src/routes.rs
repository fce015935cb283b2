//! Who hears of a change: the owner of what changed, and those whose specs name it.
//!
//! Each kind is watched once, by its own controller, and Jobs once for all of them. News travels from there through bounded
//! channels; what does not fit is dropped, as every object is looked at again by the clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use sealign_plan::labels;
use sealign_reconcile::port::Kind;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::cluster::resource;
use crate::triggers;

/// News that may wait for one controller.
const QUEUE_MAX: usize = 4_096;
/// Objects whose last version is remembered.
const VERSIONS_MAX: usize = 100_000;
/// News about an object that comes within this time is answered by one look.
const GATHER: Duration = Duration::from_millis(200);

/// What a controller listens to.
pub type News = mpsc::Receiver<ObjectRef<DynamicObject>>;

struct Post {
    sender: mpsc::Sender<ObjectRef<DynamicObject>>,
    store: Store<DynamicObject>,
}

/// Carries news between kinds.
#[derive(Default)]
pub struct Routes {
    posts: BTreeMap<Kind, Post>,
    versions: Mutex<HashMap<ObjectRef<DynamicObject>, String>>,
}

/// The two ends of what a controller listens to.
pub fn channel() -> (mpsc::Sender<ObjectRef<DynamicObject>>, News) {
    mpsc::channel(QUEUE_MAX)
}

impl Routes {
    /// Lets the controller of `kind`, which keeps its objects in `store`, hear through `sender`.
    pub fn add(
        &mut self,
        kind: Kind,
        store: Store<DynamicObject>,
        sender: mpsc::Sender<ObjectRef<DynamicObject>>,
    ) {
        self.posts.insert(kind, Post { sender, store });
    }

    /// Says that an object of one of our kinds was looked at; who is concerned hears of it when its version is a new one.
    pub fn looked_at(&self, kind: Kind, object: &DynamicObject) {
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if versions.len() >= VERSIONS_MAX {
            versions.clear();
        }
        let before = versions.insert(ObjectRef::from_obj_with(object, resource(kind)), version.clone());
        drop(versions);
        if before.as_ref() != Some(&version) {
            self.changed(kind, &object.metadata);
        }
    }

    /// Forgets an object that is gone.
    pub fn gone(&self, kind: Kind, object: &DynamicObject) {
        let key = ObjectRef::from_obj_with(object, resource(kind));
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.changed(kind, &object.metadata);
    }

    /// Tells the owner of an object, and those who name it.
    pub fn changed(&self, kind: Kind, metadata: &ObjectMeta) {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        if let Some(owner) = owner
            && let Some(owner_kind) = Kind::parse(&owner.kind)
        {
            self.tell(owner_kind, namespace, &owner.name);
        }
        let Some(name) = metadata.name.as_deref() else { return };
        for (other, post) in &self.posts {
            if !triggers::referenced(*other).contains(&kind) {
                continue;
            }
            let is_concerned = |object: &Arc<DynamicObject>| {
                object.metadata.namespace.as_deref() == Some(namespace) && triggers::names(object, kind, name)
            };
            for object in post.store.state().into_iter().filter(is_concerned) {
                self.tell(*other, namespace, object.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }

    fn tell(&self, kind: Kind, namespace: &str, name: &str) {
        let Some(post) = self.posts.get(&kind) else { return };
        let target = ObjectRef::new_with(name, resource(kind)).within(namespace);
        if post.sender.try_send(target).is_err() {
            tracing::debug!(kind = kind.name(), %namespace, %name, "news was dropped: the queue is full");
        }
    }

    /// Follows the Jobs of ours in the namespaces of `apis` for as long as it is polled.
    pub async fn follow_jobs(&self, apis: Vec<Api<PartialObjectMeta<DynamicObject>>>) {
        let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
        let watches = apis.into_iter().map(|api| watcher(api, ours.clone()).default_backoff().boxed());
        let mut events = stream::select_all(watches);
        while let Some(event) = events.next().await {
            self.heard_of_job(event);
        }
        // Where no namespace is enabled there is nothing to hear of, and no reason to end.
        futures::future::pending::<()>().await;
    }

    fn heard_of_job(&self, event: Result<watcher::Event<PartialObjectMeta<DynamicObject>>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Apply(job) | watcher::Event::Delete(job) | watcher::Event::InitApply(job)) => {
                self.changed(Kind::Job, &job.metadata);
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "the watch on Jobs is begun again"),
        }
    }
}

/// The stream that a controller reconciles on: each object at most once within [`GATHER`], and no later than that after its first
/// news. (The controller's own debounce begins anew with each news, and a steady flow of it would put the look off for ever.)
pub fn heard(news: News) -> impl Stream<Item = ObjectRef<DynamicObject>> + Send + 'static {
    stream::unfold((news, Vec::new()), |(mut news, mut gathered)| async move {
        if gathered.is_empty() {
            gathered = gather(&mut news).await;
        }
        gathered.pop().map(|target| (target, (news, gathered)))
    })
}

/// The objects of which there is news from the first one on until [`GATHER`] has passed; none when nobody sends any more.
async fn gather(news: &mut News) -> Vec<ObjectRef<DynamicObject>> {
    let Some(first) = news.recv().await else { return Vec::new() };
    let end = Instant::now() + GATHER;
    let mut targets = HashSet::from([first]);
    while let Ok(Some(target)) = timeout_at(end, news.recv()).await {
        targets.insert(target);
    }
    targets.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector;
    use serde_json::{Value, json};

    fn object(kind: Kind, name: &str, version: &str, spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": kind.api_version(), "kind": kind.name(),
            "metadata": { "name": name, "namespace": "demo", "uid": name, "resourceVersion": version,
                "ownerReferences": [{ "apiVersion": "sealign.dev/v1alpha1", "kind": "AlignmentRun",
                    "name": "run", "uid": "r", "controller": true }] },
            "spec": spec,
        }))
        .unwrap()
    }

    fn routes(kinds: &[(Kind, Vec<DynamicObject>)]) -> (Routes, BTreeMap<Kind, News>) {
        let (mut routes, mut news) = (Routes::default(), BTreeMap::new());
        for (kind, objects) in kinds {
            let mut writer = reflector::store::Writer::new(resource(*kind));
            for object in objects {
                writer.apply_watcher_event(&watcher::Event::Apply(object.clone()));
            }
            let (sender, receiver) = channel();
            routes.add(*kind, writer.as_reader(), sender);
            news.insert(*kind, receiver);
        }
        (routes, news)
    }

    fn names(news: &mut BTreeMap<Kind, News>, kind: Kind) -> Vec<String> {
        let receiver = news.get_mut(&kind).unwrap();
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|target| target.name).collect()
    }

    #[test]
    fn an_owner_and_those_who_name_an_object_hear_of_its_change_once() {
        let forest =
            object(Kind::TrajectoryForest, "forest", "1", &json!({ "campaignRefs": [{ "name": "c" }] }));
        let (routes, mut news) =
            routes(&[(Kind::AlignmentRun, Vec::new()), (Kind::TrajectoryForest, vec![forest])]);
        let campaign = |version: &str| object(Kind::RolloutCampaign, "c", version, &json!({}));
        routes.looked_at(Kind::RolloutCampaign, &campaign("7"));
        routes.looked_at(Kind::RolloutCampaign, &campaign("7"));
        assert_eq!(names(&mut news, Kind::AlignmentRun), ["run"]);
        assert_eq!(names(&mut news, Kind::TrajectoryForest), ["forest"]);
        routes.looked_at(Kind::RolloutCampaign, &campaign("8"));
        assert_eq!(names(&mut news, Kind::AlignmentRun), ["run"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_flow_of_news_is_answered_in_time_and_a_burst_by_one_look() {
        let (sender, news) = channel();
        let mut looks = std::pin::pin!(heard(news));
        let begun = Instant::now();
        let send = async {
            for n in 0..100_u32 {
                let name = if n % 2 == 0 { "steady" } else { "other" };
                sender.send(ObjectRef::new_with(name, resource(Kind::Benchmark))).await.unwrap();
                tokio::time::sleep(GATHER / 10).await;
            }
        };
        let first = async {
            let pair = [looks.next().await.unwrap().name, looks.next().await.unwrap().name];
            (begun.elapsed(), pair.into_iter().collect::<HashSet<_>>())
        };
        let ((), (elapsed, names)) = tokio::join!(send, first);
        assert!(elapsed <= GATHER, "{elapsed:?}");
        assert_eq!(names, HashSet::from(["steady".to_owned(), "other".to_owned()]));
        drop(sender);
        let left = looks.count().await;
        assert_eq!(left, 2, "looks at what waited meanwhile");
    }

    #[test]
    fn a_full_queue_drops_news_and_holds_nobody_up() {
        let (routes, mut news) = routes(&[(Kind::AlignmentRun, Vec::new())]);
        for n in 0..2 * QUEUE_MAX {
            routes.looked_at(Kind::Benchmark, &object(Kind::Benchmark, "b", &n.to_string(), &json!({})));
        }
        let count = names(&mut news, Kind::AlignmentRun).len();
        assert_eq!(count, QUEUE_MAX);
    }
}
