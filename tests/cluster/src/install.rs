//! `helm install` of the project's chart on a bed, with the bed's images and store.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::error::{BedError, Result};
use crate::images::TASK_IMAGE;
use crate::process::run;

/// Namespace of the operator.
pub const SYSTEM: &str = "sealign-system";
/// Until the operator's pod is ready and leads.
const READY: Duration = Duration::from_mins(2);

/// The chart's values for `bed`, whose objects in `namespaces` are worked on.
pub fn values(bed: &Bed, namespaces: &[&str]) -> Value {
    let credentials: serde_json::Map<_, _> =
        bed.bucket().variables().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    // Store and DNS are there, and nothing else is open to trainers.
    let services = format!("{}/32", bed.place().address(1));
    json!({
        "namespaces": namespaces,
        "image": { "registry": "bed.invalid", "repository": "sealign", "tag": "test" },
        "trainerImage": { "registry": "bed.invalid", "repository": "sealign-trainer", "tag": "test" },
        "sandboxes": { "pythonImage": TASK_IMAGE },
        "store": { "url": bed.bucket().url(), "credentials": { "create": credentials } },
        "operator": {
            "replicas": 1,
            "log": "info,kube=warn",
            "resources": {
                "requests": { "cpu": "50m", "memory": "64Mi" },
                "limits": { "memory": "512Mi" },
            },
        },
        // The bed is IPv4 only, and its enforcement (kube-router 1.6) gives up on rules for IPv6.
        "networkPolicy": {
            "dns": { "to": [{ "ipBlock": { "cidr": services } }] },
            "store": { "to": [{ "ipBlock": { "cidr": services } }], "ports": [7070] },
            "apiServer": { "to": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }] },
            // Prometheus is no pod here.
            "prometheus": { "from": [{ "ipBlock": { "cidr": services } }] },
            "models": { "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"] } }] },
        },
        // The administrator makes a pod of a zone, to look at its walls from inside.
        "admission": { "podCreators": [
            "system:serviceaccount:kube-system:job-controller", "system:kube-controller-manager", "admin",
        ] },
        "rounds": { "barrenWaitSeconds": 1 },
    })
}

/// Installs the chart and waits until its operator leads. The namespaces must exist.
pub fn install(bed: &Bed, namespaces: &[&str]) -> Result<()> {
    let session = bed.session();
    let file = bed.place().folder().join("values.json");
    fs::write(&file, values(bed, namespaces).to_string()).map_err(BedError::file(&file))?;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/sealign");
    let mut helm = session.tool("helm");
    helm.args(["install", "sealign"]).arg(chart).args(["-n", SYSTEM, "--create-namespace", "-f"]).arg(&file);
    run(&mut helm)?;
    // Not the condition Available, which allows for one pod that is not.
    let timeout = format!("--timeout={}s", READY.as_secs());
    session.kubectl(&["rollout", "status", "deployment/sealign-operator", "-n", SYSTEM, &timeout])?;
    let leads = |lease: &Value| {
        lease.pointer("/spec/holderIdentity").and_then(Value::as_str).is_some_and(|holder| !holder.is_empty())
    };
    session.watch(&["lease", "sealign-operator", "-n", SYSTEM], READY, "operator that leads", leads).map(drop)
}
