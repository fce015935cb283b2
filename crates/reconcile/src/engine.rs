//! Every object, again and again: the loop of a process that has no watch queue. The embedded cluster runs on it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::DynamicObject;

use crate::error::{Category, ReconcileError, chain};
use crate::port::Kind;
use crate::reconciler::Reconciler;

/// Shortest time between two looks at one object: news comes in bursts, and one look answers a burst.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(50);

/// Why a run of the engine came to its end.
#[derive(Debug)]
pub enum Ended {
    /// The predicate holds.
    Reached,
    /// A simulation ended the process.
    Crashed(ReconcileError),
}

/// Reconciles every object of the five kinds.
pub struct Engine<'a> {
    reconciler: &'a Reconciler,
    namespace: Option<&'a str>,
    due: BTreeMap<(Kind, String, String), Due>,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    looked: Timestamp,
    next: Timestamp,
    is_finished: bool,
}

impl<'a> Engine<'a> {
    /// An engine for the objects of `namespace`, or of all.
    pub fn new(reconciler: &'a Reconciler, namespace: Option<&'a str>) -> Self {
        Self { reconciler, namespace, due: BTreeMap::new() }
    }

    /// Reconciles until `is_reached` holds for all objects as they are. The caller bounds the time, by dropping the future.
    pub async fn run_until(&mut self, is_reached: impl Fn(&[(Kind, DynamicObject)]) -> bool + Send) -> Ended {
        loop {
            match self.objects().await {
                Ok(objects) if is_reached(&objects) => return Ended::Reached,
                Ok(objects) => {
                    if let Some(crash) = self.pass(&objects).await {
                        return Ended::Crashed(crash);
                    }
                }
                Err(error) if error.category() == Category::Crash => return Ended::Crashed(error),
                Err(error) => tracing::warn!(error = %chain(&error), "objects could not be listed"),
            }
            let asked = self.reconciler.now();
            self.reconciler.cluster().changed(self.pause()).await;
            self.wake(asked);
        }
    }

    async fn objects(&self) -> Result<Vec<(Kind, DynamicObject)>, ReconcileError> {
        let mut objects = Vec::new();
        for kind in Kind::OURS {
            let listed = self.reconciler.cluster().list(kind, self.namespace, &BTreeMap::new()).await;
            let listed = listed.map_err(ReconcileError::ReadCluster)?;
            objects.extend(listed.into_iter().map(|object| (kind, object)));
        }
        Ok(objects)
    }

    /// Reconciles what is due, in the order in which data flows. Says when the process was ended.
    async fn pass(&mut self, objects: &[(Kind, DynamicObject)]) -> Option<ReconcileError> {
        let mut present = BTreeMap::new();
        for (kind, object) in objects {
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            let key = (*kind, namespace, object.metadata.name.clone().unwrap_or_default());
            let now = self.reconciler.now();
            let due = match self.due.get(&key) {
                Some(due) if due.next > now => *due,
                _ => {
                    let outcome = self.reconciler.reconcile_once(key.0, &key.1, &key.2).await;
                    if let Some(error) = outcome.error
                        && error.category() == Category::Crash
                    {
                        return Some(error);
                    }
                    let wait = outcome.requeue.unwrap_or(self.reconciler.settings().poll);
                    let looked = self.reconciler.now();
                    Due { looked, next: after(looked, wait), is_finished: outcome.is_finished }
                }
            };
            present.insert(key, due);
        }
        self.due = present;
        None
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        let now = self.reconciler.now();
        let next = self.due.values().map(|due| due.next).min();
        let until = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
        until.unwrap_or(self.reconciler.settings().poll).min(self.reconciler.settings().poll)
    }

    /// Something may have changed: objects that are not at their end are looked at again, but not in every burst.
    fn wake(&mut self, asked: Timestamp) {
        let waited = Duration::try_from(self.reconciler.now().duration_since(asked)).unwrap_or_default();
        if waited >= self.reconciler.settings().poll {
            return;
        }
        for due in self.due.values_mut().filter(|due| !due.is_finished) {
            due.next = due.next.min(after(due.looked, LOOK_AT_MOST_EVERY));
        }
    }
}

fn after(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}
