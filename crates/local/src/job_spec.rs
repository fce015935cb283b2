//! A Job as this machine runs it: the part of `batch/v1` that our builders use, read once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar};
use kube::core::DynamicObject;
use sealign_plan::labels;
use sealign_reconcile::port::Kind;

use crate::objects::ObjectKey;

/// Indexes of one Job at most: far above a round's 64, far below what would hurt.
const COMPLETIONS_MAX: i32 = 10_000;
/// Seconds between the request to end and the kill, where a pod asks for more: nothing here needs longer than this.
const GRACE_SECONDS_MAX: i64 = 5;

/// Why a Job cannot be run here.
#[derive(Debug, thiserror::Error)]
#[error("Job {name}: {problem}")]
pub struct UnsupportedJob {
    /// Its name.
    pub name: String,
    /// What is missing or not supported.
    pub problem: String,
}

/// A Job to run.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Where it lies.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// When it was created: Jobs start in this order.
    pub created: Timestamp,
    /// Indexes, 0 up to this.
    pub completions: u32,
    /// Pods at once.
    pub parallelism: u32,
    /// Failed indexes that end the Job; more are tolerated when absent.
    pub max_failed_indexes: Option<u32>,
    /// Seconds from its start to its end whatever happened.
    pub deadline_seconds: Option<i64>,
    /// Nothing may run.
    pub suspended: bool,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its pods.
    pub annotations: BTreeMap<String, String>,
    /// The zone label of its pods.
    pub zone: String,
    /// Command and arguments of the container.
    pub command: Vec<String>,
    /// Variables of the container.
    pub env: Vec<EnvVar>,
    /// Seconds between the request to end and the kill.
    pub grace_seconds: u64,
}

impl JobSpec {
    /// Reads a Job.
    ///
    /// # Errors
    /// [`UnsupportedJob`] for what this machine does not do: other completion modes, several containers, no command.
    pub fn read(object: &DynamicObject) -> Result<Self, UnsupportedJob> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let unsupported = |problem: &str| UnsupportedJob { name: name.clone(), problem: problem.to_owned() };
        let job: Job = object.clone().try_parse().map_err(|error| unsupported(&error.to_string()))?;
        let spec = job.spec.ok_or_else(|| unsupported("it has no spec"))?;
        if spec.completion_mode.as_deref() != Some("Indexed") {
            return Err(unsupported("completionMode must be Indexed"));
        }
        if spec.backoff_limit_per_index != Some(0) {
            return Err(unsupported("backoffLimitPerIndex must be 0: each index runs at most once"));
        }
        let completions = spec.completions.filter(|count| (1..=COMPLETIONS_MAX).contains(count));
        let completions = completions.ok_or_else(|| unsupported("completions must be 1 to 10000"))?;
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        let meta = spec.template.metadata.unwrap_or_default();
        let pod = spec.template.spec.ok_or_else(|| unsupported("its pods have no spec"))?;
        let grace =
            pod.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS_MAX).clamp(0, GRACE_SECONDS_MAX);
        let Ok([container]) = <[Container; 1]>::try_from(pod.containers) else {
            return Err(unsupported("its pods must have exactly one container"));
        };
        let mut command = container.command.unwrap_or_default();
        command.extend(container.args.unwrap_or_default());
        if command.is_empty() {
            return Err(unsupported("its container has no command, and there are no images here"));
        }
        let labels = meta.labels.unwrap_or_default();
        Ok(Self {
            key: ObjectKey::new(Kind::Job, object.metadata.namespace.as_deref().unwrap_or_default(), &name),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
            completions: count(completions),
            parallelism: count(spec.parallelism.unwrap_or(1)),
            max_failed_indexes: spec.max_failed_indexes.map(count),
            deadline_seconds: spec.active_deadline_seconds,
            suspended: spec.suspend.unwrap_or(false),
            zone: labels.get(labels::ZONE).cloned().unwrap_or_default(),
            labels,
            annotations: meta.annotations.unwrap_or_default(),
            command,
            env: container.env.unwrap_or_default(),
            grace_seconds: u64::try_from(grace).unwrap_or(0),
        })
    }

    /// Whether its pods run code that nobody trusts.
    pub fn is_sandbox(&self) -> bool {
        self.zone == labels::Zone::Sandbox.name()
    }

    /// Whether its pods serve models and publish an address.
    pub fn is_server(&self) -> bool {
        self.zone == labels::Zone::Server.name()
    }

    /// Name of the pod of an index. Each index runs once, so nothing random is needed to tell pods apart.
    pub fn pod_name(&self, index: u32) -> String {
        format!("{}-{index}", self.key.name)
    }

    /// The whole number behind `flag` in the command.
    pub fn number_flag(&self, flag: &str) -> Option<u64> {
        let at = self.command.iter().position(|word| word == flag)?;
        self.command.get(at + 1)?.parse().ok()
    }
}
