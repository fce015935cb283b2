//! What all Jobs share: identity, the restricted profile, tolerations.

use kube::core::DynamicObject;
use sealign_crds::shared::QueueSpec;
use sealign_manifest::Digest;
use serde_json::{Map, Value, json};

use crate::config::CONFIG_VARIABLE;
use crate::labels::{self, Zone};
use crate::owner::Owner;
use crate::snapshot::NoDecision;

/// Seconds that a pod stays on a node that is not ready or not reachable: the default of five minutes would hold a round.
const NODE_LOSS_SECONDS: i64 = 30;
/// User of trusted pods; their images need no other.
const TRUSTED_USER: i64 = 65_532;

/// Identity of a Job and of its pods.
#[derive(Clone, Debug)]
pub struct JobIdentity {
    /// Name of the Job.
    pub name: String,
    /// Trust zone.
    pub zone: Zone,
    /// Value of the stage label.
    pub stage: String,
    /// Round number.
    pub round: u32,
    /// Further labels of Job and pods.
    pub labels: Vec<(&'static str, String)>,
    /// Annotations of the pods.
    pub annotations: Vec<(&'static str, String)>,
}

/// How many pods, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Indexes.
    pub completions: u32,
    /// Pods at once.
    pub parallelism: u32,
    /// Seconds until the round is over whatever happened.
    pub deadline_seconds: i64,
    /// One failed index ends the round: ranks cannot go on without each other.
    pub all_or_nothing: bool,
}

/// Puts a Job together. Every Job is a round: each index runs at most once, nothing is retried inside.
pub fn job(
    owner: &Owner,
    identity: &JobIdentity,
    extent: Extent,
    queue: &QueueSpec,
    pod: &Value,
) -> Result<DynamicObject, NoDecision> {
    let JobIdentity { name, zone, stage, round, labels, annotations } = identity;
    let Extent { completions, parallelism, deadline_seconds, all_or_nothing } = extent;
    let (queue_name, priority_class) = queue_of(*zone, queue);
    let mut own = Map::new();
    own.insert(labels::MANAGED_BY.into(), labels::MANAGER.into());
    own.insert(labels::OWNER_UID.into(), owner.uid.clone().into());
    own.insert(labels::ZONE.into(), zone.name().into());
    own.insert(labels::STAGE.into(), stage.clone().into());
    own.insert(labels::ROUND.into(), round.to_string().into());
    own.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.clone()))));
    let mut job_labels = own.clone();
    let mut job_annotations = Map::new();
    if let Some(config) = config_of(pod) {
        job_annotations.insert(labels::CONFIG.into(), Digest::of_bytes(config.as_bytes()).short(16).into());
    }
    if let Some(queue_name) = queue_name {
        job_labels.insert(labels::QUEUE.into(), queue_name.clone().into());
        if *zone == Zone::Sandbox {
            job_annotations.insert(labels::MIN_PARALLELISM.into(), "1".into());
        }
    }
    if let Some(class) = priority_class {
        job_labels.insert(labels::PRIORITY_CLASS.into(), class.clone().into());
    }
    let pod_annotations: Map<String, Value> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.clone()))).collect();
    let mut spec = json!({
        "completionMode": "Indexed",
        "completions": completions,
        "parallelism": parallelism,
        "backoffLimitPerIndex": 0,
        "activeDeadlineSeconds": deadline_seconds,
        // Kueue takes over the field of a queued Job; nobody else ever writes it again.
        "suspend": queue_name.is_some(),
        "template": { "metadata": { "labels": own, "annotations": pod_annotations }, "spec": pod },
    });
    if all_or_nothing && let Some(spec) = spec.as_object_mut() {
        spec.insert("maxFailedIndexes".into(), 0.into());
    }
    from_json(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": job_labels,
            "annotations": job_annotations,
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }))
}

/// Queue and priority of the pods that take the cluster's room: sandboxes and trainers. The others are small, and a runner
/// that waits in a queue behind its own sandboxes would wait for ever.
fn queue_of(zone: Zone, queue: &QueueSpec) -> (Option<&String>, Option<&String>) {
    let QueueSpec { name, priority_class } = queue;
    match zone {
        Zone::Sandbox | Zone::Trainer => (name.as_ref(), priority_class.as_ref().filter(|_| name.is_some())),
        Zone::Resolve | Zone::Runner | Zone::Forest | Zone::Server | Zone::Report => (None, None),
    }
}

/// The configuration in the environment of a pod's container.
fn config_of(pod: &Value) -> Option<&str> {
    let variables = pod.pointer("/containers/0/env")?.as_array()?;
    variables
        .iter()
        .find(|variable| variable.get("name").is_some_and(|name| name == CONFIG_VARIABLE))?
        .get("value")?
        .as_str()
}

