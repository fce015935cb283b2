//! The paths beside the straight one: pauses, budgets, refusals, missing and broken neighbours. Each ends in a condition that
//! says what to do, and each is left again when that is done.

use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use kube::core::DynamicObject;
use sealign_manifest::key::Stage;
use sealign_plan::names;
use sealign_reconcile::port::{Cluster, Kind};
use serde_json::{Value, json};

use super::cluster::Snapshot;
use super::faults::Plan;
use super::harness::{Goal, NAMESPACE, Process, condition, create, finish, get};
use super::scenarios::{alignment, campaign, campaign_object, run_object, task_set};
use super::workers;
use super::world::World;

/// Lets the world and a process without faults go on for some ticks.
fn ticks(world: &mut World, count: usize) {
    let mut process = Process::start(world, Arc::new(Plan::default()), &Snapshot::default());
    for _ in 0..count {
        process.pass(world);
        world.tick();
    }
}

/// Changes an object's spec, as a user would.
fn edit(world: &World, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
    let mut object = get(world, kind, name).unwrap();
    change(&mut object.data["spec"]);
    world.cluster.update(kind, &object);
}

fn live_jobs(world: &World) -> Vec<DynamicObject> {
    let jobs = block_on(world.cluster.list(Kind::Job, None, &std::collections::BTreeMap::new())).unwrap();
    jobs.into_iter().filter(|job| !sealign_plan::job::JobView::read(job).is_over).collect()
}

fn of_campaign(world: &World, kind: &str) -> (String, String, String) {
    condition(world, Kind::RolloutCampaign, "fifty", kind)
}

#[test]
fn a_campaign_without_its_task_set_says_which_to_create_and_goes_on_once_it_is_there() {
    let mut world = World::new(1);
    create(&world, campaign_object());
    ticks(&mut world, 2);
    let (status, reason, message) = of_campaign(&world, "Succeeded");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "ReferenceNotFound"));
    assert!(
        message.contains("spec.taskSetRef: TaskSet `train`") && message.contains("create it"),
        "{message}"
    );
    create(&world, task_set("train", 0));
    ticks(&mut world, 5);
    assert_eq!(of_campaign(&world, "Succeeded").1, "Running");
}

#[test]
fn a_pause_deletes_what_runs_and_going_on_repeats_nothing() {
    let mut world = World::new(2);
    let goal = campaign(&world);
    ticks(&mut world, 12);
    let recorded = world.store.contents().objects.keys().filter(|key| key.contains("/groups/g")).count();
    assert!(recorded > 10 && !live_jobs(&world).is_empty(), "paused in the middle of the work");
    edit(&world, goal.kind, goal.name, |spec| spec["suspend"] = json!(true));
    ticks(&mut world, 2);
    assert!(live_jobs(&world).is_empty());
    let (status, _, message) = of_campaign(&world, "Suspended");
    assert_eq!(status, "True");
    assert!(message.contains("spec.suspend is true: set it to false"), "{message}");
    let before = world.store.contents().objects.len();
    ticks(&mut world, 3);
    assert_eq!(world.store.contents().objects.len(), before, "nothing happens in a pause");
    edit(&world, goal.kind, goal.name, |spec| spec["suspend"] = json!(false));
    finish(&mut world, goal);
    assert!(world.store.contents().violations.is_empty());
}

#[test]
fn a_pause_of_a_run_reaches_the_campaigns_of_its_benchmarks() {
    let mut world = World::new(3);
    let goal = alignment(&world);
    ticks(&mut world, 9);
    assert_eq!(condition(&world, Kind::RolloutCampaign, "loop-fresh-base", "Suspended").0, "False");
    edit(&world, goal.kind, goal.name, |spec| spec["suspend"] = json!(true));
    ticks(&mut world, 2);
    let (status, _, message) = condition(&world, Kind::RolloutCampaign, "loop-fresh-base", "Suspended");
    assert_eq!(status, "True");
    assert!(message.contains("AlignmentRun `loop`"), "{message}");
    assert!(live_jobs(&world).is_empty());
    edit(&world, goal.kind, goal.name, |spec| spec["suspend"] = json!(false));
    finish(&mut world, goal);
}

