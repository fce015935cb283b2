//! Closing: group manifests, the closed set of a campaign, the health of a TaskSet.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealign_manifest::group::{ClosedSet, GROUP_ITEMS_MAX, GroupManifest, HealthManifest, PlanManifest};
use sealign_manifest::key::{self, Stage};
use sealign_manifest::record::{Outcome, outcome};
use sealign_manifest::{Digest, GradingItem, ItemKey, StopReason, Task, Verdict, VerdictRecord};

use super::context::Context;
use super::drive::{GroupFacts, count};
use super::plan::{Graded, Rollout, gradings as needed};
use super::pods::Pod;
use super::sandbox::Sandbox;
use super::state::Slot;
use crate::error::WorkerError;
use crate::resolve::predictions::{PREDICTIONS, Predictions};
use crate::saving;

/// The name that a pod is claimed under only to be let go.
const DISMISSED: &str = "dismissed";

/// A stage that was closed.
pub(super) struct Closing {
    /// The manifest that counts.
    pub(super) manifest: GroupManifest,
    /// After rollouts: every grading that they need.
    pub(super) gradings: BTreeMap<ItemKey, GradingItem>,
    /// Those of them whose verdict was known already.
    pub(super) linked: BTreeMap<ItemKey, Graded>,
}

/// Lets a pod go whose item needs it no more. Whether it hears of it changes nothing.
pub(super) async fn dismiss(context: &Context, pod: &Pod) {
    let Ok(door) = context.doors.open(pod) else { return };
    match Sandbox::claim(door, DISMISSED).await {
        Ok(sandbox) => {
            let _ = sandbox.finish().await;
        }
        Err(error) => tracing::debug!(%error, pod = pod.name, "a pod could not be dismissed"),
    }
}

/// Closes the rollouts of a group: links verdicts that are known, and lists the gradings that are not.
pub(super) async fn rollouts(
    context: &Context,
    group: &str,
    rollouts: &BTreeMap<ItemKey, Rollout>,
    is_graded: bool,
) -> Result<Closing, WorkerError> {
    let gradings = if is_graded { needed(rollouts, &context.tasks) } else { BTreeMap::new() };
    let mut linked = BTreeMap::new();
    for item in gradings.keys() {
        let known: Option<VerdictRecord> = saving::read_json(&*context.store, &key::verdict(item)).await?;
        if let Some(record) = known {
            let slot = Slot { group: group.to_owned(), stage: Stage::Grade, item: item.clone() };
            linked.insert(item.clone(), super::grading::link(context, &slot, &record).await?);
        }
    }
    let open = gradings.iter().filter(|(item, _)| !linked.contains_key(*item));
    let manifest = GroupManifest {
        group: group.to_owned(),
        stage: Stage::Rollout,
        records: rollouts.iter().map(|(item, rollout)| (item.clone(), rollout.digest.clone())).collect(),
        gradings: open.map(|(_, item)| item.clone()).take(GROUP_ITEMS_MAX).collect(),
    };
    let key = context.keys.group_manifest(group, Stage::Rollout);
    let (manifest, _) = saving::settle_json(&*context.store, &key, &manifest).await?;
    // Where another runner closed the group first, what it left to grade is what has Jobs.
    let listed: Vec<ItemKey> = manifest.gradings.iter().map(GradingItem::key).collect();
    let elsewhere: Vec<&ItemKey> =
        gradings.keys().filter(|item| !linked.contains_key(*item) && !listed.contains(item)).collect();
    for item in elsewhere {
        let key = context.keys.record(group, Stage::Grade, item);
        let found = super::plan::document::<VerdictRecord>(&*context.store, &key).await?;
        linked
            .extend(found.map(|(record, digest)| (item.clone(), Graded { verdict: record.verdict, digest })));
    }
    Ok(Closing { manifest, gradings, linked })
}

/// Closes the gradings of a group.
pub(super) async fn gradings(
    context: &Context,
    group: &str,
    records: BTreeMap<ItemKey, Digest>,
) -> Result<Closing, WorkerError> {
    let manifest =
        GroupManifest { group: group.to_owned(), stage: Stage::Grade, records, gradings: Vec::new() };
    let key = context.keys.group_manifest(group, Stage::Grade);
    let (manifest, _) = saving::settle_json(&*context.store, &key, &manifest).await?;
    Ok(Closing { manifest, gradings: BTreeMap::new(), linked: BTreeMap::new() })
}

/// How the rollouts of a group count, as far as it is known.
pub(super) fn outcomes(
    facts: &GroupFacts,
    tasks: &BTreeMap<Digest, Arc<Task>>,
    is_graded: bool,
) -> Vec<Outcome> {
    let of = |rollout: &Rollout| {
        let verdict = match (&rollout.patch, is_graded) {
            (Some(patch), true) => {
                let task = tasks.get(&rollout.task)?;
                let item = super::grading::item_of(task, &rollout.task, patch, 0).key();
                Some(facts.verdicts.get(&item)?.verdict)
            }
            _ => None,
        };
        Some(outcome(rollout.stop, verdict, is_graded))
    };
    facts.rollouts.values().filter_map(of).collect()
}

