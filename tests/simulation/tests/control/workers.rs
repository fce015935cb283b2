//! What workers leave in the store, at the level that the control plane sees: the same keys, the same documents, in the same
//! order as the real ones, with records that say nothing.

use bytes::Bytes;
use sealign_manifest::group::{
    ClosedSet, ForestManifest, GroupItems, GroupManifest, GroupRef, HealthManifest, PlanManifest, Progress,
    RoundMap, TaskListManifest, TaskRef, TryCause, TryRecord, WaitingPods,
};
use sealign_manifest::key::{Stage, record_item};
use sealign_manifest::record::Outcome;
use sealign_manifest::train::{ModelManifest, TrainStep};
use sealign_manifest::{Digest, GradingItem, ItemKey, ObjectKeys, RolloutItem, Start, Suite};
use sealign_plan::config::{Report, ResolvePlan, ResolveTasks, Run, Work, WorkerConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::store::MapStore;

/// Tasks of a group: with ten samples each, 20 items.
const GROUP_TASKS: usize = 2;

pub fn write<T: Serialize>(store: &MapStore, key: &str, value: &T) {
    store.put(key, Bytes::from(serde_json::to_vec(value).unwrap()));
}

pub fn read<T: DeserializeOwned>(store: &MapStore, key: &str) -> Option<T> {
    store.read(key).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

fn digest(text: &str) -> Digest {
    Digest::of_bytes(text.as_bytes())
}

/// A worker that does its work at once. Whether it is done for good.
pub fn finish(store: &MapStore, config: &WorkerConfig, round: u32) -> bool {
    match config {
        WorkerConfig::ResolveTasks(config) => resolve_tasks(store, config),
        WorkerConfig::ResolvePlan(config) => resolve_plan(store, config),
        WorkerConfig::BuildForest(config) => {
            let inputs = config.campaigns.iter().map(|c| (c.name.clone(), c.digest.clone())).collect();
            let forest = ForestManifest {
                inputs,
                options: digest("options"),
                outputs: std::collections::BTreeMap::new(),
                statistics: json!({ "instances": 5, "collected": 50, "afterFiltering": 48 }),
                sft_examples: 20,
                pairs: 9,
            };
            write(store, &config.keys.forest(), &forest);
            return store.has(&config.keys.forest());
        }
        WorkerConfig::Train(step) => return train(store, step, round),
        WorkerConfig::Report(Report::Benchmark(config)) => {
            write(
                store,
                &config.keys.report(),
                &json!({ "total": 5, "resolved": 3, "resolvedPercent": 60.0 }),
            );
        }
        WorkerConfig::Report(Report::Alignment(config)) => {
            write(store, &config.keys.promoted(), &json!({}));
            write(store, &config.keys.report(), &json!({ "steps": config.steps.len() }));
        }
        WorkerConfig::Run(_) | WorkerConfig::Serve(_) => {}
    }
    true
}

/// The first round leaves a checkpoint and dies; the second one finishes.
fn train(store: &MapStore, step: &TrainStep, round: u32) -> bool {
    if round == 0 {
        write(store, &step.keys.join("checkpoints/000010/manifest.json"), &json!({}));
        return false;
    }
    let settings = Digest::of_json(&step.settings).unwrap();
    let model = ModelManifest {
        files: std::collections::BTreeMap::new(),
        inputs: [("settings".to_owned(), settings)].into(),
        step: 20,
        steps: 20,
        metrics: std::collections::BTreeMap::new(),
        adapter: None,
    };
    write(store, &step.keys.model(), &model);
    true
}

fn resolve_tasks(store: &MapStore, config: &ResolveTasks) {
    let count = config.spec.source.mini.as_ref().map_or(1, |mini| mini.count);
    let task = |n: i32| {
        let id = format!("{}-{n}", config.keys.prefix());
        TaskRef { digest: digest(&id), environment: digest("env"), image: "mini".into(), id }
    };
    let tasks = (0..count).map(task).collect();
    let list = TaskListManifest { suite: Suite::Mini, rows: digest("rows"), tasks };
    if config.spec.health.repeats > 0 {
        let gradings = |task: &TaskRef| grading(&task.digest, "gold");
        let items: Vec<GradingItem> = list.tasks.iter().map(gradings).collect();
        let group = GroupManifest {
            group: "g0000".into(),
            stage: Stage::Rollout,
            records: std::collections::BTreeMap::new(),
            gradings: items,
        };
        write(store, &config.keys.group_manifest("g0000", Stage::Rollout), &group);
        let group = GroupRef { id: "g0000".into(), image: "mini".into(), items: 0 };
        write(store, &config.keys.plan(), &plan(list.digest().unwrap(), vec![group], false));
    }
    write(store, &config.keys.tasks(), &list);
}

fn plan(tasks: Digest, groups: Vec<GroupRef>, sandboxed: bool) -> PlanManifest {
    PlanManifest {
        tasks,
        spec: digest("spec"),
        task_count: 5,
        item_count: groups.iter().map(|group| u64::from(group.items)).sum(),
        sandboxed,
        graded: true,
        groups,
    }
}

fn grading(task: &Digest, patch: &str) -> GradingItem {
    GradingItem { task: task.clone(), patch: digest(patch), environment: digest("env"), grader: 1, repeat: 0 }
}

fn resolve_plan(store: &MapStore, config: &ResolvePlan) {
    let Work::Campaign(spec) = &config.work else { return };
    let list: TaskListManifest = read(store, &config.task_keys.tasks()).unwrap();
    let mut groups = Vec::new();
    for (ordinal, tasks) in list.tasks.chunks(GROUP_TASKS).enumerate() {
        let id = format!("g{ordinal:04}");
        let samples = u32::try_from(spec.samples_per_task).unwrap();
        let items: Vec<RolloutItem> = tasks
            .iter()
            .flat_map(|task| {
                (0..samples).map(|sample| RolloutItem {
                    task: task.digest.clone(),
                    start: Start::Root,
                    policy: spec.policies[0].name.clone(),
                    sample,
                    seed: sample,
                })
            })
            .collect();
        let count = u32::try_from(items.len()).unwrap();
        write(store, &config.keys.group_items(&id), &GroupItems { group: id.clone(), items });
        groups.push(GroupRef { id, image: "mini".into(), items: count });
    }
    write(store, &config.keys.plan(), &plan(list.digest().unwrap(), groups, true));
}

/// What a runner leaves of a round whose pods found no node.
pub fn write_unschedulable(store: &MapStore, keys: &ObjectKeys, map: &RoundMap) {
    for item in &map.items {
        let failed = TryRecord {
            item: item.clone(),
            round: map.round,
            cause: TryCause::Unschedulable,
            tokens: Some(0),
            detail: String::new(),
        };
        write(store, &keys.failed_try(item, map.round), &failed);
    }
}

/// What a live runner does: closes what is complete, and says where pods find no node. Whether everything is closed.
pub fn run(store: &MapStore, config: &Run, is_full: bool) -> bool {
    let plan: PlanManifest = read(store, &config.keys.plan()).unwrap();
    let waiting = || WaitingPods { pods: 3, detail: "Unschedulable: 0/2 nodes are available".into() };
    let unschedulable = is_full.then(waiting);
    let mut progress = Progress { ready: true, unschedulable, ..Progress::default() };
    let mut open = 0;
    for group in &plan.groups {
        let rollouts = recorded(store, &config.keys, &group.id, Stage::Rollout);
        progress.rollouts += rollouts.len() as u64;
        let key = config.keys.group_manifest(&group.id, Stage::Rollout);
        if rollouts.len() == group.items as usize && !store.has(&key) {
            write(store, &key, &rollout_manifest(&group.id, &rollouts));
        }
        let Some(manifest) = read::<GroupManifest>(store, &key) else {
            open += 1;
            continue;
        };
        let grades = recorded(store, &config.keys, &group.id, Stage::Grade);
        progress.gradings += grades.len() as u64;
        if grades.len() < manifest.gradings.len() {
            open += 1;
            continue;
        }
        let records = grades.into_iter().map(|item| (item, digest("verdict"))).collect();
        let closing =
            GroupManifest { group: group.id.clone(), stage: Stage::Grade, records, gradings: Vec::new() };
        write(store, &config.keys.group_manifest(&group.id, Stage::Grade), &closing);
    }
    store.replace(&config.keys.progress(), Bytes::from(serde_json::to_vec(&progress).unwrap()));
    if open == 0 {
        close(store, config, &plan, &progress);
    }
    open == 0
}

fn close(store: &MapStore, config: &Run, plan: &PlanManifest, progress: &Progress) {
    if matches!(config.work, Work::Health(_)) {
        let health = HealthManifest {
            tasks: plan.tasks.clone(),
            repeats: 1,
            gradings: progress.gradings,
            flaky: 0,
            quarantined: std::collections::BTreeMap::new(),
        };
        return write(store, &config.keys.health(), &health);
    }
    let closed = ClosedSet {
        plan: Digest::of_json(plan).unwrap(),
        records: digest("records"),
        outcomes: [(Outcome::Resolved, progress.rollouts)].into(),
        gradings: progress.gradings,
        empty: 0,
        stuck: 0,
        prompt_tokens: 10,
        completion_tokens: 1,
    };
    write(store, &config.keys.closed(), &closed);
}

/// Half of the rollouts left a patch; the last group left none.
fn rollout_manifest(group: &str, items: &[ItemKey]) -> GroupManifest {
    let records = items.iter().map(|item| (item.clone(), digest("record"))).collect();
    let patches = if items.len() > 10 { items.len() / 2 } else { 0 };
    let mut gradings: Vec<GradingItem> =
        (0..patches).map(|n| grading(&digest(group), &n.to_string())).collect();
    gradings.sort_by_key(GradingItem::key);
    GroupManifest { group: group.to_owned(), stage: Stage::Rollout, records, gradings }
}

fn recorded(store: &MapStore, keys: &ObjectKeys, group: &str, stage: Stage) -> Vec<ItemKey> {
    store.below(&keys.records(group, stage)).iter().filter_map(|name| record_item(name)).collect()
}
