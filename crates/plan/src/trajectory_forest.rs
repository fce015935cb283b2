//! TrajectoryForest: waits for its campaigns, then one worker merges them.

use sealign_crds::condition::reason;
use sealign_crds::shared::QueueSpec;
use sealign_crds::{TrajectoryForestSpec, TrajectoryForestStatus};
use sealign_manifest::group::ForestManifest;
use sealign_manifest::{Digest, ObjectKeys};
use serde_json::Value;

use crate::command::Step;
use crate::config::{BuildForest, ClosedCampaign, WorkerConfig};
use crate::context::{Context, Draft};
use crate::policies::reference::{self, Obstacle};
use crate::resources::worker::{self, Program};
use crate::round::{self, WorkerSpec};
use crate::snapshot::{NoDecision, Query};
use crate::{Kind, names, stand, validate};

/// What resumes the worker of a forest, which has no retry settings.
const REMEDY: &str = "delete that Job to try again";

/// Decides about a forest.
pub fn step(cx: Context<'_>) -> Result<Step, NoDecision> {
    let before: TrajectoryForestStatus = stand::status(cx);
    let mut status = before.clone();
    let mut draft = Draft::default();
    let admitted = stand::spec::<TrajectoryForestSpec>(cx).and_then(|spec| {
        stand::admitted(cx, validate::forest(&spec))?;
        Ok(spec)
    });
    match admitted {
        Ok(spec) => decide(cx, &mut draft, &mut status, &spec)?,
        Err(obstacle) => stand::blocked(cx, &mut draft, obstacle),
    }
    stand::decided(cx, draft, &before.conditions, status, |status, generation, conditions| {
        status.observed_generation = generation;
        status.conditions = conditions;
    })
}

fn decide(
    cx: Context<'_>,
    draft: &mut Draft,
    status: &mut TrajectoryForestStatus,
    spec: &TrajectoryForestSpec,
) -> Result<(), NoDecision> {
    let keys = &cx.owner.keys;
    status.artifacts = Some(keys.prefix().to_owned());
    cx.snapshot.need([Query::Children(Kind::Job)])?;
    if let Some(forest) = cx.snapshot.document::<ForestManifest>(&keys.forest(), "a forest manifest")? {
        stand::delete_live_jobs(cx, draft)?;
        let digest = cx.snapshot.bytes(&keys.forest())?.map(|bytes| Digest::of_bytes(bytes));
        figures(keys, status, &forest);
        status.digest = digest.map(|digest| digest.to_string());
        let message = format!("{} pairs and {} examples", forest.pairs, forest.sft_examples);
        draft.claim_work(Some(true), reason::COMPLETED, message);
        return Ok(());
    }
    if stand::paused(cx, draft)? {
        return Ok(());
    }
    let config = match inputs(cx, spec)? {
        Ok(config) => config,
        Err(obstacle) => {
            stand::blocked(cx, draft, obstacle);
            return Ok(());
        }
    };
    let program = Program::BuildForest;
    let rounds = WorkerSpec { stage: program.name(), marker: 0, rounds_max: stand::WORKER_ROUNDS_MAX };
    let config = WorkerConfig::BuildForest(config);
    let worker = round::worker(cx, draft, rounds, |number| {
        worker::job(cx.owner, cx.installation, program, &config, &QueueSpec::default(), number)
    })?;
    match stand::obstacle(&worker, "the forest worker", REMEDY) {
        Some(obstacle) => stand::blocked(cx, draft, obstacle),
        None => draft.claim_work(None, reason::RUNNING, "merging trajectories"),
    }
    Ok(())
}

fn inputs(cx: Context<'_>, spec: &TrajectoryForestSpec) -> Result<Result<BuildForest, Obstacle>, NoDecision> {
    let mut campaigns = Vec::new();
    for (index, campaign) in spec.campaign_refs.iter().enumerate() {
        let field = format!("spec.campaignRefs[{index}]");
        let object = match reference::resolve(cx, Kind::RolloutCampaign, &field, &campaign.name)? {
            Ok(object) => object,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        let keys = names::keys(Kind::RolloutCampaign, object);
        // The store decides, not the status: a condition without its set is a status that somebody edited.
        let Some(bytes) = cx.snapshot.bytes(&keys.closed())? else {
            return Ok(Err(Obstacle {
                succeeded: None,
                reason: reason::WAITING,
                message: format!(
                    "{field}: `{}` has no closed set in the store: it was removed, run the campaign again",
                    campaign.name
                ),
            }));
        };
        let digest = Digest::of_bytes(bytes);
        campaigns.push(ClosedCampaign { name: campaign.name.clone(), keys, digest });
    }
    let mut excluded = Vec::new();
    for (index, tasks) in spec.exclude_task_sets.iter().enumerate() {
        let field = format!("spec.excludeTaskSets[{index}]");
        match reference::resolve(cx, Kind::TaskSet, &field, &tasks.name)? {
            Ok(object) => excluded.push(names::keys(Kind::TaskSet, object)),
            Err(obstacle) => return Ok(Err(obstacle)),
        }
    }
    let keys = cx.owner.keys.clone();
    Ok(Ok(BuildForest { keys, spec: spec.clone(), campaigns, excluded }))
}

fn figures(keys: &ObjectKeys, status: &mut TrajectoryForestStatus, forest: &ForestManifest) {
    let figure = |name: &str| forest.statistics.get(name).and_then(Value::as_i64);
    status.instances = figure("instances");
    status.collected = figure("collected");
    status.after_filtering = figure("afterFiltering");
    status.successful = figure("successful");
    status.wrong = figure("wrong");
    status.nodes = figure("nodes");
    status.critical_decision_points = figure("criticalDecisionPoints");
    status.critical_pairs = i64::try_from(forest.pairs).ok();
    status.single_path_pairs = forest.statistics.pointer("/singlePathPairs/either").and_then(Value::as_i64);
    status.sft_examples = i64::try_from(forest.sft_examples).ok();
    status.viewer = forest.outputs.get("viewer").map(|output| keys.join(&output.file));
}
