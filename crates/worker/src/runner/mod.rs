//! The runner: drives sandboxes until everything that the plan asks for has its record.
//!
//! It claims sandbox pods, lets agents work in them, grades what they leave, and writes records, failed tries, group
//! manifests and at the end the closed set (or, for a TaskSet, its health). What it does not do: it creates no pod and no
//! round, that is the operator's; and it decides no verdict, that is `sealign_tasks::grade`.
//!
//! Reading order: [`state`] (the item state machine, pure), [`drive`] (which carries it out), [`attempt`] and
//! [`grading`] (one item), [`plan`] (what is read at the start), [`close`](self) (what is written at the end); then the
//! ports [`pods`], [`sandbox`], [`models`] and their adapters [`folder`], [`watched`] and [`network`], and [`standing`], which
//! tells others how it goes.

mod stage;
pub mod state;

pub mod drive;

pub mod attempt;
pub mod grading;

mod close;
pub mod context;
pub mod plan;

pub mod environment;
pub mod outcome;

pub mod models;
pub mod pods;
pub mod sandbox;

pub mod folder;
pub mod network;
pub mod watched;

pub mod meters;
pub mod standing;

use std::collections::BTreeMap;
use std::sync::Arc;

use sealign_agent::harness::direct::{Direct, DirectVariant};
use sealign_agent::harness::openhands::{OpenHands, Profile};
use sealign_agent::{Clock, Harness};
use sealign_crds::model::Checkpoint;
use sealign_crds::rollout_campaign::{Grading, OnBudget, Policy, RolloutCampaignSpec};
use sealign_crds::shared::{HarnessName, HarnessSpec};
use sealign_manifest::Digest;
use sealign_manifest::train::ModelManifest;
use sealign_plan::config::{Run, Work};
use sealign_storage::{ArtifactStore, ArtifactStoreExt as _};
use tokio::sync::watch;

use self::context::{Context, PolicySettings, Rollouts, positive};
use self::drive::Driver;
use self::models::Models;
use self::outcome::Ends;
use self::pods::PodDirectory;
use self::sandbox::Doors;
use self::standing::Standing;
use self::state::Rules;
use crate::error::WorkerError;
use crate::saving;

/// What a runner reaches the world through.
#[derive(Clone)]
pub struct Ports {
    /// The store.
    pub store: Arc<dyn ArtifactStore>,
    /// The pods of the runner's owner.
    pub pods: Arc<dyn PodDirectory>,
    /// The ways to their sandboxes.
    pub doors: Arc<dyn Doors>,
    /// The models of a campaign; not asked for gradings.
    pub models: Arc<dyn Models>,
    /// Time, for the wall limits of attempts.
    pub clock: Arc<dyn Clock>,
}

/// A shared clock is a clock.
struct SharedClock(Arc<dyn Clock>);

impl Clock for SharedClock {
    fn now(&self) -> std::time::Duration {
        self.0.now()
    }
}

/// Works until the plan of `config` is done, and writes its end: `closed.json`, or `health.json` for a TaskSet.
///
/// # Errors
/// [`WorkerError`]; what is recorded stays, and another runner goes on from there.
pub async fn run(config: &Run, ports: &Ports) -> Result<(), WorkerError> {
    run_showing(config, ports, watch::Sender::default()).await
}

/// [`run`], which shows where it stands to those who hold receivers of `standing`.
///
/// # Errors
/// As [`run`].
pub async fn run_showing(
    config: &Run,
    ports: &Ports,
    standing: watch::Sender<Standing>,
) -> Result<(), WorkerError> {
    let store = &*ports.store;
    let end = match &config.work {
        Work::Health(_) => config.keys.health(),
        Work::Campaign(_) | Work::Predictions(_) => config.keys.closed(),
    };
    if saving::exists(store, &end).await? {
        return Ok(());
    }
    let (_, tasks) = plan::tasks(store, &config.task_keys).await?;
    let work = plan::read(store, &config.keys).await?;
    let rollouts = match &config.work {
        Work::Campaign(spec) => Some(rollouts(spec, ports).await?),
        Work::Health(_) | Work::Predictions(_) => None,
    };
    let (seen, pods) = watch::channel(Arc::new(Vec::new()));
    let context = Arc::new(Context {
        store: ports.store.clone(),
        keys: config.keys.clone(),
        tasks,
        doors: ports.doors.clone(),
        ends: Ends::new(pods),
        rollouts,
    });
    let (digest, manifest) = (work.digest.clone(), work.manifest.clone());
    let mut driver =
        Driver::new(context.clone(), ports.pods.clone(), seen, rules(&config.work, manifest.sandboxed), work)
            .showing(standing);
    driver.run().await?;
    match &config.work {
        Work::Health(spec) => {
            let repeats = u32::try_from(spec.health.repeats).unwrap_or(0);
            let health = close::health(&manifest, &driver.groups, &context.tasks, repeats);
            saving::settle_json(store, &end, &health).await?;
        }
        Work::Campaign(spec) => {
            let is_graded = spec.grading == Grading::Tests;
            let set = close::closed_set(&digest, &driver.groups, &context.tasks, is_graded)?;
            saving::settle_json(store, &end, &set).await?;
        }
        Work::Predictions(_) => {
            let set = close::predictions(&digest, config, &context, &driver.groups).await?;
            saving::settle_json(store, &end, &set).await?;
        }
    }
    // A hint; its failure is nobody's.
    let _ = store.overwrite_json(&config.keys.progress(), &driver.progress()).await;
    Ok(())
}

