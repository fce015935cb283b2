//! The workers over real sandboxes: health, a campaign of scripted attempts, the forest, the report, and back again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod pods;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pods::Pods;
use sealign_agent::SystemClock;
use sealign_crds::{BenchmarkSpec, ObjectRef, RolloutCampaignSpec, TaskSetSpec, TrajectoryForestSpec};
use sealign_manifest::group::{ClosedSet, ForestManifest, HealthManifest};
use sealign_manifest::record::Outcome;
use sealign_manifest::{Digest, ObjectKeys};
use sealign_plan::config::{
    BenchmarkReport, BuildForest, ClosedCampaign, Report, ResolvePlan, ResolveTasks, Run, Work,
};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _, Store};
use sealign_worker::resolve::{self, Suites};
use sealign_worker::runner::folder::FolderDirectory;
use sealign_worker::runner::models::CampaignModels;
use sealign_worker::runner::network::NetworkDoors;
use sealign_worker::runner::{self, Ports};
use sealign_worker::{forest, report, verify};
use serde_json::json;

/// Tasks of the set that are measured.
const TASKS: usize = 12;

struct Site {
    root: tempfile::TempDir,
    store: Store,
    tasks: ObjectKeys,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open_directory(&root.path().join("store")).unwrap();
        Self { root, store, tasks: ObjectKeys::new("demo/tasksets/t-1") }
    }

    async fn resolve_tasks(&self, spec: &TaskSetSpec) {
        let config = ResolveTasks { keys: self.tasks.clone(), spec: spec.clone() };
        resolve::tasks::resolve(&self.store, &config, &Suites::default()).await.unwrap();
    }

    /// Runs `work` of the object with `keys` in real sandboxes; returns the number of pods.
    async fn run(&self, keys: &ObjectKeys, work: Work, workdir: &'static str) -> usize {
        let uid = keys.prefix().replace('/', "-");
        let folder = self.root.path().join(&uid);
        let mut pods = Pods::new(&folder, &uid, workdir);
        let policies = match &work {
            Work::Campaign(spec) => spec.policies.clone(),
            _ => Vec::new(),
        };
        let end = match &work {
            Work::Health(_) => keys.health(),
            _ => keys.closed(),
        };
        let owner =
            ObjectRef { kind: "Any".into(), namespace: "demo".into(), name: "x".into(), uid: uid.clone() };
        let config = Run { keys: keys.clone(), owner, work, task_keys: self.tasks.clone() };
        let ports = Ports {
            store: Arc::new(self.store.clone()),
            pods: Arc::new(FolderDirectory::new(&folder, uid)),
            doors: Arc::new(NetworkDoors),
            models: Arc::new(CampaignModels::new(&policies, |_| None).unwrap()),
            clock: Arc::new(SystemClock::default()),
        };
        let runner = tokio::spawn(async move { runner::run(&config, &ports).await });
        let made = pods.serve(&self.store, keys, &end).await;
        runner.await.unwrap().unwrap();
        made
    }

    async fn plan(&self, keys: &ObjectKeys, work: Work) {
        let config = ResolvePlan { keys: keys.clone(), work, task_keys: self.tasks.clone() };
        resolve::plan(&self.store, &config).await.unwrap();
    }

    async fn findings(&self, key: &str) -> verify::Walk {
        verify::walk(&self.store, key).await.unwrap()
    }
}

fn task_set(count: u32) -> TaskSetSpec {
    let mini = json!({ "split": "Train", "count": count, "vaguePercent": 100, "twoFilePercent": 0,
        "nameFilePercent": 100, "families": ["operator", "compare", "index", "agg", "default", "const", "range"] });
    serde_json::from_value(json!({ "source": { "mini": mini } })).unwrap()
}

fn campaign() -> RolloutCampaignSpec {
    let scripted = |name: &str, look: &str| json!({ "name": name, "model": { "scripted": { "policy": "guessing", "parameters": { "lookFirst": look } } } });
    serde_json::from_value(json!({
        "taskSetRef": { "name": "t" }, "samplesPerTask": 2,
        "policies": [scripted("looks", "1"), scripted("guesses", "0")],
        "harness": { "profile": "compact" },
    }))
    .unwrap()
}

/// Every record's key below `prefix` with its digest.
async fn records(store: &Store, keys: &ObjectKeys) -> Vec<(String, Digest)> {
    let mut found = Vec::new();
    for name in store.list_names(&keys.join("groups")).await.unwrap() {
        let bytes = store.get_bounded(&name, 1 << 24).await.unwrap().unwrap();
        found.push((name.replace(keys.prefix(), ""), Digest::of_bytes(&bytes)));
    }
    found
}