/// The closed set of a campaign.
///
/// # Errors
/// When a manifest cannot be written as JSON.
pub(super) fn closed_set(
    plan: &Digest,
    groups: &BTreeMap<String, GroupFacts>,
    tasks: &BTreeMap<Digest, Arc<Task>>,
    is_graded: bool,
) -> Result<ClosedSet, WorkerError> {
    let mut set = ClosedSet {
        plan: plan.clone(),
        records: records_digest(groups)?,
        outcomes: BTreeMap::new(),
        gradings: 0,
        empty: 0,
        stuck: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
    };
    for facts in groups.values() {
        set.gradings += count(facts.verdicts.len());
        for outcome in outcomes(facts, tasks, is_graded) {
            *set.outcomes.entry(outcome).or_default() += 1;
        }
        for rollout in facts.rollouts.values() {
            let was_run = !matches!(rollout.stop, StopReason::Infra | StopReason::NotRun);
            set.empty += u64::from(was_run && rollout.patch.is_none());
            set.stuck += u64::from(rollout.is_stuck);
            set.prompt_tokens += rollout.tokens.0;
            set.completion_tokens += rollout.tokens.1;
        }
    }
    Ok(set)
}

/// Over the records of every group. Which verdicts had been known before the run, and so were not graded again, is left
/// out: equal sets of records have equal digests.
fn records_digest(groups: &BTreeMap<String, GroupFacts>) -> Result<Digest, WorkerError> {
    let records: Vec<_> = groups
        .iter()
        .map(|(id, facts)| {
            let of = |stage| facts.manifests.get(&stage).map(|manifest: &GroupManifest| &manifest.records);
            (id, of(Stage::Rollout), of(Stage::Grade))
        })
        .collect();
    Ok(Digest::of_json(&records)?)
}

/// What the gradings of gold and empty patches say of a TaskSet.
pub(super) fn health(
    plan: &PlanManifest,
    groups: &BTreeMap<String, GroupFacts>,
    tasks: &BTreeMap<Digest, Arc<Task>>,
    repeats: u32,
) -> HealthManifest {
    let empty_patch = Digest::of_bytes(b"");
    let mut verdicts: BTreeMap<(&str, bool), Vec<Verdict>> = BTreeMap::new();
    let mut gradings = 0;
    for facts in groups.values() {
        for (key, item) in &facts.gradings {
            let (Some(task), Some(graded)) = (tasks.get(&item.task), facts.verdicts.get(key)) else {
                continue;
            };
            gradings += 1;
            verdicts.entry((&task.id, item.patch == empty_patch)).or_default().push(graded.verdict);
        }
    }
    let mut quarantined = BTreeMap::new();
    let mut flaky = 0;
    for ((task, is_empty), verdicts) in verdicts {
        let Some(first) = verdicts.first() else { continue };
        flaky += count(verdicts.iter().filter(|verdict| *verdict != first).count());
        let is_expected = |verdict: &Verdict| match verdict {
            Verdict::Resolved => !is_empty,
            Verdict::Unresolved | Verdict::Timeout => is_empty,
            Verdict::Tampered | Verdict::Infra => false,
        };
        if let Some(wrong) = verdicts.iter().find(|verdict| !is_expected(verdict)) {
            let patch = if is_empty { "empty" } else { "gold" };
            let reason = format!("the {patch} patch was graded {wrong:?}");
            quarantined.entry(task.to_owned()).or_insert(reason);
        }
    }
    HealthManifest { tasks: plan.tasks.clone(), repeats, gradings, flaky, quarantined }
}

/// The closed set of a benchmark over predictions: every task of the set counts once.
///
/// # Errors
/// [`WorkerError`] where the list of what was given is missing.
pub(super) async fn predictions(
    plan: &Digest,
    config: &sealign_plan::config::Run,
    context: &Context,
    groups: &BTreeMap<String, GroupFacts>,
) -> Result<ClosedSet, WorkerError> {
    let key = config.keys.join(PREDICTIONS);
    let given: Predictions = super::plan::required(&*context.store, &key).await?;
    let by_task: BTreeMap<&str, (&Digest, &Arc<Task>)> =
        context.tasks.iter().map(|(digest, task)| (task.id.as_str(), (digest, task))).collect();
    let mut set = closed_set(plan, groups, &context.tasks, true)?;
    for (id, patch) in &given.patches {
        let verdict = patch.as_ref().and_then(|patch| {
            let (digest, task) = by_task.get(id.as_str())?;
            let item = super::grading::item_of(task, digest, patch, 0).key();
            groups.values().find_map(|facts| facts.verdicts.get(&item)).map(|graded| graded.verdict)
        });
        set.empty += u64::from(patch.is_none());
        *set.outcomes.entry(outcome(StopReason::Finished, verdict, true)).or_default() += 1;
    }
    Ok(set)
}
