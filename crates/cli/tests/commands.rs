//! The commands that need no sandbox, run as a user runs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{json_of, said, sealign};
use serde_json::{Value, json};

/// One attempt as a SWE-Gym row: the commands that it ran, and whether it solved the task.
fn row(run: &str, commands: &[&str], resolved: bool) -> String {
    let mut messages =
        vec![json!({ "role": "system", "content": "s" }), json!({ "role": "user", "content": "fix it" })];
    for (index, command) in commands.iter().enumerate() {
        let arguments = json!({ "command": command }).to_string();
        messages
            .push(json!({ "role": "assistant", "content": "", "tool_calls": [{ "id": format!("c{index}"),
            "type": "function", "function": { "name": "execute_bash", "arguments": arguments } }] }));
        messages.push(json!({ "role": "tool", "tool_call_id": format!("c{index}"), "content": format!("did {command}") }));
    }
    json!({ "instance_id": "owner__repo-1", "run_id": run, "resolved": resolved, "messages": messages })
        .to_string()
}

fn rows(folder: &Path) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let lines = [
        row("a", &["ls", "good"], true),
        row("b", &["ls", "good", "more"], true),
        row("c", &["ls", "bad"], false),
        "{\"truncated\": ".to_owned(),
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn a_forest_of_raw_rows_has_the_fields_that_scripts_rely_on() {
    let folder = tempfile::tempdir().unwrap();
    rows(folder.path());
    let arguments = ["forest", "rows.jsonl", "--node-key", "call", "--out", "out", "--output", "json"];
    let output = sealign(folder.path(), &arguments);
    let summary = json_of(&output);
    for field in [
        "instances",
        "instancesCollected",
        "collected",
        "afterFiltering",
        "successful",
        "wrong",
        "pathMessages",
        "averagePathMessages",
        "pathActions",
        "averagePathActions",
        "nodes",
        "branchPoints",
        "criticalDecisionPoints",
        "criticalPairs",
        "dropped",
        "pairs",
    ] {
        assert!(summary.get(field).is_some(), "{field}");
    }
    for field in ["chosen", "rejected", "either", "both"] {
        assert!(summary["singlePathPairs"][field].is_u64(), "{field}");
    }
    assert_eq!(
        (&summary["successful"], &summary["wrong"], &summary["criticalPairs"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let pair = &summary["pairs"][0];
    assert_eq!(
        (&pair["depth"], &pair["chosenScore"], &pair["rejectedScore"]),
        (&json!(1), &json!("2/2"), &json!("0/1"))
    );
    assert!(pair["chosenKey"].as_str().unwrap().contains("good") && pair["task"].is_string());
    assert!(said(&output).contains("refused: rows.jsonl:4"), "{}", said(&output));
    for file in ["trees.json", "pairs.json", "sft.jsonl", "dpo.jsonl", "viewer.html", "statistics.json"] {
        assert!(folder.path().join("out").join(file).metadata().unwrap().len() > 0, "{file}");
    }
}

#[test]
fn a_forest_of_imported_trajectories_is_that_of_the_raw_files() {
    let folder = tempfile::tempdir().unwrap();
    rows(folder.path());
    let imported = json_of(&sealign(
        folder.path(),
        &["import", "--format", "auto", "rows.jsonl", "--out", "in", "--output", "json"],
    ));
    assert_eq!((&imported["trajectories"], &imported["tasks"]), (&json!(3), &json!(1)));
    assert_eq!(imported["outcomes"], json!({ "success": 2, "failure": 1 }));
    assert_eq!(imported["refused"].as_object().unwrap().len(), 1);
    let raw = json_of(&sealign(folder.path(), &["forest", "rows.jsonl", "--output", "json"]));
    let again = json_of(&sealign(folder.path(), &["forest", "in/trajectories.jsonl", "--output", "json"]));
    assert_eq!(again, raw);
    // A whole folder of an import reads the same: its lists of refusals hold no trajectory.
    let whole = json_of(&sealign(folder.path(), &["forest", "in", "--output", "json"]));
    assert_eq!(whole["pairs"], raw["pairs"]);
}

#[test]
fn arguments_that_cannot_be_meant_are_refused_with_the_choices() {
    let folder = tempfile::tempdir().unwrap();
    rows(folder.path());
    let cases: [(&[&str], &str); 6] = [
        (&["forest", "rows.jsonl", "--node-key", "calls"], "use call, full_text or call_and_observation"),
        (&["forest", "nothing.jsonl"], "nothing.jsonl: cannot be read"),
        (
            &["import", "--format", "csv", "rows.jsonl", "--out", "x"],
            "--format: `csv` is not known; use one of auto",
        ),
        (
            &["grade", "--suite", "x", "--rows", "rows.jsonl", "--predictions", "rows.jsonl"],
            "--suite: `x` is not known",
        ),
        (&["get"], "--state: no run is here"),
        (&["get", "pods", "--state", "."], "--state .: is not the state folder of a run"),
    ];
    for (arguments, expected) in cases {
        let output = sealign(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
}

/// A state folder with one object, as a run leaves it.
fn state(folder: &Path) {
    let objects = folder.join(".sealign/demo/objects/tasksets/default");
    std::fs::create_dir_all(&objects).unwrap();
    let object = json!({
        "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet",
        "metadata": { "name": "t", "namespace": "default", "uid": "1a2b3c4d-0000-4000-8000-000000000001",
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": {}, "status": { "taskCount": 12, "healthy": 11, "conditions": [
            { "type": "Ready", "status": "False", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    });
    std::fs::write(objects.join("t.json"), object.to_string()).unwrap();
}

#[test]
fn get_shows_what_kubectl_would_and_finds_the_only_run() {
    let folder = tempfile::tempdir().unwrap();
    state(folder.path());
    let output = sealign(folder.path(), &["get", "tset"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "TASKS", "HEALTHY", "READY", "REASON", "AGE"]);
    assert_eq!(lines[1][..5], ["taskset/t", "12", "11", "False", "Running"]);
    let list = json_of(&sealign(folder.path(), &["get", "--output", "json"]));
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("List"), &json!("t")));
    let missing = sealign(folder.path(), &["get", "tset", "u"]);
    assert!(said(&missing).contains("NAME: there is no TaskSet `u`"), "{}", said(&missing));
    let wrong = sealign(folder.path(), &["get", "pods"]);
    assert!(said(&wrong).contains("alignmentruns (align)"), "{}", said(&wrong));
}

#[test]
fn what_a_run_has_not_made_yet_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    state(folder.path());
    std::fs::create_dir_all(folder.path().join(".sealign/demo/store")).unwrap();
    for command in ["view", "report", "verify"] {
        let output = sealign(folder.path(), &[command]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(said(&output).contains("`sealign get`"), "{command}: {}", said(&output));
    }
}

#[test]
fn a_run_without_a_worker_program_ends_and_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    // A copy of the program alone: nothing lies beside it, and PATH has nothing of ours.
    let program = folder.path().join("sealign");
    // By another process: while one of ours has the file open for writing, a child forked elsewhere keeps it busy.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_sealign")).arg(&program).status().unwrap().success());
    let manifest = "apiVersion: sealign.dev/v1alpha1\nkind: TrajectoryForest\nmetadata: { name: f }\n\
                    spec: { imports: [{ name: x, from: 'file:x' }] }\n";
    std::fs::write(folder.path().join("m.yaml"), manifest).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .env("PATH", "/usr/bin:/bin")
        .args(["run", "m.yaml", "--output", "json"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("program `sealign-worker` is neither beside"), "{}", said(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["succeeded"], &summary["objects"][0]["reason"]),
        (&json!(false), &json!("NoProgress"))
    );
}
