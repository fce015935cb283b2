//! `gc`, `export` and `view` over a state folder as a run leaves it, made by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{json_of, said, sealign};
use sealign_manifest::group::GroupManifest;
use sealign_manifest::key::{Stage, blob, verdict};
use sealign_manifest::{Digest, GradingItem, ItemKey, ObjectKeys};
use serde_json::{Value, json};

const UID: &str = "1a2b3c4d-0000-4000-8000-000000000001";

/// A state folder with an object of each kind that is named.
struct State {
    folder: tempfile::TempDir,
}

impl State {
    fn new() -> Self {
        let state = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(state.path("objects")).unwrap();
        std::fs::create_dir_all(state.path("store")).unwrap();
        state
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.folder.path().join(".sealign/demo").join(rest)
    }

    fn object(&self, kind: &str, plural: &str, name: &str, spec: &Value, status: &Value) -> ObjectKeys {
        let object = json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "namespace": "default", "uid": UID },
            "spec": spec, "status": status,
        });
        let folder = self.path("objects").join(plural).join("default");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.json")), object.to_string()).unwrap();
        ObjectKeys::new(format!("default/{plural}/{name}-1a2b3c4d"))
    }

    fn put(&self, key: &str, bytes: impl AsRef<[u8]>) -> Digest {
        let path = self.path("store").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        Digest::of_bytes(bytes.as_ref())
    }

    fn put_blob(&self, text: &str) -> Digest {
        let digest = Digest::of_bytes(text.as_bytes());
        self.put(&blob(&digest), text)
    }

    fn keys(&self) -> BTreeSet<String> {
        fn walk(root: &Path, folder: &Path, keys: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    walk(root, &path, keys);
                } else {
                    keys.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let (root, mut keys) = (self.path("store"), BTreeSet::new());
        walk(&root, &root, &mut keys);
        keys
    }

    fn run(&self, arguments: &[&str]) -> Output {
        sealign(self.folder.path(), arguments)
    }
}

fn grading(patch: &Digest) -> GradingItem {
    let digest = Digest::of_bytes(b"task");
    GradingItem { task: digest.clone(), patch: patch.clone(), environment: digest, grader: 1, repeat: 0 }
}

/// A campaign with one rollout and one grading that a live forest rests on; the campaign's own object is gone, and so is
/// the task set's. Returns the keys that have to stay.
fn with_a_live_forest(state: &State) -> BTreeSet<String> {
    let forest = state.object("TrajectoryForest", "trajectoryforests", "f", &json!({}), &json!({}));
    let campaign = ObjectKeys::new("default/rolloutcampaigns/c-00000001");
    let tasks = ObjectKeys::new("team/x/tasksets/t-00000002");
    state.put(&forest.lineage("forest"), json!({ "c": campaign.closed() }).to_string());
    state.put(&forest.forest(), "{}");
    state.put(&campaign.lineage("plan"), json!({ "tasks": tasks.tasks() }).to_string());
    state.put(&tasks.tasks(), "{}");
    let (made, listed) = (state.put_blob("made"), state.put_blob("listed"));
    let item = ItemKey::parse(&"a".repeat(32)).unwrap();
    let record = json!({ "version": 1, "patch": made }).to_string();
    state.put(&campaign.record("g0001", Stage::Rollout, &item), record);
    let manifest = GroupManifest {
        group: "g0001".into(),
        stage: Stage::Rollout,
        records: [].into(),
        gradings: vec![grading(&listed)],
    };
    let manifest = serde_json::to_vec(&manifest).unwrap();
    state.put(&campaign.group_manifest("g0001", Stage::Rollout), manifest);
    state.put(&campaign.record("g0001", Stage::Grade, &grading(&made).key()), "{}");
    state.put(&verdict(&grading(&made).key()), "{}");
    state.put(&verdict(&grading(&listed).key()), "{}");
    state.put("inputs/rows.jsonl", "mine");
    state.keys()
}

/// What nothing needs: an object that is gone, a patch, a verdict, and a file that a killed writer left.
fn with_garbage(state: &State) {
    let gone = ObjectKeys::new("default/alignmentruns/old-00000003");
    let patch = state.put_blob("of nobody");
    state.put(&gone.report(), "{}");
    state.put(&gone.step("sft").join("checkpoints/2/model.safetensors"), "weights");
    state.put(&verdict(&grading(&patch).key()), "{}");
    state.put("default/alignmentruns/old-00000003/report.md#1", "half");
}

