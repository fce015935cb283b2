//! Sandbox pods on one machine, made by hand: the real server under bubblewrap, and a pod directory as the embedded
//! cluster writes it. One round a stage; what fails stays failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sealign_manifest::group::{GroupItems, GroupManifest, PlanManifest, RoundMap, TryRecord};
use sealign_manifest::key::Stage;
use sealign_manifest::{GradingItem, ItemKey, ObjectKeys, RolloutItem};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _, Store};
use serde_json::json;

/// Sandboxes at once.
const PARALLELISM: usize = 4;
/// What a whole stage of a test may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's binary beside the test's, where it was built.
fn server() -> Option<PathBuf> {
    let deps = std::env::current_exe().ok()?;
    let path = deps.parent()?.parent()?.join("sealign-sandbox");
    path.exists().then_some(path)
}

/// Why real sandboxes cannot run here, if they cannot.
pub fn obstacle() -> Option<String> {
    if server().is_none() {
        return Some("skipped: sealign-sandbox is not built (cargo build -p sealign-sandbox)".into());
    }
    let probe = Command::new("bwrap")
        .args(["--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "/usr/bin/true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match probe {
        Ok(status) if status.success() => None,
        _ => Some("skipped: bubblewrap is missing or may not make user namespaces here".into()),
    }
}

/// Failed tries, for the message of a test that waits in vain: there is no second round here.
async fn failed_tries(store: &Store, keys: &ObjectKeys) -> String {
    let mut found = Vec::new();
    for name in store.list_names(&keys.join("tries")).await.unwrap() {
        let failed: TryRecord = store.get_json(&name).await.unwrap().unwrap();
        found.push(format!("{:?} ({})", failed.cause, failed.detail));
    }
    found.join(", ")
}

/// The pods of one owner.
pub struct Pods {
    folder: PathBuf,
    owner_uid: String,
    workdir: &'static str,
    live: BTreeMap<String, (Child, serde_json::Value)>,
    waiting: Vec<(String, RoundMap, u32)>,
    started: Vec<(String, Stage)>,
    made: usize,
}

impl Pods {
    pub fn new(folder: &Path, owner_uid: &str, workdir: &'static str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        Self {
            folder: folder.to_owned(),
            owner_uid: owner_uid.into(),
            workdir,
            live: BTreeMap::new(),
            waiting: Vec::new(),
            started: Vec::new(),
            made: 0,
        }
    }

    /// Makes pods for everything that the plan asks for until `end` exists. Returns how many there were.
    pub async fn serve(&mut self, store: &Store, keys: &ObjectKeys, end: &str) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let plan: PlanManifest = store.get_json(&keys.plan()).await.unwrap().unwrap();
        while store.get_json::<serde_json::Value>(end).await.unwrap().is_none() {
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "the runner did not come to an end: {}", failed_tries(store, keys).await);
            for group in &plan.groups {
                self.want(store, keys, &group.id, group.items > 0).await;
            }
            self.step();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.made
    }

    async fn want(&mut self, store: &Store, keys: &ObjectKeys, group: &str, has_rollouts: bool) {
        if has_rollouts && !self.started.contains(&(group.to_owned(), Stage::Rollout)) {
            let items: GroupItems = store.get_json(&keys.group_items(group)).await.unwrap().unwrap();
            self.queue(group, Stage::Rollout, items.items.iter().map(RolloutItem::key).collect());
        }
        if self.started.contains(&(group.to_owned(), Stage::Grade)) {
            return;
        }
        let manifest: Option<GroupManifest> =
            store.get_json(&keys.group_manifest(group, Stage::Rollout)).await.unwrap();
        if let Some(manifest) = manifest {
            self.queue(group, Stage::Grade, manifest.gradings.iter().map(GradingItem::key).collect());
        }
    }

    fn queue(&mut self, group: &str, stage: Stage, items: Vec<ItemKey>) {
        self.started.push((group.to_owned(), stage));
        let map = RoundMap { group: group.into(), stage, round: 0, barren: 0, items };
        for index in 0..u32::try_from(map.items.len()).unwrap() {
            self.waiting.push((format!("{group}-{}-{index}", stage.name()), map.clone(), index));
        }
    }

    fn step(&mut self) {
        let ended: Vec<(String, i32)> = self
            .live
            .iter_mut()
            .filter_map(|(name, (child, _))| {
                Some((name.clone(), child.try_wait().unwrap()?.code().unwrap_or(137)))
            })
            .collect();
        for (name, code) in ended {
            let (_, mut pod) = self.live.remove(&name).unwrap();
            pod["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
            pod["exitCode"] = json!(code);
            self.write(&name, &pod);
        }
        while self.live.len() < PARALLELISM && !self.waiting.is_empty() {
            let (name, map, index) = self.waiting.remove(0);
            self.start(&name, &map, index);
        }
    }

    fn start(&mut self, name: &str, map: &RoundMap, index: u32) {
        let door = self.folder.with_extension("doors").join(name);
        std::fs::create_dir_all(&door).unwrap();
        let uid = format!("uid-{name}");
        let child = self.sandbox(&door, &uid);
        let pod = json!({
            "name": name, "uid": uid, "job": "by-hand", "index": index,
            "labels": { "sealign.dev/owner-uid": self.owner_uid, "sealign.dev/zone": "sandbox" },
            "annotations": { "sealign.dev/round-map": serde_json::to_string(map).unwrap() },
            "address": format!("unix:{}", door.join("sock").display()),
            "phase": "Running", "exitCode": null, "reason": "",
        });
        let socket = door.join("sock");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "a sandbox did not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.made += 1;
        self.write(name, &pod);
        self.live.insert(name.to_owned(), (child, pod));
    }

    fn sandbox(&self, door: &Path, uid: &str) -> Child {
        let mut command = Command::new("bwrap");
        command
            .args(["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"])
            .args(["--die-with-parent", "--as-pid-1", "--clearenv", "--new-session"])
            .args([
                "--ro-bind",
                "/usr",
                "/usr",
                "--symlink",
                "usr/bin",
                "/bin",
                "--symlink",
                "usr/lib",
                "/lib",
            ])
            .args(["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .args(["--tmpfs", self.workdir, "--bind"])
            .arg(door)
            .args(["/door", "--ro-bind"])
            .arg(server().unwrap())
            .args(["/sealign-sandbox", "--", "/sealign-sandbox", "--socket=/door/sock"])
            .arg(format!("--pod-uid={uid}"))
            .arg(format!("--root={}", self.workdir));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    fn write(&self, name: &str, pod: &serde_json::Value) {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("new"), pod.to_string()).unwrap();
        std::fs::rename(folder.join("new"), folder.join("pod.json")).unwrap();
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for (child, _) in self.live.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