#[test]
fn a_spent_budget_stops_new_attempts_and_raising_it_goes_on() {
    let mut world = World::new(4);
    create(&world, task_set("train", 0));
    let mut object = campaign_object();
    object["spec"]["budget"] = json!({ "tokens": 1000 });
    create(&world, object);
    ticks(&mut world, 2);
    let keys = names::keys(Kind::RolloutCampaign, &get(&world, Kind::RolloutCampaign, "fifty").unwrap());
    workers::write(&world.store, &keys.budget(1000), &json!({}));
    ticks(&mut world, 12);
    assert_eq!(of_campaign(&world, "BudgetExhausted").0, "True");
    let (status, reason, message) = of_campaign(&world, "Succeeded");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "BudgetExhausted"));
    assert!(message.contains("raise spec.budget.tokens"), "{message}");
    assert!(
        !world.store.contents().objects.keys().any(|key| key.contains("/rollout/")),
        "no attempt was started"
    );
    edit(&world, Kind::RolloutCampaign, "fifty", |spec| spec["budget"]["tokens"] = json!(2000));
    let goal = Goal { kind: Kind::RolloutCampaign, name: "fifty", condition: "Succeeded" };
    let first = world.store.below(&keys.join("rounds/run")).len();
    ticks(&mut world, 1);
    let rounds = world.store.below(&keys.join("rounds/run")).len();
    assert_eq!(rounds, first + 1, "the runner hears of the new amount in a round of its own");
    finish(&mut world, goal);
    assert_eq!(of_campaign(&world, "BudgetExhausted").0, "False");
}

#[test]
fn a_cluster_without_room_is_a_condition_and_burns_no_rounds_however_long_it_lasts() {
    let mut world = World::new(9);
    create(&world, task_set("train", 0));
    create(&world, campaign_object());
    let goal = Goal { kind: Kind::RolloutCampaign, name: "fifty", condition: "Succeeded" };
    world.is_full = true;
    ticks(&mut world, 120);
    let (status, reason, message) = of_campaign(&world, "Unschedulable");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "PodsWaiting"));
    assert!(message.contains("3 pods find no node") && message.contains("add nodes"), "{message}");
    assert_eq!(of_campaign(&world, "Succeeded").1, "Running");
    let keys = names::keys(goal.kind, &get(&world, goal.kind, goal.name).unwrap());
    let rounds = world.store.below(&keys.rounds("g0000", Stage::Rollout)).len();
    assert!(rounds > 10, "{rounds} rounds, more than may bring nothing");
    world.is_full = false;
    finish(&mut world, goal);
    assert_eq!(of_campaign(&world, "Unschedulable").0, "False");
}

#[test]
fn a_refused_input_ends_the_object_with_the_workers_own_words() {
    let mut world = World::new(5);
    create(&world, task_set("train", 0));
    let keys = names::keys(Kind::TaskSet, &get(&world, Kind::TaskSet, "train").unwrap());
    let message = "spec.source.mini.families: `colour` is unknown: write one of index, range";
    workers::write(&world.store, &keys.rejection("resolve"), &json!({ "message": message }));
    create(&world, campaign_object());
    ticks(&mut world, 3);
    assert_eq!(
        condition(&world, Kind::TaskSet, "train", "Ready"),
        ("False".into(), "InputRejected".into(), message.into())
    );
    let (status, reason, shown) = of_campaign(&world, "Succeeded");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ReferenceFailed"));
    assert!(shown.contains(message), "{shown}");
    assert_eq!(of_campaign(&world, "Finished").0, "True");
    assert!(live_jobs(&world).is_empty());
}

#[test]
fn a_name_that_somebody_else_has_blocks_the_run_until_it_is_free() {
    let mut world = World::new(6);
    create(&world, task_set("train", 0));
    create(&world, task_set("eval", 0));
    let mut other = campaign_object();
    other["metadata"]["name"] = json!("loop-rollout-0");
    create(&world, other);
    create(&world, run_object());
    ticks(&mut world, 3);
    let of_run = |world: &World| condition(world, Kind::AlignmentRun, "loop", "Succeeded");
    let (status, reason, message) = of_run(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "NameTaken"));
    assert!(message.contains("`loop-rollout-0`") && message.contains("delete or rename"), "{message}");
    let other = get(&world, Kind::RolloutCampaign, "loop-rollout-0").unwrap();
    let uid = other.metadata.uid.unwrap();
    block_on(world.cluster.delete(Kind::RolloutCampaign, NAMESPACE, "loop-rollout-0", &uid)).unwrap();
    world.cluster.collect_garbage();
    ticks(&mut world, 3);
    assert_eq!(of_run(&world).1, "Running");
}

