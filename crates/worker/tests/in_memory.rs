//! Workers over a store in memory, where no sandbox is needed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sealign_agent::scripted::ScriptedModel;
use sealign_agent::{Completion, CompletionRequest, Model, ModelError, SystemClock};
use sealign_crds::{ObjectRef, RolloutCampaignSpec, TaskSetSpec, TrajectoryForestSpec};
use sealign_manifest::group::{ClosedSet, ForestManifest, OutputRef};
use sealign_manifest::record::Outcome;
use sealign_manifest::train::{AdapterManifest, ModelManifest};
use sealign_manifest::{Digest, ObjectKeys, Task};
use sealign_plan::config::{
    AlignmentReport, BuildForest, MeasuredModel, NamedKeys, PromotionGate, Report, ResolvePlan, ResolveTasks,
    Run, Work,
};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _, Store};
use sealign_trajectory::Message;
use sealign_worker::error::WorkerError;
use sealign_worker::report::KeptAttempt;
use sealign_worker::resolve::{self, Suites};
use sealign_worker::runner::models::Models;
use sealign_worker::runner::outcome::Seen;
use sealign_worker::runner::pods::{DirectoryError, Pod, PodDirectory};
use sealign_worker::runner::sandbox::{Door, Doors, SandboxError};
use sealign_worker::runner::{self, Ports};
use sealign_worker::{forest, report, verify};
use serde_json::{Value, json};

/// No pods and no sandboxes: whoever asks for one fails.
struct Nowhere;

#[async_trait]
impl PodDirectory for Nowhere {
    async fn list(&self) -> Result<Vec<Arc<Pod>>, DirectoryError> {
        Ok(Vec::new())
    }

    async fn changed(&self, limit: Duration) {
        tokio::time::sleep(limit).await;
    }
}

impl Doors for Nowhere {
    fn open(&self, _: &Pod) -> Result<Arc<dyn Door>, SandboxError> {
        Err(SandboxError::Gone("there are no sandboxes".into()))
    }
}

/// A model that never answers.
struct Silent;

#[async_trait]
impl Model for Silent {
    async fn complete(&self, _: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
        Err(ModelError::Unavailable { tries: 1, reason: "no route".into() })
    }
}

struct OneModel(Arc<dyn Model>);

#[async_trait]
impl Models for OneModel {
    fn model(&self, _: &str, _: &Task) -> Result<Arc<dyn Model>, String> {
        Ok(self.0.clone())
    }

    async fn check(&self, _: Seen) -> BTreeMap<String, Result<(), String>> {
        BTreeMap::from([("model".to_owned(), Ok(()))])
    }
}

fn row(number: u32) -> String {
    json!({
        "task_id": format!("Python/{number}"), "declaration": "def f():\n", "canonical_solution": "    return 1\n",
        "buggy_solution": "    return 2\n", "test": "assert f() == 1\n", "entry_point": "f",
    })
    .to_string()
}

struct Site {
    store: Store,
    tasks: ObjectKeys,
}

impl Site {
    /// A task set of `count` rows of HumanEvalFix.
    async fn new(count: u32) -> Self {
        let site = Self { store: Store::memory(), tasks: ObjectKeys::new("demo/tasksets/t-1") };
        let rows: Vec<String> = (0..count).map(row).collect();
        site.store.create("rows.jsonl", rows.join("\n").into()).await.unwrap();
        let spec: TaskSetSpec = serde_json::from_value(json!({
            "source": { "humanEvalFix": { "rows": "artifact:rows.jsonl" } }, "health": { "repeats": 0 },
        }))
        .unwrap();
        let config = ResolveTasks { keys: site.tasks.clone(), spec };
        resolve::tasks::resolve(&site.store, &config, &Suites::default()).await.unwrap();
        site
    }

    /// Runs a campaign of one policy without sandboxes and without gradings.
    async fn run(&self, change: impl FnOnce(&mut Value), model: Arc<dyn Model>) -> ClosedSet {
        let mut spec = json!({
            "taskSetRef": { "name": "t" }, "grading": "None", "parallelism": 1,
            "policies": [{ "name": "model", "model": { "scripted": { "policy": "strong" } } }],
            "harness": { "name": "Direct", "profile": "tests" },
        });
        change(&mut spec);
        let spec: RolloutCampaignSpec = serde_json::from_value(spec).unwrap();
        let keys = ObjectKeys::new("demo/rolloutcampaigns/c-1");
        let work = Work::Campaign(spec);
        let plan = ResolvePlan { keys: keys.clone(), work: work.clone(), task_keys: self.tasks.clone() };
        resolve::plan(&self.store, &plan).await.unwrap();
        let owner = ObjectRef {
            kind: "RolloutCampaign".into(),
            namespace: "demo".into(),
            name: "c".into(),
            uid: "1".into(),
        };
        let config = Run { keys: keys.clone(), owner, work, task_keys: self.tasks.clone() };
        let ports = Ports {
            store: Arc::new(self.store.clone()),
            pods: Arc::new(Nowhere),
            doors: Arc::new(Nowhere),
            models: Arc::new(OneModel(model)),
            clock: Arc::new(SystemClock::default()),
        };
        runner::run(&config, &ports).await.unwrap();
        self.store.get_json(&keys.closed()).await.unwrap().unwrap()
    }
}

