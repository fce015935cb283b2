//! Jobs run as processes of this machine: small shell scripts stand for the programs, nothing stands for the controller.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::core::DynamicObject;
use sealign_local::folder::Folder;
use sealign_local::jobs::JobController;
use sealign_local::launch::Launcher;
use sealign_local::memory::{Machine, MemoryCluster};
use sealign_local::notice::{Notice, NoticeSink};
use sealign_local::process::Programs;
use sealign_reconcile::port::{Cluster, Kind};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Far beyond what any of these scripts takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    cluster: Arc<MemoryCluster>,
    notices: Arc<Mutex<Vec<Notice>>>,
    controller: JoinHandle<()>,
    shutdown: oneshot::Sender<()>,
}

fn start(state: &Path) -> World {
    let cluster = MemoryCluster::new(Arc::new(Machine)).with_collection();
    let cluster = Arc::new(cluster.with_folder(Folder::open(state).unwrap()).unwrap());
    let launcher = Launcher::new(state, Programs::default(), "file:///store".into()).unwrap();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = notices.clone();
    let sink = NoticeSink::new(move |notice| kept.lock().unwrap().push(notice));
    let (shutdown, ended) = oneshot::channel();
    let controller = JobController::new(cluster.clone(), Arc::new(launcher), 8, sink);
    World { cluster, notices, controller: tokio::spawn(controller.run(ended)), shutdown }
}

impl World {
    async fn stop(self) {
        self.shutdown.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.controller).await.unwrap().unwrap();
    }

    async fn create(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) {
        let mut job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name, "namespace": "demo" },
            "spec": { "completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0,
                "template": {
                    "metadata": { "labels": { "sealign.dev/zone": "report" } },
                    "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main",
                        "command": ["/bin/sh", "-c", script] }] },
                } },
        });
        change(&mut job["spec"]);
        let object: DynamicObject = serde_json::from_value(job).unwrap();
        self.cluster.create(Kind::Job, &object).await.unwrap();
    }

    async fn status(&self, name: &str) -> Value {
        let job = self.cluster.get(Kind::Job, "demo", name).await.unwrap().unwrap();
        job.data.get("status").cloned().unwrap_or_default()
    }

    async fn until(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let status = self.status(name).await;
                if is_so(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the Job should have come so far")
    }

    async fn finished(&self, name: &str) -> (Value, String) {
        let last = |status: &Value| status["conditions"].as_array().and_then(|c| c.last().cloned());
        let is_so = |status: &Value| {
            last(status).is_some_and(|c| ["Complete", "Failed"].contains(&c["type"].as_str().unwrap()))
        };
        let status = self.until(name, is_so).await;
        let end = last(&status).unwrap();
        (status, format!("{}/{}", end["type"].as_str().unwrap(), end["reason"].as_str().unwrap()))
    }
}

