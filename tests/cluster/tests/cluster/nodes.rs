//! What real nodes show: a lost one, and the walls around sandboxes.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use sealign_cluster_tests::images::TASK_IMAGE;
use sealign_cluster_tests::process::until;
use sealign_cluster_tests::services::DNS_ADDRESS;
use sealign_cluster_tests::{Bed, Session};
use sealign_plan::{Kind, names};
use serde_json::{Value, json};

use crate::campaign::{self, LIMIT, both_nodes, digests, manifest};

const NAMESPACE: &str = "nodes";
/// Until the rules of a new pod are in place.
const POLICY_DELAY: Duration = Duration::from_secs(5);

/// A pod that was initialising when its node died stays so: Kubernetes starts no pod again that must not restart. Its Job ends it
/// at the round's deadline, which is eight minutes for this campaign, and the next round has the rest.
const LOST_LIMIT: Duration = Duration::from_mins(15);
/// For what is left of two hundred small steps, with the round that the lost node costs.
const TRAINING_LIMIT: Duration = Duration::from_mins(10);
/// Looks that find a pod running and another one on its way, before the node is killed all the same.
const RESTLESS_LOOKS: u32 = 5;

/// How many of node 2's rollout pods are in `phase`.
fn on_second(pods: &Value, phase: &str) -> usize {
    let pods = pods["items"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["spec"]["nodeName"] == "n2" && pod["status"]["phase"] == phase).count()
}

/// Node 2 loses power, and comes back when the cluster has seen that it is lost.
fn lose_second(bed: &mut Bed) {
    bed.kill_node(2);
    let is_lost = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] != "True")
    };
    let node =
        bed.session().watch(&["node", "n2"], Duration::from_mins(2), "loss of the node", is_lost).unwrap();
    assert_eq!(node["metadata"]["name"], "n2");
    bed.boot_node(2).unwrap();
}

/// A node of two is lost while a stage trains on both: the round ends with its reason, and the next one goes on from the newest
/// whole checkpoint, to the model that an undisturbed training makes.
pub fn node_lost_while_training_loses_nothing(bed: &mut Bed) {
    let path = manifest("training.yaml");
    bed.session().kubectl(&["apply", "-n", "loop", "-f", &path.to_string_lossy()]).unwrap();
    let runs = bed.bucket_folder().join("loop/alignmentruns");
    let has_checkpoint = || {
        let runs = fs::read_dir(&runs).into_iter().flatten().flatten();
        let again = runs.filter(|run| run.file_name().to_string_lossy().starts_with("again-"));
        let steps = again.flat_map(|run| fs::read_dir(run.path().join("steps/dpo-0/checkpoints")));
        steps.flatten().flatten().find(|step| step.path().join("manifest.json").exists()).map(drop)
    };
    until(LIMIT, has_checkpoint).expect("training leaves a checkpoint");
    lose_second(bed);
    let session = bed.session();
    session.wait("Succeeded", "alignmentrun/again", "loop", TRAINING_LIMIT).unwrap();
    let stage = job_prefix(&session.get(&["alignmentrun", "again", "-n", "loop"]).unwrap());
    let ranks = |round: u8| campaign::nodes_of(session, "loop", &[&format!("{stage}-r{round}-")]);
    assert_eq!(ranks(0), both_nodes(), "nodes of the first round");
    assert!(!ranks(1).is_empty(), "a lost node ends the round");
    campaign::assert_equal(session, "loop", &path, bed.place().folder());
}

/// What the names of all rounds of a run's first DPO stage begin with.
fn job_prefix(run: &Value) -> String {
    let text = |pointer: &str| run.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let job = names::job(Kind::AlignmentRun, &text("/metadata/name"), &text("/metadata/uid"), "dpo-0", 0);
    job.trim_end_matches("-r0").to_owned()
}

/// One of two nodes loses power while sandboxes of a campaign run on it, and comes back later.
pub fn lost_node_loses_nothing(bed: &mut Bed) {
    let path = manifest("campaign.yaml");
    bed.session().kubectl(&["apply", "-n", NAMESPACE, "-f", &path.to_string_lossy()]).unwrap();
    let rollouts = ["pods", "-n", NAMESPACE, "-l", "sealign.dev/zone=sandbox,sealign.dev/stage=rollout"];
    let restless = Cell::new(0);
    let is_time = |pods: &Value| {
        let (running, on_their_way) = (on_second(pods, "Running"), on_second(pods, "Pending"));
        restless.set(restless.get() + u32::from(running > 0 && on_their_way > 0));
        running > 0 && (on_their_way == 0 || restless.get() > RESTLESS_LOOKS)
    };
    bed.session().watch(&rollouts, LIMIT, "rollout sandbox that runs on n2", is_time).unwrap();
    lose_second(bed);
    campaign::finish(bed.session(), NAMESPACE, LOST_LIMIT);
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

/// Asks `server` from `pod` over UDP for the API server's name: `answered` or `silent`.
fn resolves(session: &Session, pod: &str, server: &str) -> String {
    let script = format!(
        "import socket
name = b''.join(bytes([len(part)]) + part for part in b'kubernetes.default.svc.cluster.local'.split(b'.'))
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(3)
asking.connect(('{server}', 53))
try:
    asking.send(bytes.fromhex('123401000001000000000000') + name + bytes.fromhex('0000010001'))
    print('answered' if socket.inet_aton('10.96.0.1') in asking.recv(512) else 'another answer')
except OSError:
    print('silent')"
    );
    let said = session.kubectl(&["exec", "-n", "default", pod, "--", "python3", "-c", &script]).unwrap();
    said.trim().to_owned()
}

/// From a sandbox no connection reaches the API server, the store, the LAN, a name server, the metadata address or a
/// neighbour; the same pod without the zone's label reaches them, so that it is the policies that hold.
pub fn sandboxes_are_cut_off(bed: &mut Bed) {
    let session = bed.session();
    let lan = bed.place().address(1);
    let targets = [
        ("10.96.0.1", 443),
        (lan.as_str(), 6443),
        (lan.as_str(), 7070),
        (DNS_ADDRESS, 53),
        (lan.as_str(), 53),
    ];
    let never = [("169.254.169.254", 80)];
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
    for server in [DNS_ADDRESS, &lan] {
        assert_eq!(resolves(session, "free", server), "answered", "{server} tells a pod of no zone names");
    }
    // Rules follow a new pod within seconds; a sandbox that nobody has claimed runs no task code.
    std::thread::sleep(POLICY_DELAY);
    for (address, port) in targets.into_iter().chain(never) {
        assert_ne!(code("probe", address, port), 0, "{address}:{port} is reachable from a sandbox");
    }
    for server in [DNS_ADDRESS, &lan] {
        assert_eq!(resolves(session, "probe", server), "silent", "{server} tells a sandbox names");
    }
    session.kubectl(&["delete", "pod", "probe", "free", "-n", "default", "--wait=false"]).unwrap();
}
