//! Kills of the runner at its store writes and its requests to sandboxes: before they are sent, or after they were
//! carried out and before the runner hears of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sealign_sandbox::protocol::Claim;
use sealign_storage::{ArtifactStore, CreateOutcome, Store, StoreError};
use sealign_worker::runner::network::NetworkDoors;
use sealign_worker::runner::pods::Pod;
use sealign_worker::runner::sandbox::{Door, Doors, SandboxError};
use tokio::sync::Notify;

/// On which side of a call somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Before,
    After,
}

/// The one call that no gap spares: it comes once, at the very end.
const LAST: &str = "closed set";

/// Says which calls kill the runner that makes them: kinds of calls in turn, each on both sides.
pub struct Switch {
    /// Records between two kills at least: rounds that bring nothing wait longer and longer, and are another test's matter.
    gap: u64,
    kills_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: u64,
    records: u64,
    /// Records at the last kill.
    killed_at: u64,
    kills: u64,
    lives: u64,
    by_kind: BTreeMap<String, [u64; 2]>,
}

impl Switch {
    /// Kills nobody.
    pub fn off() -> Arc<Self> {
        Self::after(0, 0)
    }

    /// Kills when `gap` records were written, until `kills_max` have died.
    pub fn after(gap: u64, kills_max: u64) -> Arc<Self> {
        Arc::new(Self { gap, kills_max, state: Mutex::default() })
    }

    fn call(&self, kind: &str) -> Option<Side> {
        let state = &mut *self.state.lock().unwrap();
        state.calls += 1;
        state.records += u64::from(kind.ends_with("record"));
        let kinds = state.by_kind.len() as u64 + 1;
        let deaths = state.by_kind.entry(kind.to_owned()).or_default();
        let side = if deaths[0] <= deaths[1] { Side::Before } else { Side::After };
        let is_last = kind == LAST && self.kills_max > 0;
        let is_due = state.kills < self.kills_max && state.records - state.killed_at >= self.gap;
        // Kinds that are rare do not hold up the others, and those that are frequent do not take all.
        let is_in_turn = deaths[side as usize] <= state.kills / kinds;
        if !(is_due && is_in_turn || is_last && deaths[side as usize] == 0) {
            return None;
        }
        deaths[side as usize] += 1;
        state.kills += 1;
        state.killed_at = state.records;
        Some(side)
    }

    /// Calls and kills so far, and runners that began.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.state.lock().unwrap();
        (state.calls, state.kills, state.lives)
    }

    /// How many died before and after each kind of call, as a text.
    pub fn told(&self) -> String {
        let state = self.state.lock().unwrap();
        let kinds = state
            .by_kind
            .iter()
            .filter(|(_, deaths)| **deaths != [0, 0])
            .map(|(kind, [before, after])| format!("{kind} {before}+{after}"));
        kinds.collect::<Vec<_>>().join(", ")
    }
}

/// One process of the runner. Its ports work as long as it lives.
#[derive(Clone)]
pub struct Life {
    switch: Arc<Switch>,
    is_dead: Arc<AtomicBool>,
    death: Arc<Notify>,
}

impl Life {
    /// A runner that begins.
    pub fn begin(switch: &Arc<Switch>) -> Self {
        switch.state.lock().unwrap().lives += 1;
        Self { switch: switch.clone(), is_dead: Arc::default(), death: Arc::default() }
    }

    /// Resolves when it dies.
    pub async fn ended(&self) {
        self.death.notified().await;
    }

    async fn call<T>(&self, kind: &str, call: impl Future<Output = T> + Send) -> T {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let side = self.switch.call(kind);
        if side == Some(Side::Before) {
            self.die().await;
        }
        let answer = call.await;
        if side == Some(Side::After) {
            self.die().await;
        }
        answer
    }

    /// Whoever drives it drops everything.
    async fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.death.notify_one();
        std::future::pending::<()>().await;
    }
}

/// The store of one life.
pub struct MortalStore(pub Store, pub Life);

/// What a key is the key of, for people.
fn kind(key: &str) -> &'static str {
    let is = |part: &str| key.contains(part);
    match () {
        () if key.starts_with("blobs/") => "blob",
        () if key.starts_with("verdicts/") => "verdict",
        () if key.ends_with("progress.json") => "progress",
        () if key.ends_with("closed.json") => "closed set",
        () if is("/tries/") => "failed try",
        () if is("/rollout/") => "rollout record",
        () if is("/grade/") => "grade record",
        () if is("/groups/") => "group manifest",
        () => "other",
    }
}

#[async_trait]
impl ArtifactStore for MortalStore {
    async fn get_bounded(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.0.get_bounded(key, bytes_max).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        self.1.call(kind(key), self.0.create(key, bytes)).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.1.call(kind(key), self.0.overwrite(key, bytes)).await
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.0.exists(key).await
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.0.list_names(prefix).await
    }

    async fn delete_prefix(&self, _: &str) -> Result<u64, StoreError> {
        panic!("a runner deletes nothing")
    }
}

/// The ways of one life to sandboxes: the real ones, over TCP.
pub struct MortalDoors(pub Life);

impl Doors for MortalDoors {
    fn open(&self, pod: &Pod) -> Result<Arc<dyn Door>, SandboxError> {
        Ok(Arc::new(MortalDoor { door: NetworkDoors.open(pod)?, life: self.0.clone() }))
    }
}

struct MortalDoor {
    door: Arc<dyn Door>,
    life: Life,
}

#[async_trait]
impl Door for MortalDoor {
    fn claim(&self, item: &str) -> Claim {
        self.door.claim(item)
    }

    async fn exchange(
        &self,
        path: &'static str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, SandboxError> {
        self.life.call(path, self.door.exchange(path, body, patience)).await
    }
}