fn rules(work: &Work, sandboxed: bool) -> Rules {
    let gradings = |infra_tries: i32, parallelism: i32| Rules {
        infra_tries: positive(infra_tries),
        attempt_tokens: 0,
        budget_tokens: None,
        budget_finishes: false,
        sandboxed: true,
        parallelism: usize::try_from(positive(parallelism)).unwrap_or(1),
        graded: true,
    };
    match work {
        Work::Campaign(spec) => Rules {
            attempt_tokens: u64::try_from(spec.limits.tokens).unwrap_or(0),
            budget_tokens: spec.budget.as_ref().and_then(|budget| u64::try_from(budget.tokens).ok()),
            budget_finishes: spec.budget.as_ref().is_some_and(|budget| budget.on_budget == OnBudget::Finish),
            sandboxed,
            graded: spec.grading == Grading::Tests,
            ..gradings(spec.retry.infra_tries, spec.parallelism)
        },
        // A TaskSet has no retry policy; its own default holds.
        Work::Health(spec) => gradings(3, spec.health.parallelism),
        Work::Predictions(spec) => gradings(spec.retry.infra_tries, spec.parallelism),
    }
}

async fn rollouts(spec: &RolloutCampaignSpec, ports: &Ports) -> Result<Rollouts, WorkerError> {
    let mut policies = BTreeMap::new();
    for policy in &spec.policies {
        let settings = PolicySettings {
            sampling: context::sampling(spec, &policy.sampling),
            digest: policy_digest(spec, policy, &*ports.store).await?,
        };
        policies.insert(policy.name.clone(), settings);
    }
    Ok(Rollouts {
        models: ports.models.clone(),
        harness: harness(&spec.harness)?,
        limits: context::limits(spec),
        stuck_rule: context::stuck_rule(spec.harness.stop_rule),
        policies,
        clock: Box::new(SharedClock(ports.clock.clone())),
    })
}

/// The scaffold of a spec.
///
/// # Errors
/// [`WorkerError::Rejected`] for a profile that the harness does not have.
pub fn harness(spec: &HarnessSpec) -> Result<Box<dyn Harness>, WorkerError> {
    match spec.name {
        HarnessName::OpenHands => match Profile::parse(&spec.profile) {
            Some(profile) => Ok(Box::new(OpenHands::new(profile))),
            None => Err(WorkerError::rejected(format!(
                "harness.profile `{}` is not known; use openhands-0.24, openhands-0.28 or compact",
                spec.profile
            ))),
        },
        HarnessName::Direct => match spec.profile.as_str() {
            "tests" => Ok(Box::new(Direct::new(DirectVariant::FixFromTests))),
            "docs" => Ok(Box::new(Direct::new(DirectVariant::FixFromDocs))),
            other => Err(WorkerError::rejected(format!(
                "harness.profile `{other}` is not one of harness Direct; use tests or docs"
            ))),
        },
    }
}

/// The digest of everything in a policy that decides what it does. A checkpoint in the store is named by its weights, not
/// by its key, which holds a UID.
pub(crate) async fn policy_digest(
    spec: &RolloutCampaignSpec,
    policy: &Policy,
    store: &dyn ArtifactStore,
) -> Result<Digest, WorkerError> {
    let mut weights = Vec::new();
    if let Some(Checkpoint { base, adapter, .. }) = &policy.model.checkpoint {
        for source in [Some(base), adapter.as_ref()].into_iter().flatten() {
            weights.push(weights_digest(source, store).await?);
        }
    }
    let parts = (
        &policy.model.endpoint.as_ref().map(|endpoint| &endpoint.model),
        &weights,
        &policy.model.scripted,
        &policy.sampling,
        &spec.harness,
        &spec.limits,
    );
    Ok(Digest::of_json(&parts)?)
}

async fn weights_digest(source: &str, store: &dyn ArtifactStore) -> Result<Digest, WorkerError> {
    let Some(key) = source.strip_prefix("artifact:") else { return Ok(Digest::of_bytes(source.as_bytes())) };
    let manifest: ModelManifest = plan::required(store, key).await?;
    let files: Vec<(&String, &Digest)> =
        manifest.files.iter().map(|(name, file)| (name, &file.digest)).collect();
    Ok(Digest::of_json(&files)?)
}
