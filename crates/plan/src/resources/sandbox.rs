//! The Job of a group's round: one sandbox pod an open item. Hostile code runs here, so the profile is the strictest.

use kube::core::DynamicObject;
use sealign_crds::shared::{QueueSpec, SandboxSpec};
use sealign_crds::task_set::TaskSource;
use sealign_manifest::group::RoundMap;
use serde_json::{Value, json};

use super::pod::{self, Extent, JobIdentity};
use crate::installation::Installation;
use crate::labels::{self, Zone};
use crate::names;
use crate::owner::Owner;
use crate::snapshot::NoDecision;

/// Where a suite's images have the task: the working directory of its environments.
pub fn task_root(source: &TaskSource) -> &'static str {
    let TaskSource { mini, human_eval_fix, swe_bench: _ } = source;
    match (mini, human_eval_fix) {
        (Some(_), _) => "/repo",
        (None, Some(_)) => "/workspace",
        (None, None) => ROOT_IN_IMAGE,
    }
}

/// Root of tasks that are part of their image; other suites' tasks bring their files along.
const ROOT_IN_IMAGE: &str = "/testbed";

/// Port of the sandbox server.
pub const PORT: u16 = 7070;
/// Annotation of sandbox pods: seconds that one may take to start. A runner that sees one deleted tells by it whether the
/// image kept it waiting for too long or somebody ended the round early.
pub const START_ANNOTATION: &str = "sealign.dev/start-seconds";
/// User of tasks that bring their files along: any image has a number for it.
const TASK_USER: i64 = 65_532;
/// Room for the static server in its volume.
const SERVER_MIB: i32 = 64;
const MIB: i64 = 1024 * 1024;

/// What a round's Job is made of.
#[derive(Clone, Copy, Debug)]
pub struct SandboxJob<'a> {
    /// The items; position is completion index.
    pub map: &'a RoundMap,
    /// Image of the group.
    pub image: &'a str,
    /// The task root within it.
    pub root: &'a str,
    /// What each sandbox may use.
    pub sandbox: &'a SandboxSpec,
    /// Queue labels.
    pub queue: &'a QueueSpec,
    /// Pods at once.
    pub parallelism: u32,
    /// Wall seconds of one item, its start excluded.
    pub wall_seconds: i64,
}

/// Builds the Job.
pub fn job(
    owner: &Owner,
    installation: &Installation,
    spec: &SandboxJob<'_>,
) -> Result<DynamicObject, NoDecision> {
    let RoundMap { group, stage, round, barren: _, items } = spec.map;
    let size = u32::try_from(items.len()).unwrap_or(u32::MAX).max(1);
    let parallelism = spec.parallelism.clamp(1, size);
    let waves = i64::from(size.div_ceil(parallelism));
    let annotation = serde_json::to_string(spec.map)
        .map_err(|source| NoDecision::Encode { what: "a round map", source })?;
    let identity = JobIdentity {
        name: names::job(owner.kind, &owner.name, &owner.uid, &format!("{}-{group}", stage.name()), *round),
        zone: Zone::Sandbox,
        stage: stage.name().to_owned(),
        round: *round,
        labels: vec![(labels::GROUP, group.clone())],
        annotations: vec![
            (labels::ROUND_MAP, annotation),
            (START_ANNOTATION, spec.sandbox.start_seconds.to_string()),
        ],
    };
    let extent = Extent {
        completions: size,
        parallelism,
        deadline_seconds: waves * (spec.wall_seconds + i64::from(spec.sandbox.start_seconds)),
        all_or_nothing: false,
    };
    pod::job(owner, &identity, extent, spec.queue, &pod_spec(installation, spec))
}

