//! The Job that serves a policy's checkpoint for as long as its campaign runs.

use kube::core::DynamicObject;
use sealign_crds::model::{Engine, Serving};
use sealign_crds::shared::QueueSpec;
use serde_json::json;

use super::pod::{self, Extent, JobIdentity};
use super::worker::{environment, trusted_pod};
use crate::config::{Serve, WorkerConfig};
use crate::installation::Installation;
use crate::labels::{self, Zone};
use crate::names;
use crate::owner::Owner;
use crate::snapshot::NoDecision;

/// Port of a model server.
pub const PORT: u16 = 8000;
/// What a server without GPUs asks for: CPU in thousandths, memory and disk in MiB.
const SERVER_REQUESTS: (i32, i32, i32) = (500, 512, 512);
/// What any server may use at most, and what one with GPUs asks for.
const SERVER_LIMITS: (i32, i32, i32) = (2_000, 8_192, 16_384);

/// Name of the server's stage: rounds and Jobs of different policies are apart.
pub fn stage(policy: &str) -> String {
    format!("serve-{policy}")
}

/// Builds the Job of round `round`.
pub fn job(
    owner: &Owner,
    installation: &Installation,
    policy: &str,
    serve: &Serve,
    serving: &Serving,
    queue: &QueueSpec,
    round: u32,
) -> Result<DynamicObject, NoDecision> {
    // Validation refuses other engines.
    let Serving { engine: Engine::Sealign | Engine::Vllm, replicas, gpus, image, args } = serving;
    let replicas = u32::try_from(*replicas).unwrap_or(1);
    let identity = JobIdentity {
        name: names::job(owner.kind, &owner.name, &owner.uid, &stage(policy), round),
        zone: Zone::Server,
        stage: stage(policy),
        round,
        labels: vec![(labels::POLICY, policy.to_owned())],
        annotations: Vec::new(),
    };
    let extent = Extent {
        completions: replicas,
        parallelism: replicas,
        deadline_seconds: installation.worker_start_seconds + installation.worker_round_seconds,
        all_or_nothing: false,
    };
    let mut command = vec!["sealign-trainer".to_owned(), "serve-model".to_owned()];
    command.extend(args.iter().cloned());
    let requests = if *gpus > 0 { SERVER_LIMITS } else { SERVER_REQUESTS };
    let container = json!({
        "name": "main",
        "image": image.as_ref().unwrap_or(&installation.trainer_image),
        "command": command,
        "env": environment(installation, &WorkerConfig::Serve(serve.clone()), Vec::new())?,
        "ports": [{ "name": "http", "containerPort": PORT }],
        "readinessProbe": { "httpGet": { "path": "/health", "port": PORT }, "periodSeconds": 5 },
        "resources": pod::bounded(requests, SERVER_LIMITS, *gpus),
        "securityContext": pod::container_security(true),
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    });
    pod::job(owner, &identity, extent, queue, &trusted_pod(installation, Zone::Server, &container, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::resources::pod::tests::{owner, typed};
    use sealign_manifest::train::ModelSource;

    #[test]
    fn a_server_is_found_by_its_policy() {
        let serve =
            Serve { model: ModelSource::Builtin("mini-base".into()), context_tokens: 4096, max_batch: 8 };
        let serving = Serving { replicas: 2, gpus: 1, ..Serving::default() };
        let owner = owner(Kind::RolloutCampaign);
        let queue = QueueSpec::default();
        let object = job(&owner, &Installation::default(), "weak", &serve, &serving, &queue, 1).unwrap();
        let spec = typed(&object).spec.unwrap();
        assert_eq!(spec.completions, Some(2));
        assert_eq!(spec.template.metadata.unwrap().labels.unwrap()["sealign.dev/policy"], "weak");
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.containers[0].command.as_deref().unwrap(), ["sealign-trainer", "serve-model"]);
        let limits = pod.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert_eq!(limits["nvidia.com/gpu"].0, "1");
    }
}