#[test]
fn gc_says_what_nothing_needs_and_deletes_it_only_when_told() {
    let state = State::new();
    let needed = with_a_live_forest(&state);
    with_garbage(&state);
    let all = state.keys();
    // Times of files are compared in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let dry = json_of(&state.run(&["gc", "--output", "json"]));
    assert_eq!(dry["dryRun"], true);
    let counts = |of: &Value| {
        ["resources", "blobs", "verdicts", "staged"]
            .map(|class| of["garbage"][class]["objects"].as_u64().unwrap())
    };
    assert_eq!(counts(&dry), [2, 1, 1, 1]);
    assert_eq!(dry["garbage"]["resources"]["bytes"], 9);
    assert_eq!(dry["prefixes"], json!(["default/alignmentruns/old-00000003"]));
    assert_eq!(dry["foreign"]["objects"], 1);
    assert_eq!(state.keys(), all, "a dry run deletes nothing");

    let done = json_of(&state.run(&["gc", "--yes", "--output", "json"]));
    assert_eq!((counts(&done), &done["dryRun"]), ([2, 1, 1, 1], &json!(false)));
    assert_eq!(
        state.keys(),
        needed,
        "by lineage, what objects that are gone left is kept where something rests on it"
    );
    assert!(!state.path("store/default/alignmentruns").exists());
    let again = json_of(&state.run(&["gc", "--yes", "--output", "json"]));
    assert_eq!(counts(&again), [0, 0, 0, 0]);
}

#[test]
fn gc_of_a_store_keeps_what_roots_name_and_what_is_young() {
    let state = State::new();
    with_a_live_forest(&state);
    with_garbage(&state);
    let store = format!("file://{}", state.path("store").display());
    let root = "default/alignmentruns/old-00000003/report.json";
    let young = json_of(&state.run(&["gc", "--store", &store, "--root", root, "--yes", "--output", "json"]));
    assert!(young["young"]["objects"].as_u64().unwrap() > 5, "{young}");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let arguments =
        ["gc", "--store", &store, "--root", root, "--grace-hours", "0", "--yes", "--output", "json"];
    json_of(&state.run(&arguments));
    let left: Vec<String> = state.keys().into_iter().filter(|key| !key.starts_with("inputs/")).collect();
    assert!(
        left.len() == 2 && left.iter().all(|key| key.starts_with("default/alignmentruns/old-")),
        "{left:?}"
    );
}