async fn gone(path: &Path) {
    let wait = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the folder should be gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_index_runs_once_with_its_variables_and_the_job_completes() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let script = format!(
        "echo \"$JOB_COMPLETION_INDEX $SEALIGN_STORE $SEALIGN_POD_DIRECTORY $NOTE\" >> {}/seen",
        state.path().display()
    );
    let env = json!([{ "name": "NOTE", "value": "n" }]);
    world.create("j", &script, |spec| spec["template"]["spec"]["containers"][0]["env"] = env).await;
    let (status, end) = world.finished("j").await;
    assert_eq!(end, "Complete/CompletionsReached");
    assert_eq!((&status["succeeded"], &status["completedIndexes"]), (&json!(3), &json!("0-2")));
    let mut seen: Vec<String> =
        std::fs::read_to_string(state.path().join("seen")).unwrap().lines().map(String::from).collect();
    seen.sort();
    let pods = state.path().join("pods");
    let line = |index: u32| format!("{index} file:///store {} n", pods.display());
    assert_eq!(seen, [line(0), line(1), line(2)]);
    let pod: Value = serde_json::from_slice(&std::fs::read(pods.join("j-1/pod.json")).unwrap()).unwrap();
    assert_eq!((&pod["phase"], &pod["exitCode"], &pod["index"]), (&json!("Succeeded"), &json!(0), &json!(1)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_index_fails_the_job_after_the_others_and_its_output_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    world.create("j", "echo words; [ $JOB_COMPLETION_INDEX != 1 ] || exit 3", |_| ()).await;
    let (status, end) = world.finished("j").await;
    assert_eq!(end, "Failed/FailedIndexes");
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1")));
    let notices = world.notices.lock().unwrap().clone();
    let [Notice::PodFailed { pod, log, .. }] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((pod.name.as_str(), pod.exit_code, pod.reason.as_str()), ("j-1", Some(3), "Error"));
    assert_eq!(sealign_local::log::tail(log, 100), "words");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_pods_run_at_once_than_parallelism_says() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let root = state.path().display();
    let script = format!(
        "mkdir {root}/run-$JOB_COMPLETION_INDEX; ls -d {root}/run-* | wc -l >> {root}/seen; sleep 0.05; rmdir {root}/run-$JOB_COMPLETION_INDEX"
    );
    world
        .create("j", &script, |spec| (spec["completions"], spec["parallelism"]) = (json!(8), json!(2)))
        .await;
    world.finished("j").await;
    let seen = std::fs::read_to_string(state.path().join("seen")).unwrap();
    let most = seen.lines().map(|line| line.trim().parse::<u32>().unwrap()).max().unwrap();
    assert!(most <= 2 && seen.lines().count() == 8, "{seen}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_is_ended_and_says_so() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let deadline = |spec: &mut Value| spec["activeDeadlineSeconds"] = json!(1);
    world.create("j", "trap '' TERM; sleep 60 & wait; sleep 60", deadline).await;
    let (_, end) = world.finished("j").await;
    assert_eq!(end, "Failed/DeadlineExceeded");
    assert!(world.notices.lock().unwrap().is_empty(), "what was asked to end did not fail");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_job_ends_its_pods_and_forgets_them() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let pid_file = state.path().join("pid");
    world
        .create("j", &format!("echo $$ > {}; exec sleep 60", pid_file.display()), |spec| {
            spec["completions"] = json!(1);
        })
        .await;
    world.until("j", |status| status["ready"] == json!(1) && pid_file.exists()).await;
    let uid = world.cluster.get(Kind::Job, "demo", "j").await.unwrap().unwrap().metadata.uid.unwrap();
    world.cluster.delete(Kind::Job, "demo", "j", &uid).await.unwrap();
    gone(&state.path().join("pods/j-0")).await;
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    gone(&Path::new("/proc").join(pid.trim())).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_runs_nothing() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    world.create("j", "exit 1", |spec| spec["suspend"] = json!(true)).await;
    world.create("k", "exit 0", |_| ()).await;
    world.finished("k").await;
    assert!(!state.path().join("pods/j-0").exists());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gets_its_address_into_the_directory() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let server = |spec: &mut Value| {
        spec["completions"] = json!(1);
        spec["template"]["metadata"]["labels"]["sealign.dev/zone"] = json!("server");
    };
    world
        .create("j", "sleep 0.1; echo http://127.0.0.1:1234 > $SEALIGN_ADDRESS_FILE; exec sleep 60", server)
        .await;
    world.until("j", |status| status["ready"] == json!(1)).await;
    let pod: Value =
        serde_json::from_slice(&std::fs::read(state.path().join("pods/j-0/pod.json")).unwrap()).unwrap();
    assert_eq!((&pod["address"], &pod["phase"]), (&json!("http://127.0.0.1:1234"), &json!("Running")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_pods_that_ran_have_failed_and_the_others_still_run_once() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let seen = state.path().join("seen");
    let script = format!(
        "echo $JOB_COMPLETION_INDEX >> {}; [ $JOB_COMPLETION_INDEX = 0 ] || exec sleep 60",
        seen.display()
    );
    world.create("j", &script, |spec| spec["parallelism"] = json!(2)).await;
    let count = || std::fs::read_to_string(&seen).unwrap_or_default().lines().count();
    // A pod that has begun and is not yet known to run would be begun again, as it should be.
    let runs = |index: u8| {
        let pod = std::fs::read(state.path().join(format!("pods/j-{index}/pod.json"))).unwrap_or_default();
        serde_json::from_slice::<Value>(&pod).is_ok_and(|pod| pod["phase"] == "Running")
    };
    let is_time = |status: &Value| status["succeeded"] == json!(1) && count() == 3 && runs(1) && runs(2);
    world.until("j", is_time).await;
    // A crash: nothing is told, nothing is waited for.
    world.controller.abort();
    let _cancelled = world.controller.await;
    drop(world.cluster);
    let again = start(state.path());
    let (status, end) = again.finished("j").await;
    assert_eq!(end, "Failed/FailedIndexes");
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0"), &json!("1-2")));
    assert_eq!(count(), 3, "no index ran twice");
    let pod: Value =
        serde_json::from_slice(&std::fs::read(state.path().join("pods/j-1/pod.json")).unwrap()).unwrap();
    assert_eq!((&pod["phase"], &pod["reason"]), (&json!("Failed"), &json!("NodeLost")));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_fails_its_pod_with_the_remedy() {
    let state = tempfile::tempdir().unwrap();
    let world = start(state.path());
    let command = |spec: &mut Value| {
        spec["completions"] = json!(1);
        spec["template"]["spec"]["containers"][0]["command"] = json!(["sealign-nothing"]);
    };
    world.create("j", "", command).await;
    world.finished("j").await;
    let notices = world.notices.lock().unwrap().clone();
    let [Notice::PodFailed { pod, .. }] = &notices[..] else { panic!("{notices:?}") };
    assert!(pod.reason.starts_with("StartError: ") && pod.reason.contains("make build"), "{}", pod.reason);
    world.stop().await;
}