#[test]
fn a_worker_that_never_gets_anywhere_is_given_up_and_deleting_its_job_tries_again() {
    let mut world = World::new(8);
    let tasks = json!({ "apiVersion": "sealign.dev/v1alpha1", "kind": "TrajectoryForest",
        "metadata": { "name": "f", "namespace": NAMESPACE, "generation": 1 },
        "spec": { "imports": [{ "name": "a", "from": "artifact:x" }] } });
    create(&world, tasks);
    // The only round that may ever end: somebody else's object lies where the forest should go.
    let keys = names::keys(Kind::TrajectoryForest, &get(&world, Kind::TrajectoryForest, "f").unwrap());
    world.store.forbid(&keys.forest());
    ticks(&mut world, 60);
    let of_forest = |world: &World| condition(world, Kind::TrajectoryForest, "f", "Succeeded");
    let (status, reason, message) = of_forest(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "NoProgress"));
    assert!(message.contains("5 times in a row") && message.contains("delete that Job"), "{message}");
    let rounds = world.store.below(&keys.join("rounds/build-forest")).len();
    ticks(&mut world, 10);
    assert_eq!(
        world.store.below(&keys.join("rounds/build-forest")).len(),
        rounds,
        "no further round is burnt"
    );
    world.store.allow(&keys.forest());
    let job = live_or_over(&world).pop().unwrap();
    let (name, uid) = (job.metadata.name.unwrap(), job.metadata.uid.unwrap());
    block_on(world.cluster.delete(Kind::Job, NAMESPACE, &name, &uid)).unwrap();
    ticks(&mut world, 6);
    assert_eq!(of_forest(&world).0, "True");
}

fn live_or_over(world: &World) -> Vec<DynamicObject> {
    block_on(world.cluster.list(Kind::Job, None, &std::collections::BTreeMap::new())).unwrap()
}

#[test]
fn what_cannot_be_meant_is_said_by_field_and_nothing_is_created() {
    let mut world = World::new(9);
    let mut object = run_object();
    object["spec"]["stages"]["dpo"]["beta"] = json!("0");
    create(&world, object);
    ticks(&mut world, 2);
    let (status, reason, message) = condition(&world, Kind::AlignmentRun, "loop", "Succeeded");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidSpec"));
    assert!(message.starts_with("spec.stages.dpo.beta") && message.contains("above 0"), "{message}");
    assert!(live_or_over(&world).is_empty());
}

#[test]
fn a_document_that_somebody_broke_is_named_and_nothing_is_lost() {
    let mut world = World::new(10);
    campaign(&world);
    let keys = names::keys(Kind::RolloutCampaign, &get(&world, Kind::RolloutCampaign, "fifty").unwrap());
    while !world.store.has(&keys.plan()) {
        ticks(&mut world, 1);
    }
    let plan = world.store.read(&keys.plan()).unwrap();
    world.store.replace(&keys.plan(), Bytes::from_static(b"{\"tasks\":"));
    let mut process = Process::start(&world, Arc::new(Plan::default()), &Snapshot::default());
    process.pass(&world);
    let (status, _, message) = of_campaign(&world, "Succeeded");
    assert_eq!(status, "Unknown");
    assert!(message.contains("plan.json"), "{message}");
    world.store.replace(&keys.plan(), plan);
    ticks(&mut world, 1);
    assert_eq!(of_campaign(&world, "Succeeded").1, "Running");
}

#[test]
fn every_step_of_a_run_is_done_and_told() {
    let mut world = World::new(12);
    let goal = alignment(&world);
    finish(&mut world, goal);
    let status = &get(&world, goal.kind, goal.name).unwrap().data["status"];
    let steps: Vec<String> = status["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| format!("{}={}", step["name"].as_str().unwrap(), step["state"].as_str().unwrap()))
        .collect();
    let expected = "rollout-0=Done forest-0=Done bench-fresh-base=Done sft=Done bench-fresh-sft=Done dpo-0=Done \
                    bench-fresh-dpo=Done report=Done";
    assert_eq!(steps.join(" "), expected);
    assert_eq!(status["results"].as_array().unwrap().len(), 3);
    assert_eq!(condition(&world, goal.kind, goal.name, "Promoted").0, "True");
    let rounds = world
        .store
        .below(&names::keys(goal.kind, &get(&world, goal.kind, goal.name).unwrap()).join("rounds/sft"));
    assert_eq!(rounds.len(), 2, "the first round left a checkpoint and died, the second resumed");
}