#[test]
fn gc_refuses_to_guess() {
    let state = State::new();
    for (arguments, expected) in [
        (&["gc", "--yes"][..], "--root: nothing is named that is to stay"),
        (
            &["gc", "--store", "file:///nowhere", "--root", "inputs/rows.jsonl"][..],
            "is no key of an object's",
        ),
    ] {
        let output = state.run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    let needed = with_a_live_forest(&state);
    state.put("default/trajectoryforests/f-1a2b3c4d/lineage/forest.json", "not JSON");
    let output = state.run(&["gc", "--yes"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("nothing was deleted"), "{}", said(&output));
    assert_eq!(state.keys(), needed);
}

/// A forest of three attempts in a state folder, made by `sealign forest`.
fn with_a_forest_of_rows(state: &State) {
    let keys = ObjectKeys::new("default/trajectoryforests/f-1a2b3c4d");
    let row = |run: &str, commands: &[&str], resolved: bool| {
        let mut messages =
            vec![json!({ "role": "system", "content": "s" }), json!({ "role": "user", "content": "fix it" })];
        for (index, command) in commands.iter().enumerate() {
            let (id, arguments) = (format!("c{index}"), json!({ "command": command }).to_string());
            let function = json!({ "name": "execute_bash", "arguments": arguments });
            let call = json!([{ "id": id, "type": "function", "function": function }]);
            messages.push(json!({ "role": "assistant", "content": "", "tool_calls": call }));
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": "did" }));
        }
        json!({ "instance_id": "owner__repo-1", "run_id": run, "resolved": resolved, "messages": messages })
            .to_string()
    };
    let rows = [
        row("a", &["ls", "good"], true),
        row("b", &["ls", "good", "more"], true),
        row("c", &["ls", "bad \u{1b}[2J"], false),
    ];
    std::fs::write(state.folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let out = state.path("store").join(keys.prefix());
    let made = state.run(&["forest", "rows.jsonl", "--out", out.to_str().unwrap()]);
    assert!(made.status.success(), "{}", said(&made));
    let output = |file: &str| {
        let bytes = std::fs::read(out.join(file)).unwrap();
        json!({ "file": file, "digest": Digest::of_bytes(&bytes), "bytes": bytes.len() })
    };
    let forest = json!({
        "inputs": {}, "options": Digest::of_bytes(b"o"), "statistics": {}, "sftExamples": 2, "pairs": 1,
        "outputs": { "sft": output("sft.jsonl"), "dpo": output("dpo.jsonl") },
    });
    state.put(&keys.forest(), forest.to_string());
    let status = json!({ "viewer": keys.join("viewer.html") });
    state.object("TrajectoryForest", "trajectoryforests", "f", &json!({}), &status);
}

#[test]
fn examples_are_exported_as_trl_reads_them_and_only_if_their_digests_hold() {
    let state = State::new();
    with_a_forest_of_rows(&state);
    let sft = json_of(&state.run(&["export", "sft", "--out", "out", "--output", "json"]));
    assert_eq!(
        (&sft["rows"], &sft["name"], &sft["kind"]),
        (&json!(2), &json!("f"), &json!("TrajectoryForest"))
    );
    json_of(&state.run(&["export", "dpo", "f", "--out", "out", "--output", "json"]));
    let read = |file: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(state.folder.path().join("out").join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let rows = read("sft.jsonl");
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["messages"][0]["role"].is_string() && rows[0]["messages"][0]["content"].is_string());
    let pairs = read("dpo.jsonl");
    for side in ["prompt", "chosen", "rejected"] {
        assert!(!pairs[0][side].as_array().unwrap().is_empty(), "{side}");
    }
    let again = state.run(&["export", "sft", "--out", "out"]);
    assert!(said(&again).contains("is there already"), "{}", said(&again));
    state.put("default/trajectoryforests/f-1a2b3c4d/sft.jsonl", "altered");
    let altered = state.run(&["export", "sft", "--out", "other"]);
    assert_eq!(altered.status.code(), Some(2));
    assert!(said(&altered).contains("does not hold the bytes"), "{}", said(&altered));
    assert!(!state.folder.path().join("other/sft.jsonl").exists());
}

#[test]
fn the_last_model_of_a_run_is_exported_file_by_file() {
    let state = State::new();
    let keys = ObjectKeys::new("default/alignmentruns/r-1a2b3c4d");
    let step = keys.step("dpo-0");
    state.object("AlignmentRun", "alignmentruns", "r", &json!({}), &json!({ "model": step.model() }));
    let unfinished = state.run(&["export", "model", "--out", "model"]);
    assert!(said(&unfinished).contains("has not made it yet"), "{}", said(&unfinished));
    let digest = state.put(&step.join("model/config.json"), "{}");
    let manifest = |name: &str| {
        let file = json!({ "file": name, "digest": digest, "bytes": 2 });
        json!({ "files": { name: file }, "inputs": {}, "step": 1, "steps": 1, "metrics": {} }).to_string()
    };
    state.put(&step.model(), manifest("../config.json"));
    let outside = state.run(&["export", "model", "--out", "model"]);
    assert!(said(&outside).contains("outside of its folder"), "{}", said(&outside));
    state.put(&step.model(), manifest("config.json"));
    let model = json_of(
        &state.run(&["export", "model", "r", "--step", "dpo-0", "--out", "model", "--output", "json"]),
    );
    assert_eq!((&model["from"], &model["bytes"]), (&json!(step.model()), &json!(2)));
    assert_eq!(std::fs::read(state.folder.path().join("model/config.json")).unwrap(), b"{}");
    let other = state.run(&["export", "trajectories", "--out", "x"]);
    assert!(said(&other).contains("the run has no RolloutCampaign"), "{}", said(&other));
}

#[test]
fn an_adapter_is_exported_beside_its_model_and_only_as_the_models_manifest_promised_it() {
    let state = State::new();
    let step = ObjectKeys::new("default/alignmentruns/r-1a2b3c4d").step("sft");
    state.object("AlignmentRun", "alignmentruns", "r", &json!({}), &json!({ "model": step.model() }));
    let file = state.put(&step.join("adapter/adapter_config.json"), "{}");
    let file = json!({ "file": "adapter_config.json", "digest": file, "bytes": 2 });
    let adapter = json!({ "files": { "adapter_config.json": file }, "inputs": {} }).to_string();
    let model = json!({ "files": {}, "inputs": {}, "step": 1, "steps": 1, "metrics": {} });
    state.put(&step.model(), model.to_string());
    let export = ["export", "adapter", "--out", "adapter", "--output", "json"];
    let whole = state.run(&export);
    assert!(said(&whole).contains("trained all weights"), "{}", said(&whole));
    let mut model = model;
    model["adapter"] = json!(state.put(&step.adapter(), adapter.clone()));
    state.put(&step.model(), model.to_string());
    state.put(&step.adapter(), format!("{adapter}\n"));
    let altered = state.run(&export);
    assert!(said(&altered).contains("was promised"), "{}", said(&altered));
    state.put(&step.adapter(), adapter);
    let exported = json_of(&state.run(&export));
    assert_eq!((&exported["what"], &exported["from"]), (&json!("adapter"), &json!(step.adapter())));
    assert_eq!(std::fs::read(state.folder.path().join("adapter/adapter_config.json")).unwrap(), b"{}");
}

#[test]
fn view_prints_a_tree_with_scores_and_the_sides_of_its_pairs() {
    let state = State::new();
    with_a_forest_of_rows(&state);
    let output = state.run(&["view"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "what a model says moves no cursor");
    let line = |part: &str| {
        text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {text}"))
    };
    assert!(line("viewer.html").starts_with("f: "));
    assert!(line("owner__repo-1").contains("2 of 3 rollouts succeed, 1 pairs"));
    assert!(line("prompt").starts_with("2/3"));
    assert!(line("chosen of pair 1").contains("2/2") && line("chosen of pair 1").contains("good"));
    assert!(line("rejected of pair 1").contains("0/1") && line("rejected of pair 1").contains("bad"));
    let missing = state.run(&["view", "f", "--task", "nothing"]);
    assert!(said(&missing).contains("--task: the forest has no tree of `nothing`"), "{}", said(&missing));
    let pages = json_of(&state.run(&["view", "--output", "json"]));
    assert!(pages[0]["page"].as_str().unwrap().ends_with("viewer.html"));
}