fn says(text: &'static str) -> Arc<dyn Model> {
    Arc::new(ScriptedModel::new(move |_: &[Message], _: u32| text.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_harness_without_a_sandbox_needs_no_pod_and_its_answer_becomes_the_patch() {
    let site = Site::new(3).await;
    let closed = site.run(|_| (), says("```python\ndef f():\n    return 1\n```")).await;
    assert_eq!(closed.outcomes, BTreeMap::from([(Outcome::Ungraded, 3)]));
    assert_eq!(closed.empty, 0);
    let walk = verify::walk(&site.store, "demo/rolloutcampaigns/c-1/closed.json").await.unwrap();
    assert_eq!(walk.findings, []);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_answers_is_infrastructure_after_every_try_and_never_a_failure_of_the_model() {
    let site = Site::new(2).await;
    let closed = site.run(|_| (), Arc::new(Silent)).await;
    assert_eq!(closed.outcomes, BTreeMap::from([(Outcome::Infra, 2)]));
    let tries = site.store.list_names("demo/rolloutcampaigns/c-1/tries").await.unwrap();
    assert_eq!(tries.len(), 2 * 3, "the default of retry.infraTries");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_spent_closes_the_rest_as_not_run() {
    struct Costly;

    #[async_trait]
    impl Model for Costly {
        async fn complete(&self, _: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
            Ok(Completion {
                text: "x = 1".into(),
                finish: sealign_agent::FinishReason::Stop,
                usage: sealign_manifest::record::Usage { prompt_tokens: 90, completion_tokens: 10 },
                waited: Duration::ZERO,
            })
        }
    }

    let site = Site::new(5).await;
    let budget = |spec: &mut Value| spec["budget"] = json!({ "tokens": 150, "onBudget": "Finish" });
    let closed = site.run(budget, Arc::new(Costly)).await;
    assert_eq!(closed.outcomes, BTreeMap::from([(Outcome::NotRun, 3), (Outcome::Ungraded, 2)]));
    assert!(site.store.exists("demo/rolloutcampaigns/c-1/budget/150.json").await.unwrap());
}

#[tokio::test]
async fn a_task_set_without_a_usable_row_is_rejected_with_line_and_reason() {
    let store = Store::memory();
    store.create("rows.jsonl", "\n{\"task_id\": 1}\n".into()).await.unwrap();
    let spec = json!({ "source": { "humanEvalFix": { "rows": "artifact:rows.jsonl" } } });
    let config = ResolveTasks {
        keys: ObjectKeys::new("demo/tasksets/t-1"),
        spec: serde_json::from_value(spec).unwrap(),
    };
    let error = resolve::tasks::resolve(&store, &config, &Suites::default()).await.unwrap_err();
    assert!(matches!(error, WorkerError::Rejected(_)));
    assert!(error.to_string().contains("line 2: not a HumanEvalFix row"), "{error}");
    assert!(!store.exists("demo/tasksets/t-1/tasks.json").await.unwrap());
}

#[tokio::test]
async fn an_import_without_a_trajectory_is_rejected_by_field() {
    let store = Store::memory();
    store.create("sets/a.jsonl", "{\"x\": 1}\n".into()).await.unwrap();
    let spec: TrajectoryForestSpec =
        serde_json::from_value(json!({ "imports": [{ "name": "a", "from": "artifact:sets" }] })).unwrap();
    let keys = ObjectKeys::new("demo/trajectoryforests/f-1");
    let config = BuildForest { keys, spec, campaigns: Vec::new(), excluded: Vec::new() };
    let error = forest::build(&store, &config).await.unwrap_err();
    assert!(error.to_string().starts_with("spec.imports[0].from: every record is refused"), "{error}");
}

fn attempts(resolved: std::ops::Range<u32>) -> Vec<KeptAttempt> {
    let attempt = |task: u32| KeptAttempt {
        task: format!("task-{task:02}"),
        family: "operator".into(),
        outcome: if resolved.contains(&task) { Outcome::Resolved } else { Outcome::Unresolved },
        is_empty: false,
        is_stuck: false,
        is_invalid: false,
        invalid_turns: 0,
        turns: 3,
        tokens: 100,
    };
    (0..20).map(attempt).collect()
}

/// A run whose aligned model resolves the first `resolved` of 20 tasks, the base the first two.
async fn aligned(resolved: u32) -> (Store, AlignmentReport) {
    let store = Store::memory();
    let forest = ForestManifest {
        inputs: BTreeMap::from([("c".into(), Digest::of_bytes(b"closed"))]),
        options: Digest::of_bytes(b"options"),
        outputs: BTreeMap::new(),
        statistics: json!({ "instances": 4, "criticalPairs": 3 }),
        sft_examples: 5,
        pairs: 3,
    };
    let keys = ObjectKeys::new("demo/alignmentruns/r-1");
    let forest_keys = ObjectKeys::new("demo/trajectoryforests/f-1");
    store.create_json(&forest_keys.forest(), &forest).await.unwrap();
    let metrics = BTreeMap::from([("loss".to_owned(), json!(0.25)), ("curve".to_owned(), json!([1, 2]))]);
    let step = keys.step("sft");
    let weights = Bytes::from_static(b"a low-rank update");
    store.create(&step.join("adapter/adapter_model.safetensors"), weights.clone()).await.unwrap();
    let file = OutputRef {
        file: "adapter_model.safetensors".into(),
        digest: Digest::of_bytes(&weights),
        bytes: u64::try_from(weights.len()).unwrap(),
    };
    let adapter = AdapterManifest { files: [(file.file.clone(), file)].into(), inputs: BTreeMap::new() };
    store.create_json(&step.adapter(), &adapter).await.unwrap();
    let adapter = Some(Digest::of_json(&adapter).unwrap());
    let model = ModelManifest {
        files: BTreeMap::new(),
        inputs: BTreeMap::new(),
        step: 7,
        steps: 9,
        metrics,
        adapter,
    };
    store.create_json(&step.model(), &model).await.unwrap();
    let mut benchmarks = Vec::new();
    for (model, range) in [("base", 0..2), ("sft", 0..resolved)] {
        let keys = ObjectKeys::new(format!("demo/benchmarks/r-{model}-1"));
        store.create_json(&keys.join("attempts.json"), &attempts(range)).await.unwrap();
        store.create_json(&keys.report(), &json!({ "inputs": {}, "outputs": {} })).await.unwrap();
        benchmarks.push(MeasuredModel { benchmark: "eval".into(), model: model.into(), keys });
    }
    let config = AlignmentReport {
        name: "r".into(),
        forest: forest_keys,
        steps: vec![NamedKeys { name: "sft".into(), keys: keys.step("sft") }],
        benchmarks,
        promotion: Some(PromotionGate { benchmark: "eval".into(), max_p_value: 0.05 }),
        keys,
    };
    (store, config)
}

#[tokio::test]
async fn a_run_that_wins_the_paired_test_is_promoted_and_its_report_says_how() {
    let (store, config) = aligned(12).await;
    report::write(&store, &Report::Alignment(config.clone())).await.unwrap();
    let mark: Value = store.get_json(&config.keys.promoted()).await.unwrap().unwrap();
    assert_eq!((&mark["wins"], &mark["losses"]), (&json!(10), &json!(0)));
    let manifest: Value = store.get_json(&config.keys.report()).await.unwrap().unwrap();
    assert_eq!(manifest["promoted"], true);
    let page = store.get_bounded(&config.keys.join("report.md"), 1 << 20).await.unwrap().unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    for part in ["12/20", "2/20", "0.2500", "critical pairs", "forest input c"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let walk = verify::walk(&store, &config.keys.report()).await.unwrap();
    assert_eq!(walk.findings, []);
    // The adapter is nobody's input, and as much a result as the model that has it merged.
    let weights = config.keys.step("sft").join("adapter/adapter_model.safetensors");
    store.overwrite(&weights, Bytes::from_static(b"another update")).await.unwrap();
    let walk = verify::walk(&store, &config.keys.report()).await.unwrap();
    assert_eq!(walk.findings.iter().map(|finding| finding.key.as_str()).collect::<Vec<_>>(), [weights]);
}

#[tokio::test]
async fn a_run_that_does_not_win_is_reported_and_not_promoted() {
    let (store, config) = aligned(4).await;
    report::write(&store, &Report::Alignment(config.clone())).await.unwrap();
    assert!(!store.exists(&config.keys.promoted()).await.unwrap());
    let manifest: Value = store.get_json(&config.keys.report()).await.unwrap().unwrap();
    assert_eq!(manifest["promoted"], false);
}
