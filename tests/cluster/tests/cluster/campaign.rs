//! A campaign and its forest, in pods and embedded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sealign_cluster_tests::images::Built;
use sealign_cluster_tests::process::run;
use sealign_cluster_tests::{Bed, Session};
use serde_json::Value;

/// Minutes that a campaign of 16 attempts may take on a busy machine of two cores.
pub const LIMIT: Duration = Duration::from_mins(6);

/// Path of a manifest of these tests.
pub fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(name)
}

/// Applies the campaign and waits for its forest, as a user would.
pub fn succeeds(session: &Session, namespace: &str) {
    let path = manifest("campaign.yaml");
    session.kubectl(&["apply", "-n", namespace, "-f", &path.to_string_lossy()]).unwrap();
    finish(session, namespace, LIMIT);
}

/// Waits until everything of the campaign's manifest has succeeded, each thing within `limit`.
pub fn finish(session: &Session, namespace: &str, limit: Duration) {
    let expected =
        [("Ready", "taskset"), ("Succeeded", "rolloutcampaign"), ("Succeeded", "trajectoryforest")];
    for (condition, kind) in expected {
        session.wait(condition, &format!("{kind}/few"), namespace, limit).unwrap();
    }
}

/// The digests in an object's status: its own, and those of its steps.
pub fn digests(object: &Value) -> BTreeMap<String, String> {
    let own = object.pointer("/status/digest").and_then(Value::as_str);
    let steps = object.pointer("/status/steps").and_then(Value::as_array).into_iter().flatten();
    let steps = steps.filter_map(|step| Some((step.get("name")?.as_str()?, step.get("digest")?.as_str()?)));
    own.map(|digest| ("digest", digest))
        .into_iter()
        .chain(steps)
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect()
}

/// Digests of every object that an embedded run of `manifest` makes, by kind and name.
pub fn embedded(manifest: &Path, folder: &Path) -> BTreeMap<(String, String), BTreeMap<String, String>> {
    let built = Built::find().unwrap();
    let mut command = Command::new(built.programs.join("sealign"));
    command.arg("run").arg(manifest).arg("--state").arg(folder.join("embedded")).args(["--output", "json"]);
    command.env("LD_LIBRARY_PATH", &built.torch);
    let summary: Value = serde_json::from_str(&run(&mut command).unwrap()).unwrap();
    assert_eq!(summary["succeeded"], true, "the embedded run: {summary}");
    let objects = summary["objects"].as_array().unwrap().iter().map(|object| {
        let key = (object["kind"].as_str().unwrap().to_owned(), object["name"].as_str().unwrap().to_owned());
        (key, serde_json::from_value(object["digests"].clone()).unwrap())
    });
    objects.collect()
}

/// Every object of the embedded run is in the cluster, with the same digests.
pub fn assert_equal(session: &Session, namespace: &str, manifest: &Path, folder: &Path) {
    let expected = embedded(manifest, folder);
    assert!(expected.values().any(|digests| !digests.is_empty()), "the embedded run tells no digest");
    for ((kind, name), digests_embedded) in expected {
        let object = session.get(&[&kind, &name, "-n", namespace]).unwrap();
        assert_eq!(digests(&object), digests_embedded, "{kind} {name}: cluster (left), embedded (right)");
    }
}

/// Nodes on which pods ran whose names hold one of `parts`, by what events remember: their Jobs' pods are gone.
pub fn nodes_of(session: &Session, namespace: &str, parts: &[&str]) -> BTreeSet<String> {
    let events = session.get(&["events", "-n", namespace, "--field-selector", "reason=Scheduled"]).unwrap();
    let messages = events["items"].as_array().unwrap().iter().filter_map(|event| event["message"].as_str());
    let ours = messages.filter(|message| parts.iter().any(|part| message.contains(part)));
    ours.filter_map(|message| message.rsplit(' ').next()).map(str::to_owned).collect()
}

/// Names of the bed's two nodes.
pub fn both_nodes() -> BTreeSet<String> {
    BTreeSet::from(["n1".to_owned(), "n2".to_owned()])
}

/// Records, forest and pairs of the campaign are what one machine without a cluster makes of it.
pub fn equals_the_embedded_run(bed: &mut Bed) {
    let session = bed.session();
    succeeds(session, "default");
    assert_equal(session, "default", &manifest("campaign.yaml"), bed.place().folder());
    assert_eq!(nodes_of(session, "default", &["-rollout-", "-grade-"]), both_nodes(), "sandboxes' nodes");
}

/// Prints what a reader of a failure wants to see first.
pub fn tell(session: &Session) {
    let queries: [&[&str]; 4] = [
        &["get", "sealign", "-A"],
        &["get", "jobs,pods", "-A", "-o", "wide"],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        &["logs", "-n", sealign_cluster_tests::install::SYSTEM, "deployment/sealign-operator", "--tail=60"],
    ];
    for query in queries {
        let shown = session.kubectl(query).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = shown.lines().collect();
        println!("$ kubectl {}\n{}", query.join(" "), lines[lines.len().saturating_sub(60)..].join("\n"));
    }
}
