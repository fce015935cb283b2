//! The pod directory of a cluster: one watch on the pods that carry the owner's UID. Its whole need of the API server is
//! get, list and watch of pods in its own namespace.
//!
//! Of each pod only what decides is kept (some 300 bytes, the round's map shared), so 10,000 pods cost a few megabytes.
//! A pod that was deleted before anybody looked leaves its last word behind for a while: how a sandbox ended decides
//! whose doing that was.

mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use sealign_crds::ObjectRef;
use sealign_plan::labels;
use sealign_plan::labels::Zone;
use sealign_plan::resources::sandbox;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::view::{Maps, view};
use super::pods::{DirectoryError, Fate, Phase, Pod, PodDirectory, fate};
use sealign_manifest::group::TryCause;

/// Ended pods that are remembered after they were deleted: more than a campaign has at once in one look.
const DEPARTED_MAX: usize = 4_096;
/// Time without word from the API server after which its last word is not relied upon: a watch is begun anew every five
/// minutes at the latest, and a broken one within seconds.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// News that come within this time are one change: a round of a thousand pods is not looked at a thousand times.
const GATHER: Duration = Duration::from_millis(20);
/// Pods of one page of a list.
const PAGE: u32 = 500;

/// A pod's place in the order of lists: by name, and another pod of the same name is another pod.
type Place = (String, String);

/// The pods that the API server told of.
#[derive(Debug, Default)]
struct Seen {
    pods: BTreeMap<Place, Arc<Pod>>,
    /// Pods that ended and were deleted, oldest first.
    departed: VecDeque<Arc<Pod>>,
    maps: Maps,
    /// When a pod of each image was last seen to run: what pulls, while others do not.
    running: BTreeMap<String, Instant>,
    /// The pods of the list that is being read.
    listing: BTreeSet<Place>,
    is_synced: bool,
    /// Since when the API server does not answer, and how.
    trouble: Option<(Instant, String)>,
    /// Grows with every change.
    changes: u64,
    /// `changes` at the last list that was handed out.
    listed: u64,
}

impl Seen {
    fn take(&mut self, event: watcher::Event<KubePod>) {
        self.trouble = None;
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(pod) => {
                if let Some(place) = self.apply(&pod) {
                    self.listing.insert(place);
                }
            }
            watcher::Event::Apply(pod) => {
                self.apply(&pod);
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                let gone: Vec<Place> =
                    self.pods.keys().filter(|place| !listed.contains(*place)).cloned().collect();
                for place in gone {
                    self.depart(&place);
                }
                self.changes += u64::from(!self.is_synced);
                self.is_synced = true;
            }
            watcher::Event::Delete(pod) => {
                // The last state counts: a pod may end and go in one event.
                if let Some(place) = self.apply(&pod) {
                    self.mark_end_of_wait(&place, &pod);
                    self.depart(&place);
                }
            }
        }
    }

    fn apply(&mut self, pod: &KubePod) -> Option<Place> {
        let image = image(pod);
        let pod = Arc::new(view(pod, &mut self.maps)?);
        if pod.phase == Phase::Running
            && let Some(image) = image
        {
            self.running.insert(image.to_owned(), Instant::now());
        }
        let place = (pod.name.clone(), pod.uid.clone());
        if self.pods.get(&place) != Some(&pod) {
            self.pods.insert(place.clone(), pod);
            self.changes += 1;
        }
        Some(place)
    }

    /// A pod that is deleted while it waits has ended with what it waited for. An image is to blame where that lasted as long
    /// as a pod may take to start (sooner, its round was ended by somebody) and other images were pulled meanwhile: where
    /// none is, the registry is away, and no item is closed for that.
    fn mark_end_of_wait(&mut self, place: &Place, deleted: &KubePod) {
        let Some(pod) = self.pods.get(place).filter(|pod| pod.phase == Phase::Pending) else { return };
        let cause = match fate(Some(pod), false) {
            Fate::Failed(cause, _) => cause,
            Fate::OwnLimit(_) => return,
        };
        let is_over = match cause {
            TryCause::Unschedulable => true,
            TryCause::Image => waited(deleted) >= allowance(deleted) && self.has_pulled_others(deleted),
            _ => false,
        };
        if is_over {
            let ended = Pod { phase: Phase::Failed, ..Pod::clone(pod) };
            self.pods.insert(place.clone(), Arc::new(ended));
        }
    }

    /// Whether pods of other images ran while this one waited.
    fn has_pulled_others(&self, waiting: &KubePod) -> bool {
        let Ok(seconds) = u64::try_from(waited(waiting)) else { return false };
        let own = image(waiting);
        let is_recent = |last: &Instant| last.elapsed() <= Duration::from_secs(seconds);
        self.running.iter().any(|(image, last)| Some(image.as_str()) != own && is_recent(last))
    }

    fn depart(&mut self, place: &Place) {
        let Some(pod) = self.pods.remove(place) else { return };
        self.changes += 1;
        if pod.phase.is_terminal() {
            if self.departed.len() == DEPARTED_MAX {
                self.departed.pop_front();
            }
            self.departed.push_back(pod);
        }
    }

    fn fail(&mut self, error: &watcher::Error) {
        let since = self.trouble.take().map_or_else(Instant::now, |(since, _)| since);
        self.trouble = Some((since, error.to_string()));
    }

    fn list(&mut self) -> Result<Vec<Arc<Pod>>, DirectoryError> {
        match &self.trouble {
            Some((since, error)) if !self.is_synced || since.elapsed() >= SILENCE_MAX => {
                return Err(DirectoryError(error.clone()));
            }
            _ if !self.is_synced => {
                return Err(DirectoryError("the API server has not listed them yet".into()));
            }
            _ => {}
        }
        self.listed = self.changes;
        let mut pods: Vec<Arc<Pod>> = self.pods.values().chain(&self.departed).cloned().collect();
        pods.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        Ok(pods)
    }
}

