//! The runner's pod directory over a real watch, with a runner's rights and no others.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use sealign_crds::ObjectRef;
use sealign_worker::runner::pods::{Phase, PodDirectory};
use sealign_worker::runner::watched::WatchedDirectory;
use serde_json::{Value, json};

use crate::server::{ApiServer, OPERATOR};

const MAP: &str =
    r#"{"group":"g0001","stage":"rollout","round":0,"items":["0123456789abcdef0123456789abcdef"]}"#;

fn pod(name: &str, owner: &str) -> Pod {
    let container = json!({ "name": "main", "image": "i", "securityContext": { "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } } });
    serde_json::from_value(json!({
        "metadata": { "name": name,
            "labels": { "sealign.dev/owner-uid": owner, "sealign.dev/zone": "sandbox" },
            "annotations": { "sealign.dev/round-map": MAP, "batch.kubernetes.io/job-completion-index": "0" } },
        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container] },
    }))
    .unwrap()
}

fn status(phase: &str, state: &Value) -> Patch<Value> {
    Patch::Merge(json!({ "status": { "phase": phase, "podIP": "10.1.2.3", "podIPs": [{ "ip": "10.1.2.3" }],
        "containerStatuses": [{ "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state }] } }))
}

/// A token that may get, list and watch pods of one namespace is all that a runner needs.
async fn runner_rights(client: &Client, namespace: &str) {
    let pods = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] }]);
    let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
    let role = json!({ "metadata": { "name": "runner" }, "rules": pods });
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let binding = json!({ "metadata": { "name": "runner" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "runner" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": OPERATOR }] });
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

/// Pods come, run, end and go; those of others are not seen.
pub async fn a_runner_sees_its_pods_with_no_other_right(server: &ApiServer) {
    let client = server.admin();
    crate::namespace(&client, "directory").await;
    runner_rights(&client, "directory").await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "directory");
    for (name, owner) in [("mine", "o-1"), ("ends", "o-1"), ("other", "o-2")] {
        pods.create(&PostParams::default(), &pod(name, owner)).await.unwrap();
    }
    let runner = Client::try_from(server.config("operator")).unwrap();
    let owner = ObjectRef {
        kind: "RolloutCampaign".into(),
        namespace: "directory".into(),
        name: "c".into(),
        uid: "o-1".into(),
    };
    let directory = WatchedDirectory::start(runner, &owner);
    let expect = |what: &'static str, wanted: Vec<(&'static str, Phase)>| {
        let (directory, wanted) = (&directory, wanted.clone());
        async move {
            let look = || async {
                directory.changed(Duration::from_millis(200)).await;
                let seen = directory.list().await.ok()?;
                let phases: Vec<_> = seen.iter().map(|pod| (pod.name.as_str(), pod.phase)).collect();
                (phases == wanted).then(|| seen.clone())
            };
            crate::eventually(what, look).await
        }
    };
    expect("pods that wait", vec![("ends", Phase::Pending), ("mine", Phase::Pending)]).await;
    let patch = PatchParams::default();
    pods.patch_status("mine", &patch, &status("Running", &json!({ "running": {} }))).await.unwrap();
    let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    pods.patch_status("ends", &patch, &status("Failed", &killed)).await.unwrap();
    let seen = expect("pods at work", vec![("ends", Phase::Failed), ("mine", Phase::Running)]).await;
    assert_eq!(seen[0].reason, "OOMKilled");
    assert_eq!(seen[1].address, "http://10.1.2.3:7070");
    for name in ["ends", "mine"] {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    // How one ended is remembered after it went; one that vanished at work leaves nothing.
    expect("pods that went", vec![("ends", Phase::Failed)]).await;
}