fn flip_a_byte(root: &Path, key: &str) {
    let path = root.join("store").join(key);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripted_attempts_run_from_tasks_to_report_and_verify_walks_back() {
    if let Some(obstacle) = pods::obstacle() {
        println!("{obstacle}");
        return;
    }
    let site = Site::new();
    let spec = task_set(10);
    site.resolve_tasks(&spec).await;
    site.run(&site.tasks, Work::Health(spec), "/repo").await;
    let health: HealthManifest = site.store.get_json(&site.tasks.health()).await.unwrap().unwrap();
    assert_eq!((health.gradings, health.flaky), (20, 0));
    assert!(health.quarantined.is_empty(), "{:?}", health.quarantined);

    let keys = ObjectKeys::new("demo/rolloutcampaigns/c-1");
    site.plan(&keys, Work::Campaign(campaign())).await;
    let begun = Instant::now();
    let pods = site.run(&keys, Work::Campaign(campaign()), "/repo").await;
    println!("{pods} sandboxes in {:?}", begun.elapsed());
    let closed: ClosedSet = site.store.get_json(&keys.closed()).await.unwrap().unwrap();
    assert_eq!(closed.outcomes.values().sum::<u64>(), 20);
    assert_eq!(closed.outcomes.get(&Outcome::Infra), None);
    let resolved = closed.outcomes[&Outcome::Resolved];
    assert!((8..=16).contains(&resolved), "{:?}", closed.outcomes);

    let again = ObjectKeys::new("demo/rolloutcampaigns/c-2");
    site.plan(&again, Work::Campaign(campaign())).await;
    let pods = site.run(&again, Work::Campaign(campaign()), "/repo").await;
    assert_eq!(pods, 20, "every verdict is known, so nothing is graded twice");
    let rollouts = |found: Vec<(String, Digest)>| -> Vec<(String, Digest)> {
        found.into_iter().filter(|(name, _)| name.matches('/').count() == 4).collect()
    };
    let (first, second) = (records(&site.store, &keys).await, records(&site.store, &again).await);
    assert_eq!(rollouts(first), rollouts(second));

    let (forest_key, report_key) = downstream(&site, &keys).await;
    for key in [&forest_key, &report_key] {
        let walk = site.findings(key).await;
        assert_eq!(walk.findings, [], "{key}");
        assert!(walk.objects > 40, "{} objects", walk.objects);
    }
    let record = site.store.list_names(&keys.join("groups/g0001/rollout")).await.unwrap().remove(3);
    flip_a_byte(site.root.path(), &record);
    let walk = site.findings(&forest_key).await;
    assert_eq!(walk.findings.len(), 1);
    assert_eq!(walk.findings[0].key, record);
}

/// Forest and report of a closed campaign; their keys.
async fn downstream(site: &Site, campaign: &ObjectKeys) -> (String, String) {
    let keys = ObjectKeys::new("demo/trajectoryforests/f-1");
    // With two attempts a task, one that looks and one that guesses, none shares a beginning with another.
    let spec: TrajectoryForestSpec = serde_json::from_value(json!({
        "campaignRefs": [{ "name": "c" }], "filters": { "overlapMinPrefix": 0 },
    }))
    .unwrap();
    let closed = site.store.get_bounded(&campaign.closed(), 1 << 20).await.unwrap().unwrap();
    let campaigns =
        vec![ClosedCampaign { name: "c".into(), keys: campaign.clone(), digest: Digest::of_bytes(&closed) }];
    let config = BuildForest { keys: keys.clone(), spec, campaigns, excluded: Vec::new() };
    forest::build(&site.store, &config).await.unwrap();
    let forest: ForestManifest = site.store.get_json(&keys.forest()).await.unwrap().unwrap();
    assert!(forest.pairs > 0 && forest.sft_examples > 0, "{:?}", forest.statistics);

    let bench = ObjectKeys::new("demo/benchmarks/b-1");
    let config = Report::Benchmark(BenchmarkReport {
        keys: bench.clone(),
        name: "b".into(),
        campaign: campaign.clone(),
        task_keys: site.tasks.clone(),
        baselines: Vec::new(),
    });
    report::write(&site.store, &config).await.unwrap();
    let figures: serde_json::Value = site.store.get_json(&bench.report()).await.unwrap().unwrap();
    assert_eq!(figures["total"], 20);
    (keys.forest(), bench.report())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canonical_solutions_of_humanevalfix_are_resolved_and_buggy_ones_are_not() {
    let shared = std::env::var("SEALIGN_SHARED_DATA")
        .unwrap_or_else(|_| format!("{}/../../../shared/data", env!("CARGO_MANIFEST_DIR")));
    let rows = format!("{shared}/humanevalfix/humanevalfix_python.jsonl");
    let Ok(text) = std::fs::read_to_string(&rows) else {
        println!("skipped: no shared data");
        return;
    };
    if let Some(obstacle) = pods::obstacle() {
        println!("{obstacle}");
        return;
    }
    let site = Site::new();
    let spec: TaskSetSpec = serde_json::from_value(json!({
        "source": { "humanEvalFix": { "rows": format!("file:{rows}") } },
        "selection": { "limit": TASKS }, "health": { "repeats": 0 },
    }))
    .unwrap();
    site.resolve_tasks(&spec).await;
    for (name, field, expected) in
        [("canonical", "canonical_solution", TASKS), ("buggy", "buggy_solution", 0)]
    {
        let predictions = site.root.path().join(format!("{name}.jsonl"));
        let lines = text.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            json!({ "task_id": row["task_id"], "solution": row[field] }).to_string()
        });
        std::fs::write(&predictions, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let spec: BenchmarkSpec = serde_json::from_value(json!({
            "taskSetRef": { "name": "t" }, "predictions": format!("file:{}", predictions.display()),
        }))
        .unwrap();
        let keys = ObjectKeys::new(format!("demo/benchmarks/{name}-1"));
        site.plan(&keys, Work::Predictions(spec.clone())).await;
        site.run(&keys, Work::Predictions(spec), "/workspace").await;
        let closed: ClosedSet = site.store.get_json(&keys.closed()).await.unwrap().unwrap();
        let resolved = closed.outcomes.get(&Outcome::Resolved).copied().unwrap_or(0);
        assert_eq!(usize::try_from(resolved).unwrap(), expected, "{name}: {:?}", closed.outcomes);
        assert_eq!(closed.outcomes.values().sum::<u64>(), 12);
    }
}