fn pod_spec(installation: &Installation, job: &SandboxJob<'_>) -> Value {
    // A task that brings its files along needs no user of its image and writes to two volumes of its own; one that is part
    // of its image belongs to that image's user, who is root more often than not, and writes where it likes.
    let is_in_image = job.root == ROOT_IN_IMAGE;
    let SandboxSpec { cpu_millis, memory_mib, disk_mib, processes, runtime_class_name, start_seconds: _ } =
        job.sandbox;
    let resources = pod::resources(*cpu_millis, *memory_mib, *disk_mib, 0);
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "shareProcessNamespace": false,
        "terminationGracePeriodSeconds": 5,
        "tolerations": pod::tolerations(),
        "serviceAccountName": format!("{}-sandbox", installation.service_account_prefix),
        "securityContext": security(installation, is_in_image),
        "initContainers": [{
            "name": "server",
            "image": installation.sandbox_image,
            "command": ["cp", "/usr/local/bin/sealign-sandbox", "/sealign/sealign-sandbox"],
            "resources": resources,
            "securityContext": pod::container_security(true),
            "volumeMounts": [{ "name": "sealign", "mountPath": "/sealign" }],
        }],
        "containers": [{
            "name": "main",
            "image": job.image,
            "command": [
                "/sealign/sealign-sandbox",
                "--listen", format!("0.0.0.0:{PORT}"),
                "--pod-uid", "$(SEALIGN_POD_UID)",
                "--root", job.root,
                "--memory-bytes", (i64::from(*memory_mib) * MIB).to_string(),
                "--disk-bytes", (i64::from(*disk_mib) * MIB).to_string(),
                "--pids", processes.to_string(),
            ],
            "env": [{ "name": "SEALIGN_POD_UID", "valueFrom": { "fieldRef": { "fieldPath": "metadata.uid" } } }],
            "ports": [{ "name": "sandbox", "containerPort": PORT }],
            "resources": resources,
            "securityContext": pod::container_security(!is_in_image),
            "volumeMounts": mounts(job.root, is_in_image),
        }],
        "volumes": volumes(*disk_mib, is_in_image),
    });
    let Some(fields) = spec.as_object_mut() else { return spec };
    if is_in_image && installation.user_namespaces {
        fields.insert("hostUsers".into(), false.into());
    }
    if let Some(class) = runtime_class_name.as_ref().or(installation.runtime_class_name.as_ref()) {
        fields.insert("runtimeClassName".into(), class.clone().into());
    }
    spec
}

/// Root is allowed exactly where it is root of a user namespace only; without those, an image that needs root is refused.
fn security(installation: &Installation, is_in_image: bool) -> Value {
    let seccomp = json!({ "type": "RuntimeDefault" });
    match (is_in_image, installation.user_namespaces) {
        (true, true) => json!({ "seccompProfile": seccomp }),
        (true, false) => json!({ "seccompProfile": seccomp, "runAsNonRoot": true }),
        (false, _) => json!({
            "seccompProfile": seccomp,
            "runAsNonRoot": true,
            "runAsUser": TASK_USER,
            "runAsGroup": TASK_USER,
            "fsGroup": TASK_USER,
        }),
    }
}

fn mounts(root: &str, is_in_image: bool) -> Value {
    let server = json!({ "name": "sealign", "mountPath": "/sealign", "readOnly": true });
    if is_in_image {
        return json!([server]);
    }
    json!([server, { "name": "task", "mountPath": root }, { "name": "tmp", "mountPath": "/tmp" }])
}

