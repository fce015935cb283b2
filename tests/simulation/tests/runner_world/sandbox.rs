//! Sandboxes in memory: they are claimed, hold files, run the grader's driver for the tasks they know, and fail as planned.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::key::Stage;
use sealign_manifest::{ItemKey, ObjectKeys};
use sealign_sandbox::base64::Bytes;
use sealign_sandbox::protocol::{
    Call, Change, ChangeKind, ChangesReply, Claim, ClaimReply, Done, EntryKind, ErrorCode, ErrorReply,
    ExecIsolated, ExecIsolatedReply, ExecReply, FileState, LimitMeans, Output, PingReply, ReadFile,
    ReadFileReply, SealReply, WriteFiles,
};
use sealign_storage::ArtifactStore as _;
use sealign_worker::runner::pods::{Phase, Pod, PodRole};
use sealign_worker::runner::sandbox::{Door, Doors, SandboxError};
use serde::Serialize;
use serde::de::DeserializeOwned;
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
    files: BTreeMap<String, Vec<u8>>,
    sealed: BTreeMap<String, Vec<u8>>,
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
    values: Arc<BTreeMap<String, String>>,
    doors: Mutex<u64>,
}

impl SimDoors {
    pub fn new(store: Arc<MapStore>, keys: ObjectKeys, values: Arc<BTreeMap<String, String>>) -> Self {
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
        let reply = match path {
            "/v1/ping" => answer(&PingReply { is_busy: false }),
            "/v1/exec" => answer(&ExecReply {
                exit_code: 0,
                output: Output { head: "done\n".into(), total_bytes: 5, ..Output::default() },
                timed_out: false,
                shell_restarted: None,
                limits_hit: Vec::new(),
                wall_milliseconds: 1,
            }),
            "/v1/exec_isolated" => answer(&sandbox.grade(&read::<ExecIsolated>(body), &self.world.values)),
            "/v1/write_files" => {
                for file in read::<WriteFiles>(body).files {
                    sandbox.files.insert(file.path, file.content.0);
                }
                answer(&Done {})
            }
            "/v1/read_file" => match sandbox.files.get(&read::<ReadFile>(body).path) {
                Some(content) => answer(&ReadFileReply {
                    content: Bytes(content.clone()),
                    total_bytes: content.len() as u64,
                    mode: 0o644,
                }),
                None => return Err(ErrorReply::new(ErrorCode::NotFound, "no such file")),
            },
            "/v1/seal" => {
                sandbox.sealed = sandbox.files.clone();
                answer(&SealReply { files: sandbox.files.len(), without_content: 0, digest: String::new() })
            }
            "/v1/changes" => answer(&sandbox.changes()),
            "/v1/finish" => {
                self.world.pods.end(&self.uid, Phase::Succeeded, Some(0), "");
                answer(&Done {})
            }
            other => {
                return Err(ErrorReply::new(ErrorCode::BadRequest, format!("{other} is not simulated")));
            }
        };
        Ok(reply)
    }

    fn claimed(sandbox: &mut Sandbox, body: &[u8]) -> Result<Vec<u8>, ErrorReply> {
        let claim: Claim = read(body);
        if sandbox.claim.as_ref().is_some_and(|held| *held != claim) {
            return Err(ErrorReply::new(ErrorCode::AlreadyClaimed, "another key, or another item"));
        }
        sandbox.claim = Some(claim);
        sandbox.heard = Some(Instant::now());
        Ok(answer(&ClaimReply {
            protocol: "v1".into(),
            root: "/repo".into(),
            shell: "/bin/sh".into(),
            means: LimitMeans::Rlimits,
            limits: BTreeMap::new(),
            is_pid_one: true,
        }))
    }
}

fn answer<T: Serialize>(reply: &T) -> Vec<u8> {
    serde_json::to_vec(reply).unwrap()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> T {
    serde_json::from_slice(body).unwrap()
}

impl Sandbox {
    fn changes(&self) -> ChangesReply {
        let state = |content: &Vec<u8>| FileState {
            kind: EntryKind::File,
            mode: 0o644,
            bytes: content.len() as u64,
            digest: String::new(),
            content: Some(Bytes(content.clone())),
        };
        let differing = self.files.iter().filter(|(path, content)| self.sealed.get(*path) != Some(content));
        let changes = differing
            .map(|(path, content)| Change {
                path: path.clone(),
                kind: if self.sealed.contains_key(path) { ChangeKind::Modified } else { ChangeKind::Added },
                old: self.sealed.get(path).map(state),
                new: Some(state(content)),
            })
            .collect();
        ChangesReply { changes, is_truncated: false }
    }

    /// Does what the grader's driver does in Python, for calls whose values are known once the fix is in.
    fn grade(&self, request: &ExecIsolated, values: &BTreeMap<String, String>) -> ExecIsolatedReply {
        let program = String::from_utf8(request.stdin.clone().unwrap().0).unwrap();
        let line = |name: &str| program.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let tests: Vec<[String; 3]> = serde_json::from_str(&line("CALLS = ")).unwrap();
        let nonce: String = serde_json::from_str(&line("NONCE = ")).unwrap();
        let is_fixed = self.files.contains_key("fixed");
        let mut stdout = String::new();
        for [id, _, call] in &tests {
            let result = match values.get(call) {
                Some(value) if is_fixed => format!("value {value}"),
                Some(_) => "value 'wrong'".to_owned(),
                None => "raised IndexError".to_owned(),
            };
            writeln!(stdout, "{nonce} {id} {result}").unwrap();
        }
        writeln!(stdout, "{nonce} end {}", tests.len()).unwrap();
        ExecIsolatedReply {
            exit_code: Some(0),
            signal: None,
            stdout: Output { total_bytes: stdout.len() as u64, head: stdout, ..Output::default() },
            stderr: Output::default(),
            timed_out: false,
            limits_hit: Vec::new(),
            wall_milliseconds: 1,
        }
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
