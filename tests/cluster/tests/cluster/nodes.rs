//! What real nodes show: a lost one, and the walls around sandboxes.

use std::time::Duration;

use sealign_cluster_tests::Bed;
use sealign_cluster_tests::images::TASK_IMAGE;
use serde_json::{Value, json};

use crate::campaign::{self, LIMIT, digests, manifest};

const NAMESPACE: &str = "nodes";
/// Until the rules of a new pod are in place.
const POLICY_DELAY: Duration = Duration::from_secs(5);

/// A rollout pod that runs on node 2.
fn runs_on_second(pods: &Value) -> bool {
    pods["items"].as_array().is_some_and(|pods| {
        pods.iter().any(|pod| pod["spec"]["nodeName"] == "n2" && pod["status"]["phase"] == "Running")
    })
}

/// One of two nodes loses power while sandboxes of a campaign run on it, and comes back later.
pub fn lost_node_loses_nothing(bed: &mut Bed) {
    let path = manifest("campaign.yaml");
    bed.session().kubectl(&["apply", "-n", NAMESPACE, "-f", &path.to_string_lossy()]).unwrap();
    let rollouts = ["pods", "-n", NAMESPACE, "-l", "sealign.dev/zone=sandbox,sealign.dev/stage=rollout"];
    bed.session().watch(&rollouts, LIMIT, "rollout sandbox that runs on n2", runs_on_second).unwrap();
    bed.kill_node(2);
    let is_lost = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] != "True")
    };
    let node =
        bed.session().watch(&["node", "n2"], Duration::from_mins(2), "loss of the node", is_lost).unwrap();
    assert_eq!(node["metadata"]["name"], "n2");
    bed.boot_node(2).unwrap();
    campaign::finish(bed.session(), NAMESPACE);
    for kind in ["rolloutcampaign", "trajectoryforest"] {
        let disturbed = bed.session().get(&[kind, "few", "-n", NAMESPACE]).unwrap();
        let undisturbed = bed.session().get(&[kind, "few", "-n", "default"]).unwrap();
        assert_eq!(digests(&disturbed), digests(&undisturbed), "{kind}: a lost node is no model failure");
    }
}

/// A pod like a sandbox's as far as network and admission are concerned, with a shell instead of the server.
fn probe() -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "probe", "namespace": "default", "labels": { "sealign.dev/zone": "sandbox" } },
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "serviceAccountName": "sealign-sandbox", "hostUsers": false, "terminationGracePeriodSeconds": 0,
            "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "main", "image": TASK_IMAGE, "command": ["sleep", "600"],
                "resources": { "limits": { "cpu": "20m", "memory": "64Mi", "ephemeral-storage": "16Mi" } },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
    .to_string()
}

/// From a sandbox no connection reaches the API server, the store, the LAN, a name server, the metadata address or a
/// neighbour; the same pod without the zone's label reaches them, so that it is the policies that hold.
pub fn sandboxes_are_cut_off(bed: &mut Bed) {
    let session = bed.session();
    let lan = bed.place().address(1);
    let targets = [("10.96.0.1", 443), (lan.as_str(), 6443), (lan.as_str(), 7070)];
    let never = [("169.254.169.254", 80), ("10.96.0.10", 53)];
    let free = probe().replace("sealign.dev/zone", "probe").replace("\"sealign-sandbox\"", "\"default\"");
    session.apply(&free.replace("\"name\":\"probe\"", "\"name\":\"free\"")).unwrap();
    session.apply(&probe()).unwrap();
    for pod in ["pod/free", "pod/probe"] {
        session.wait("Ready", pod, "default", Duration::from_mins(2)).unwrap();
    }
    let code = |pod: &str, address: &str, port: u16| -> i32 {
        let script = format!(
            "import socket; s = socket.socket(); s.settimeout(3); print(s.connect_ex(('{address}', {port})))"
        );
        session
            .kubectl(&["exec", "-n", "default", pod, "--", "python3", "-c", &script])
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    for (address, port) in targets {
        assert_eq!(code("free", address, port), 0, "{address}:{port} answers a pod of no zone");
    }
    // Rules follow a new pod within seconds; a sandbox that nobody has claimed runs no task code.
    std::thread::sleep(POLICY_DELAY);
    for (address, port) in targets.into_iter().chain(never) {
        assert_ne!(code("probe", address, port), 0, "{address}:{port} is reachable from a sandbox");
    }
    session.kubectl(&["delete", "pod", "probe", "free", "-n", "default", "--wait=false"]).unwrap();
}
