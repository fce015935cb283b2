//! Sandboxes in memory: they are claimed, hold files, run the grader's driver for the tasks they know, and fail as planned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::key::Stage;
use sealign_manifest::{ItemKey, ObjectKeys};
use sealign_sandbox::protocol::{Call, Claim, ErrorCode, ErrorReply, Finish};
use sealign_simulation::scripted::{Files, Values, claim_reply, read};
use sealign_storage::ArtifactStore as _;
use sealign_worker::runner::pods::{Phase, Pod, PodRole};
use sealign_worker::runner::sandbox::{Door, Doors, SandboxError};
use tokio::time::Instant;

use super::faults::{Fault, Port, Process};
use super::pods::SimPods;
use super::store::MapStore;

/// How long a slow answer takes: less than a sandbox waits for a sign of life.
const SLOW: Duration = Duration::from_secs(45);

/// The state of one sandbox.
#[derive(Default)]
pub struct Sandbox {
    claim: Option<Claim>,
    /// When its runner was heard last.
    pub heard: Option<Instant>,
    files: Files,
}

/// All sandboxes.
pub struct SimDoors {
    pub pods: Arc<SimPods>,
    pub sandboxes: Mutex<BTreeMap<String, Sandbox>>,
    /// Items that were claimed although their record existed: there must be none.
    pub rerun: Mutex<Vec<String>>,
    /// The store without faults, and whose records it holds.
    pub store: Arc<MapStore>,
    pub keys: ObjectKeys,
    /// What the tests' calls give: by call, its value.
    values: Values,
    doors: Mutex<u64>,
}

impl SimDoors {
    pub fn new(store: Arc<MapStore>, keys: ObjectKeys, values: Values) -> Self {
        Self {
            pods: Arc::default(),
            store,
            keys,
            sandboxes: Mutex::default(),
            rerun: Mutex::default(),
            values,
            doors: Mutex::default(),
        }
    }
}

/// The doors of one process, which share the world; each has a key of its own.
pub struct Ways(pub Arc<SimDoors>, pub Process);

impl Doors for Ways {
    fn open(&self, pod: &Pod) -> Result<Arc<dyn Door>, SandboxError> {
        let mut doors = self.0.doors.lock().unwrap();
        *doors += 1;
        let place = pod.item().map(|(map, _)| (map.group.clone(), map.stage)).unwrap();
        Ok(Arc::new(SimDoor {
            world: self.0.clone(),
            process: self.1.clone(),
            uid: pod.uid.clone(),
            place,
            key: format!("{:064x}", *doors),
        }))
    }
}

struct SimDoor {
    world: Arc<SimDoors>,
    process: Process,
    uid: String,
    place: (String, Stage),
    key: String,
}

#[async_trait]
impl Door for SimDoor {
    fn claim(&self, item: &str) -> Claim {
        Claim { runner_public_key: self.key.clone(), item: item.into(), pod_uid: self.uid.clone() }
    }

    async fn exchange(
        &self,
        path: &'static str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, SandboxError> {
        // The way there and back takes time, so that others get their turn.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let gone = |why: &str| Err(SandboxError::Gone(why.to_owned()));
        let end = |phase, code, reason: &str| self.world.pods.end(&self.uid, phase, code, reason);
        let fault = self.process.call(Port::Door).await;
        match fault {
            Some(Fault::Lost) => return gone("lost"),
            Some(Fault::TimedOut) => {
                tokio::time::sleep(patience).await;
                return gone("no reply in time");
            }
            Some(Fault::Evicted) => {
                end(Phase::Failed, None, "Evicted: The node was low on resource: memory.");
            }
            Some(Fault::OutOfMemory) => end(Phase::Failed, Some(137), "OOMKilled"),
            Some(Fault::Ended) => end(Phase::Failed, Some(1), "Error"),
            Some(Fault::Vanished) => self.world.pods.vanish(&self.uid),
            _ => {}
        }
        if !self.world.pods.is_running(&self.uid) {
            return gone("connection refused");
        }
        if path == Claim::PATH {
            self.look_for_a_rerun(&body).await;
        }
        let reply = self.serve(path, &body);
        match fault {
            Some(Fault::CrashAfter) => self.process.die().await,
            Some(Fault::ReplyLost) => gone("no reply"),
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOW).await;
                reply.map_err(SandboxError::Refused)
            }
            _ => reply.map_err(SandboxError::Refused),
        }
    }
}

impl SimDoor {
    async fn look_for_a_rerun(&self, body: &[u8]) {
        let claim: Claim = read(body);
        let Some(item) = ItemKey::parse(&claim.item) else { return };
        let (group, stage) = &self.place;
        if self.world.store.exists(&self.world.keys.record(group, *stage, &item)).await.unwrap() {
            self.world.rerun.lock().unwrap().push(claim.item);
        }
    }

    fn serve(&self, path: &str, body: &[u8]) -> Result<Vec<u8>, ErrorReply> {
        let mut sandboxes = self.world.sandboxes.lock().unwrap();
        let sandbox = sandboxes.entry(self.uid.clone()).or_default();
        if path == Claim::PATH {
            return Self::claimed(sandbox, body);
        }
        if sandbox.claim.as_ref().is_none_or(|claim| claim.runner_public_key != self.key) {
            return Err(ErrorReply::new(ErrorCode::BadSignature, "another key"));
        }
        sandbox.heard = Some(Instant::now());
        let reply = sandbox.files.answer(path, body, &self.world.values);
        if path == Finish::PATH {
            self.world.pods.end(&self.uid, Phase::Succeeded, Some(0), "");
        }
        reply
    }

    fn claimed(sandbox: &mut Sandbox, body: &[u8]) -> Result<Vec<u8>, ErrorReply> {
        let claim: Claim = read(body);
        if sandbox.claim.as_ref().is_some_and(|held| *held != claim) {
            return Err(ErrorReply::new(ErrorCode::AlreadyClaimed, "another key, or another item"));
        }
        sandbox.claim = Some(claim);
        sandbox.heard = Some(Instant::now());
        Ok(claim_reply())
    }
}

/// The pod of one completion index.
pub fn pod(uid: &str, map: &Arc<sealign_manifest::group::RoundMap>, index: usize) -> Pod {
    Pod {
        name: uid.to_owned(),
        uid: uid.to_owned(),
        role: PodRole::Sandbox { map: map.clone(), index: u32::try_from(index).unwrap() },
        address: "simulated".into(),
        phase: Phase::Running,
        exit_code: None,
        reason: String::new(),
    }
}