/// The object that a JSON document describes.
pub fn from_json(document: Value) -> Result<DynamicObject, NoDecision> {
    serde_json::from_value(document).map_err(|source| NoDecision::Encode { what: "a child object", source })
}

/// What trusted pods ask for and may use at most: they are at rest most of the time. CPU in thousandths, memory and disk in
/// MiB, and GPUs, which cannot be shared.
pub fn bounded(requests: (i32, i32, i32), limits: (i32, i32, i32), gpus: i32) -> Value {
    let amounts = |(cpu, memory, disk)| resources(cpu, memory, disk, gpus).get("limits").cloned();
    json!({ "requests": amounts(requests), "limits": amounts(limits) })
}

/// Equal requests and limits.
pub fn resources(cpu_millis: i32, memory_mib: i32, disk_mib: i32, gpus: i32) -> Value {
    let mut amounts = json!({
        "cpu": format!("{cpu_millis}m"),
        "memory": format!("{memory_mib}Mi"),
        "ephemeral-storage": format!("{disk_mib}Mi"),
    });
    if gpus > 0
        && let Some(amounts) = amounts.as_object_mut()
    {
        amounts.insert("nvidia.com/gpu".into(), gpus.to_string().into());
    }
    json!({ "requests": amounts, "limits": amounts })
}

/// The container's part of Pod Security `restricted`.
pub fn container_security(read_only_root: bool) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": read_only_root,
    })
}

/// The pod's part of Pod Security `restricted` for trusted pods, which need neither root nor a user namespace.
pub fn trusted_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": TRUSTED_USER,
        "runAsGroup": TRUSTED_USER,
        "fsGroup": TRUSTED_USER,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// Tolerations of every pod.
pub fn tolerations() -> Value {
    let brief = |key: &str| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_SECONDS });
    json!([brief("node.kubernetes.io/not-ready"), brief("node.kubernetes.io/unreachable")])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::Job;

    /// Reads a Job with Kubernetes' own types and checks that nothing of it was unknown to them.
    pub(crate) fn typed(object: &DynamicObject) -> Job {
        let document = serde_json::to_value(object).unwrap();
        let job: Job = serde_json::from_value(document.clone()).unwrap();
        let back = serde_json::to_value(&job).unwrap();
        assert_eq!(sorted(&back), sorted(&document), "a field is misspelt or of another type");
        job
    }

    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(entries.into_iter().filter(|(_, v)| *v != json!({})).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }

    fn job_in(zone: Zone) -> Job {
        let identity = JobIdentity {
            name: "j".into(),
            zone,
            stage: "s".into(),
            round: 0,
            labels: Vec::new(),
            annotations: Vec::new(),
        };
        let extent = Extent { completions: 1, parallelism: 1, deadline_seconds: 9, all_or_nothing: false };
        let queue = QueueSpec { name: Some("lq".into()), priority_class: Some("high".into()) };
        let pod = json!({ "containers": [{ "name": "main", "image": "i" }] });
        typed(&job(&owner(crate::Kind::Benchmark), &identity, extent, &queue, &pod).unwrap())
    }

    #[test]
    fn only_what_takes_room_waits_in_a_queue() {
        for zone in [Zone::Sandbox, Zone::Trainer] {
            let job = job_in(zone);
            let labels = job.metadata.labels.unwrap();
            assert_eq!(
                (labels[labels::QUEUE].as_str(), labels[labels::PRIORITY_CLASS].as_str()),
                ("lq", "high")
            );
            assert_eq!(job.spec.unwrap().suspend, Some(true));
        }
        for zone in [Zone::Resolve, Zone::Runner, Zone::Forest, Zone::Server, Zone::Report] {
            let job = job_in(zone);
            assert!(!job.metadata.labels.unwrap().contains_key(labels::QUEUE), "{zone:?}");
            assert_eq!(job.spec.unwrap().suspend, Some(false), "{zone:?}");
        }
    }

    #[test]
    fn a_trusted_pod_asks_for_less_than_it_may_use() {
        let resources = bounded((250, 512, 1), (1_000, 2_048, 2), 1);
        assert_eq!(resources["requests"]["cpu"], "250m");
        assert_eq!(resources["limits"]["memory"], "2048Mi");
        assert_eq!(
            (&resources["requests"]["nvidia.com/gpu"], &resources["limits"]["nvidia.com/gpu"]),
            (&json!("1"), &json!("1"))
        );
    }

    /// An owner whose name, namespace and UID differ.
    pub(crate) fn owner(kind: crate::Kind) -> Owner {
        Owner {
            kind,
            namespace: "demo".into(),
            name: "first".into(),
            uid: "1a2b3c4d-0000-4000-8000-000000000001".into(),
            generation: Some(2),
            keys: sealign_manifest::ObjectKeys::new("demo/rolloutcampaigns/first-1a2b3c4d"),
        }
    }
}