fn volumes(disk_mib: i32, is_in_image: bool) -> Value {
    let server = json!({ "name": "sealign", "emptyDir": { "sizeLimit": format!("{SERVER_MIB}Mi") } });
    if is_in_image {
        return json!([server]);
    }
    let scratch = json!({ "sizeLimit": format!("{disk_mib}Mi") });
    json!([server, { "name": "task", "emptyDir": scratch }, { "name": "tmp", "emptyDir": scratch }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::resources::pod::tests::{owner, typed};
    use k8s_openapi::api::core::v1::PodSpec;
    use sealign_manifest::key::Stage;
    use sealign_manifest::{Digest, ItemKey};

    fn map(size: usize) -> RoundMap {
        let item = |n: usize| ItemKey::parse(Digest::of_bytes(&n.to_le_bytes()).short(32)).unwrap();
        let items = (0..size).map(item).collect();
        RoundMap { group: "g0003".into(), stage: Stage::Grade, round: 2, barren: 1, items }
    }

    fn built(size: usize, installation: &Installation) -> k8s_openapi::api::batch::v1::Job {
        built_in(size, installation, ROOT_IN_IMAGE)
    }

    fn built_in(size: usize, installation: &Installation, root: &str) -> k8s_openapi::api::batch::v1::Job {
        let (map, sandbox, queue) = (map(size), SandboxSpec::default(), QueueSpec::default());
        let spec = SandboxJob {
            map: &map,
            image: "tasks/one",
            root,
            sandbox: &sandbox,
            queue: &queue,
            parallelism: 4,
            wall_seconds: 100,
        };
        typed(&job(&owner(Kind::RolloutCampaign), installation, &spec).unwrap())
    }

    fn pod(installation: &Installation) -> PodSpec {
        built(3, installation).spec.unwrap().template.spec.unwrap()
    }

    #[test]
    fn a_round_runs_each_index_once_and_ends_at_its_deadline() {
        let spec = built(9, &Installation::default()).spec.unwrap();
        assert_eq!((spec.completions, spec.parallelism), (Some(9), Some(4)));
        assert_eq!((spec.backoff_limit_per_index, spec.backoff_limit), (Some(0), None));
        assert_eq!(spec.completion_mode.as_deref(), Some("Indexed"));
        assert_eq!(spec.active_deadline_seconds, Some(3 * (100 + 600)));
        assert!(spec.pod_failure_policy.is_none() && spec.suspend == Some(false));
    }

    #[test]
    fn pods_carry_the_map_that_the_runner_reads() {
        let job = built(2, &Installation::default());
        let template = job.spec.unwrap().template.metadata.unwrap();
        let annotations = template.annotations.unwrap();
        assert_eq!(serde_json::from_str::<RoundMap>(&annotations[labels::ROUND_MAP]).unwrap(), map(2));
        assert_eq!(annotations[START_ANNOTATION], "600");
        let labels = template.labels.unwrap();
        assert_eq!(labels["sealign.dev/zone"], "sandbox");
        assert_eq!(labels["sealign.dev/group"], "g0003");
        assert_eq!(labels["sealign.dev/stage"], "grade");
        assert_eq!(labels["sealign.dev/owner-uid"], owner(Kind::RolloutCampaign).uid);
    }

    #[test]
    fn a_sandbox_has_no_token_no_secret_no_privilege() {
        let pod = pod(&Installation::default());
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!((pod.enable_service_links, pod.host_users), (Some(false), Some(false)));
        assert_eq!((pod.host_network, pod.host_pid, pod.host_ipc), (None, None, None));
        assert!(pod.volumes.unwrap().iter().all(|volume| volume.empty_dir.is_some()));
        for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(
                security.capabilities.as_ref().unwrap().drop.as_deref(),
                Some(&["ALL".to_owned()][..])
            );
            let resources = container.resources.as_ref().unwrap();
            assert_eq!(resources.requests, resources.limits);
            assert!(resources.limits.as_ref().unwrap().contains_key("ephemeral-storage"));
            assert!(container.env_from.is_none());
            let env = container.env.iter().flatten();
            assert!(
                env.clone().all(|variable| variable.name == "SEALIGN_POD_UID"),
                "a sandbox learns nothing else"
            );
        }
    }

    #[test]
    fn a_task_that_brings_its_files_is_nobody_on_a_root_that_cannot_be_written() {
        let job = built_in(1, &Installation::default(), "/repo");
        let pod = job.spec.unwrap().template.spec.unwrap();
        let security = pod.security_context.unwrap();
        assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65_532)));
        assert_eq!(pod.host_users, None);
        let main = &pod.containers[0];
        assert_eq!(main.security_context.as_ref().unwrap().read_only_root_filesystem, Some(true));
        let paths: Vec<&str> = main.volume_mounts.iter().flatten().map(|m| m.mount_path.as_str()).collect();
        assert_eq!(paths, ["/sealign", "/repo", "/tmp"]);
        assert!(pod.volumes.unwrap().iter().all(|v| v.empty_dir.as_ref().unwrap().size_limit.is_some()));
    }

    #[test]
    fn without_user_namespaces_root_is_refused() {
        let pod = pod(&Installation { user_namespaces: false, ..Installation::default() });
        assert_eq!(pod.host_users, None);
        assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    }
}