/// The image of the container that counts.
fn image(pod: &KubePod) -> Option<&str> {
    let mut containers = pod.spec.as_ref()?.containers.iter();
    containers.find(|container| container.name == view::MAIN)?.image.as_deref()
}

/// Seconds from a pod's creation to its deletion, by the API server's clock; none where it does not say.
fn waited(pod: &KubePod) -> i64 {
    let metadata = &pod.metadata;
    let times = metadata.creation_timestamp.as_ref().zip(metadata.deletion_timestamp.as_ref());
    times.map_or(0, |(created, deleted)| deleted.0.duration_since(created.0).as_secs())
}

/// Seconds that the pod was allowed to take to start; a pod that does not say is never held to have used them up.
fn allowance(pod: &KubePod) -> i64 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(sandbox::START_ANNOTATION))
        .and_then(|text| text.parse().ok())
        .unwrap_or(i64::MAX)
}

/// The pods of one owner, watched.
pub struct WatchedDirectory {
    seen: Arc<Mutex<Seen>>,
    news: Arc<Notify>,
    watching: tokio::task::JoinHandle<()>,
}

impl WatchedDirectory {
    /// Begins to watch the sandboxes and model servers of `owner`, in its namespace.
    pub fn start(client: Client, owner: &ObjectRef) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let news = Arc::new(Notify::new());
        let zones = format!("{},{}", Zone::Sandbox.name(), Zone::Server.name());
        let selector = format!("{}={},{} in ({zones})", labels::OWNER_UID, owner.uid, labels::ZONE);
        let config = watcher::Config::default().labels(&selector).page_size(PAGE);
        let api: Api<KubePod> = Api::namespaced(client, &owner.namespace);
        let watching = tokio::spawn(follow(api, config, seen.clone(), news.clone()));
        Self { seen, news, watching }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Drop for WatchedDirectory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // An event is taken whole or, after a panic, told again by the next list.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes events for as long as the directory lives. The stream never ends by itself: it lists and watches again.
async fn follow(api: Api<KubePod>, config: watcher::Config, seen: Arc<Mutex<Seen>>, news: Arc<Notify>) {
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => lock(&seen).take(event),
            Err(error) => {
                tracing::warn!(%error, "the pod watch is begun again");
                lock(&seen).fail(&error);
            }
        }
        news.notify_one();
    }
}

#[async_trait]
impl PodDirectory for WatchedDirectory {
    async fn list(&self) -> Result<Vec<Arc<Pod>>, DirectoryError> {
        self.seen().list()
    }

    async fn changed(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let heard = self.news.notified();
            let is_changed = {
                let seen = self.seen();
                seen.changes != seen.listed
            };
            if is_changed {
                tokio::time::sleep(GATHER.min(deadline.saturating_duration_since(Instant::now()))).await;
                return;
            }
            if tokio::time::timeout_at(deadline, heard).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
