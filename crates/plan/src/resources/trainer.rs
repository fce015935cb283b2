//! The Job of a training step: one pod a node, all ranks or none.

use kube::core::DynamicObject;
use sealign_crds::alignment_run::TrainerSpec;
use sealign_crds::shared::QueueSpec;
use sealign_manifest::train::TrainStep;
use serde_json::{Map, Value, json};

use super::pod::{self, Extent, JobIdentity};
use super::worker::{environment, trusted_pod};
use crate::config::{METRICS_PORT_VARIABLE, WorkerConfig};
use crate::installation::Installation;
use crate::labels::{self, Zone};
use crate::names;
use crate::owner::Owner;
use crate::snapshot::NoDecision;

/// Port of the ranks' meeting place.
const MASTER_PORT: u16 = 29_500;
/// Port of `/metrics`, which the chart's network policies and monitors name.
const METRICS_PORT: u16 = 8_081;
/// Scratch space that a trainer asks for, in MiB.
const DISK_REQUEST_MIB: i32 = 1_024;
/// Scratch space that it may use: model files and one checkpoint on their way to the store.
const DISK_MIB: i32 = 65_536;

/// Builds the Job of the step's round.
pub fn job(
    owner: &Owner,
    installation: &Installation,
    step: &TrainStep,
    trainer: &TrainerSpec,
    queue: &QueueSpec,
) -> Result<DynamicObject, NoDecision> {
    // Layout, LoRA, sharding, recomputation and precision are settings of the step itself; rounds are the control plane's.
    let TrainerSpec {
        nodes,
        gpus_per_node,
        cpu_millis,
        memory_mib,
        image,
        layout: _,
        lora: _,
        sharding: _,
        recompute: _,
        precision: _,
        max_rounds: _,
    } = trainer;
    let ranks = u32::try_from(*nodes).unwrap_or(1);
    let name = names::job(owner.kind, &owner.name, &owner.uid, &step.name, step.round);
    let further = rank_variables(&name, installation, *nodes, *gpus_per_node);
    let identity = JobIdentity {
        name,
        zone: Zone::Trainer,
        stage: step.name.clone(),
        round: step.round,
        labels: Vec::new(),
        annotations: Vec::new(),
    };
    let extent = Extent {
        completions: ranks,
        parallelism: ranks,
        deadline_seconds: installation.worker_start_seconds + installation.worker_round_seconds,
        all_or_nothing: true,
    };
    let container = json!({
        "name": "main",
        "image": image.as_ref().unwrap_or(&installation.trainer_image),
        "command": ["sealign-trainer", "step"],
        "env": environment(installation, &WorkerConfig::Train(step.clone()), further)?,
        "ports": [
            { "name": "ranks", "containerPort": MASTER_PORT },
            { "name": "metrics", "containerPort": METRICS_PORT },
        ],
        "resources": pod::bounded(
            (*cpu_millis, *memory_mib, DISK_REQUEST_MIB),
            (*cpu_millis, *memory_mib, DISK_MIB),
            *gpus_per_node,
        ),
        "securityContext": pod::container_security(true),
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }, { "name": "shm", "mountPath": "/dev/shm" }],
    });
    let mut pod = trusted_pod(installation, Zone::Trainer, &container, false);
    if let Some(fields) = pod.as_object_mut() {
        fields.insert("subdomain".into(), installation.rank_service.clone().into());
        // NCCL's and Gloo's processes of one node meet in shared memory, of which a container has 64 MiB by itself. What is in
        // it counts as the pod's memory.
        let shared = json!({ "medium": "Memory", "sizeLimit": format!("{}Mi", memory_mib / 2) });
        let volumes = json!([{ "name": "tmp", "emptyDir": {} }, { "name": "shm", "emptyDir": shared }]);
        fields.insert("volumes".into(), volumes);
        if ranks > 1 {
            near_and_apart(fields, owner, &step.name);
        }
    }
    pod::job(owner, &identity, extent, queue, &pod)
}

/// How the ranks of a Job find each other, and where the figures of each are shown.
fn rank_variables(job: &str, installation: &Installation, nodes: i32, gpus_per_node: i32) -> Vec<Value> {
    vec![
        json!({ "name": "MASTER_ADDR", "value": format!("{job}-0.{}", installation.rank_service) }),
        json!({ "name": "MASTER_PORT", "value": MASTER_PORT.to_string() }),
        json!({ "name": "NNODES", "value": nodes.to_string() }),
        json!({ "name": "NPROC_PER_NODE", "value": gpus_per_node.max(1).to_string() }),
        json!({ "name": METRICS_PORT_VARIABLE, "value": METRICS_PORT.to_string() }),
    ]
}

/// Hints for the scheduler: a pod a node, and the nodes close to each other. Hints, as a small cluster has neither.
fn near_and_apart(pod: &mut Map<String, Value>, owner: &Owner, stage: &str) {
    let ranks = json!({ "matchLabels": { labels::OWNER_UID: owner.uid, labels::STAGE: stage } });
    let apart = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": ranks,
    }]);
    let near = json!({ "podAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100,
        "podAffinityTerm": { "topologyKey": "topology.kubernetes.io/zone", "labelSelector": ranks },
    }] } });
    pod.insert("topologySpreadConstraints".into(), apart);
    pod.insert("affinity".into(), near);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::resources::pod::tests::{owner, typed};
    use sealign_manifest::ObjectKeys;
    use sealign_manifest::train::ModelSource;

    #[test]
    fn one_failed_rank_ends_the_round_and_ranks_find_the_first() {
        let step = TrainStep {
            keys: ObjectKeys::new("k"),
            name: "dpo-0".into(),
            model: ModelSource::Builtin("mini-base".into()),
            forest: "f".into(),
            settings: json!({}),
            round: 3,
        };
        let trainer = TrainerSpec { nodes: 4, ..TrainerSpec::default() };
        let owner = owner(Kind::AlignmentRun);
        let object = job(&owner, &Installation::default(), &step, &trainer, &QueueSpec::default()).unwrap();
        let job = typed(&object);
        let spec = job.spec.unwrap();
        assert_eq!(
            (spec.completions, spec.parallelism, spec.max_failed_indexes),
            (Some(4), Some(4), Some(0))
        );
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.subdomain.as_deref(), Some("sealign-ranks"));
        let volumes = pod.volumes.unwrap();
        let shared = volumes.iter().find(|v| v.name == "shm").unwrap().empty_dir.as_ref().unwrap();
        assert_eq!(shared.medium.as_deref(), Some("Memory"));
        assert_eq!(pod.topology_spread_constraints.unwrap()[0].topology_key, "kubernetes.io/hostname");
        let master = pod.containers[0].env.iter().flatten().find(|v| v.name == "MASTER_ADDR").unwrap();
        let expected = format!("{}-0.sealign-ranks", job.metadata.name.unwrap());
        assert_eq!(master.value.as_deref(), Some(expected.as_str()));
    }
}
