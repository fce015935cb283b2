//! Manifests that people get wrong, each refused with one clear error; and those that we ship, each admitted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use sealign_cli::documents;
use sealign_local::admission::Admission;

const TASK_SET: &str = "apiVersion: sealign.dev/v1alpha1
kind: TaskSet
metadata:
  name: tasks
spec:
  source:
    mini: { split: Train, count: 3 }
";
const CAMPAIGN: &str = "apiVersion: sealign.dev/v1alpha1
kind: RolloutCampaign
metadata:
  name: first
spec:
  taskSetRef: { name: tasks }
  samplesPerTask: 2
  policies:
    - name: strong
      model: { scripted: { policy: strong } }
";
const RUN: &str = "apiVersion: sealign.dev/v1alpha1
kind: AlignmentRun
metadata:
  name: run
spec:
  model: { base: 'builtin:mini-base' }
  forestRef: { name: forest }
  stages: { sft: {} }
";
const FOREST: &str = "apiVersion: sealign.dev/v1alpha1
kind: TrajectoryForest
metadata:
  name: forest
spec:
  campaignRefs: [{ name: first }]
";

/// Admission is read once: that takes longer than any of these cases.
fn admission() -> &'static Admission {
    static ADMISSION: OnceLock<Admission> = OnceLock::new();
    ADMISSION.get_or_init(|| Admission::new().unwrap())
}

fn plan(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealign")).arg("plan").arg(path).output().unwrap()
}

/// What is said about a manifest, after the path; it has to be refused.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.yaml");
    std::fs::write(&path, bytes).unwrap();
    let read = documents::read(&path, admission());
    let error = read.and_then(|objects| documents::check_references(&path, &objects)).unwrap_err();
    let said = sealign_cli::error::chain(&error);
    let start = format!("{}: ", path.display());
    said.strip_prefix(&start).unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn a_refused_manifest_is_said_on_standard_error_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.yaml");
    std::fs::write(&path, TASK_SET.replace("count: 3", "count: 0")).unwrap();
    let output = plan(&path);
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "document 1 (TaskSet tasks): spec.source.mini.count: 0 is out of range; give 1 to 100000";
    assert_eq!(said.trim_end(), format!("error: {}: {expected}", path.display()));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

fn changed(text: &str, from: &str, to: &str) -> Vec<u8> {
    assert!(text.contains(from), "{from}");
    text.replace(from, to).into_bytes()
}

fn both(first: &str, second: &str) -> String {
    format!("{first}---\n{second}")
}

/// A broken manifest: the bytes, the field that the error has to name, and the remedy that it has to give.
type Broken = (Vec<u8>, &'static str, &'static str);

fn broken_files() -> Vec<Broken> {
    let at = |from: &str, to: &str| changed(TASK_SET, from, to);
    vec![
        (Vec::new(), "holds no object", "see manifests/quickstart.yaml"),
        (b"# nothing\n---\n".to_vec(), "holds no object", "see manifests/quickstart.yaml"),
        (b"spec: {a: [1, 2}\n".to_vec(), "document 1, line 1", "correct the YAML"),
        (both(TASK_SET, "kind: [\n").into_bytes(), "document 2, line", "correct the YAML"),
        (at("kind: TaskSet", "kind: TaskSet\nkind: TaskSet"), "line 3", "correct the YAML"),
        (b"just words\n".to_vec(), "(document)", "begin with `apiVersion:`"),
        (at("name: tasks", "name: t\u{0}sks"), "document 1", "correct the YAML"),
    ]
}

fn broken_frames() -> Vec<Broken> {
    let at = |from: &str, to: &str| changed(TASK_SET, from, to);
    vec![
        (at("kind: TaskSet\n", ""), "kind: is missing", "choose one of TaskSet"),
        (at("kind: TaskSet", "kind: TaskSett"), "kind: `TaskSett`", "did you mean `TaskSet`?"),
        (at("kind: TaskSet", "kind: Job"), "kind: `Job`", "choose one of TaskSet"),
        (
            at("sealign.dev/v1alpha1", "sealign.dev/v1"),
            "apiVersion: `sealign.dev/v1`",
            "write `sealign.dev/v1alpha1`",
        ),
        (
            at("apiVersion: sealign.dev/v1alpha1\n", ""),
            "apiVersion: is missing",
            "write `sealign.dev/v1alpha1`",
        ),
        (at("  name: tasks\n", "  generateName: tasks\n"), "metadata.generateName", "give metadata.name"),
        (
            at("name: tasks", "name: ../../etc/passwd"),
            "metadata.name: `../../etc/passwd`",
            "use lower-case letters",
        ),
        (at("name: tasks", "name: Tasks"), "metadata.name: `Tasks`", "use lower-case letters"),
        (at("name: tasks", "name: 3"), "metadata.name", "put it in quotes"),
        (at("name: tasks", "name: tasks\n  labels: { a: 'b c' }"), "metadata.labels.a", "at most 63 letters"),
    ]
}

fn broken_fields() -> Vec<Broken> {
    let at = |from: &str, to: &str| changed(TASK_SET, from, to);
    vec![
        (
            at("spec:\n  source:\n    mini: { split: Train, count: 3 }\n", "spec:\n"),
            "spec: is missing",
            "say what is wanted",
        ),
        (at("count: 3", "count: three"), "spec.source.mini.count", "write it without quotes"),
        (at("count: 3", "count: 0"), "spec.source.mini.count: 0 is out of range", "give 1 to 100000"),
        (at("count: 3", "count: 99999999999"), "spec.source.mini.count", "give 1 to 100000"),
        (at("count: 3", "count: 2.5"), "spec.source.mini.count", "without a fraction"),
        (at("count: 3", "cuont: 3"), "spec.source.mini.cuont", "did you mean `count`?"),
        (at("split: Train", "split: train"), "spec.source.mini.split: `train`", "did you mean `Train`?"),
        (at("mini: {", "mini: 1 #"), "spec.source.mini: must be a mapping", "indented below it"),
        (
            at("count: 3 }", "count: 3 }\n    humanEvalFix: { rows: 'file:x' }"),
            "spec.source",
            "exactly one of",
        ),
        (at("count: 3 }", "count: 3 }\n  artifacts: { path: ../up }"), "spec.artifacts", "must be relative"),
    ]
}

fn broken_objects() -> Vec<Broken> {
    let campaign = |from: &str, to: &str| changed(&both(TASK_SET, CAMPAIGN), from, to);
    let run = |from: &str, to: &str| changed(&both(&both(TASK_SET, CAMPAIGN), &both(FOREST, RUN)), from, to);
    vec![
        (both(TASK_SET, TASK_SET).into_bytes(), "document 2: metadata.name", "give it another name"),
        (
            campaign("taskSetRef: { name: tasks }", "taskSetRef: { name: task }"),
            "spec.taskSetRef.name",
            "did you mean `tasks`?",
        ),
        (
            campaign("taskSetRef: { name: tasks }", "taskSetRef: { name: a/b }"),
            "spec.taskSetRef.name: `a/b`",
            "pattern",
        ),
        (campaign("samplesPerTask: 2", "samplesPerTask: -1"), "spec.samplesPerTask: -1", "give 1 to 10000"),
        (
            campaign("scripted: { policy: strong }", "scripted: null"),
            "spec.policies[0].model",
            "exactly one of endpoint",
        ),
        (
            campaign(
                "  policies:\n    - name: strong\n      model: { scripted: { policy: strong } }\n",
                "  policies: []\n",
            ),
            "spec.policies: has 0 items",
            "give at least 1",
        ),
        (
            campaign(
                "    - name: strong",
                "    - name: strong\n      model: { scripted: { policy: weak } }\n    - name: strong",
            ),
            "spec.policies[1]",
            "make it unique",
        ),
        (
            run("forestRef: { name: forest }", "forestRef: { name: wood }"),
            "spec.forestRef.name",
            "add one to the manifest",
        ),
        (run("  forestRef: { name: forest }\n", ""), "spec: give either forestRef", "or campaign"),
        (
            run("sft: {}", "sft: { learningRate: 0.1 }"),
            "spec.stages.sft.learningRate",
            "put it in quotes: \"0.1\"",
        ),
        (run("sft: {}", "sft: { learningRate: 'fast' }"), "spec.stages.sft.learningRate: `fast`", "pattern"),
        (run("stages: { sft: {} }", "stages: {}"), "stages needs sft, dpo or both", "needs"),
        (run("builtin:mini-base", "mini-base"), "spec.model.base: `mini-base`", "pattern"),
    ]
}

#[test]
fn each_of_the_broken_manifests_gets_one_error_with_the_field_and_the_remedy() {
    let cases = [broken_files(), broken_frames(), broken_fields(), broken_objects()].concat();
    assert!(cases.len() >= 30);
    for (bytes, field, remedy) in cases {
        let said = refusal(&bytes);
        let shown = String::from_utf8_lossy(&bytes);
        assert!(said.contains(field), "no `{field}` in: {said}\n{shown}");
        assert!(said.contains(remedy), "no `{remedy}` in: {said}\n{shown}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_file_that_is_no_text_is_refused_at_its_first_bad_byte() {
    let mut bytes = TASK_SET.as_bytes().to_vec();
    bytes.splice(10..10, [0xff, 0xfe]);
    assert_eq!(refusal(&bytes), "byte 10 is not UTF-8; save the file as UTF-8 text");
}

#[test]
fn a_text_of_a_hundred_megabytes_is_refused_before_it_is_parsed() {
    let mut bytes = TASK_SET.replace("tasks\n", "\"").into_bytes();
    bytes.resize(100 << 20, b'x');
    let began = std::time::Instant::now();
    let said = refusal(&bytes);
    assert!(said.starts_with("has more than 1048576 bytes"), "{said}");
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn a_billion_laughs_and_a_deep_nest_are_refused() {
    let laughs = "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]
f: [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]\n";
    let said = refusal(laughs.as_bytes());
    assert!(said.contains("document 1"), "{said}");
    let nest = format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(refusal(nest.as_bytes()).contains("correct the YAML"));
}

#[test]
fn too_many_documents_are_refused() {
    let many =
        (0..101).map(|n| TASK_SET.replace("tasks", &format!("t{n}"))).collect::<Vec<_>>().join("---\n");
    let said = refusal(many.as_bytes());
    assert!(said.contains("100"), "{said}");
}

#[test]
fn a_missing_file_is_named() {
    let output = plan(Path::new("/no/such/manifest.yaml"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: /no/such/manifest.yaml: cannot be read; name a YAML file"), "{said}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_refused_manifest_leaves_no_state_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.yaml");
    std::fs::write(&path, TASK_SET.replace("count: 3", "count: 0")).unwrap();
    let state = folder.path().join("state");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealign"));
    let output = command.arg("run").arg(&path).arg("--state").arg(&state).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!state.exists());
}

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // What installs the operator is no work for it.
    paths.retain(|path| !path.ends_with("install.yaml"));
    paths.sort();
    paths
}

#[test]
fn every_manifest_that_we_ship_is_admitted_and_planned() {
    let paths = shipped();
    assert!(paths.iter().any(|path| path.ends_with("quickstart.yaml")));
    for path in paths {
        let objects = documents::read(&path, admission()).unwrap();
        assert!(!objects.is_empty());
        let output = plan(&path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_plan_says_whether_training_fits_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.yaml");
    let planned = |base: &str, trainer: &str| {
        let fields = format!("  stages: {{ sft: {{}}, dpo: {{}} }}\n  trainer: {trainer}\n");
        let run = RUN.replace("builtin:mini-base", base).replace("  stages: { sft: {} }\n", &fields);
        std::fs::write(&path, both(&both(TASK_SET, CAMPAIGN), &both(FOREST, &run))).unwrap();
        let output = plan(&path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let large = planned(
        "dir:/models/Qwen2.5-Coder-14B-Instruct",
        "{ gpusPerNode: 8, sharding: Everything, memoryMib: 1048576 }",
    );
    let line = large.lines().find(|line| line.starts_with("run: sft")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[2..6], ["14770033664", "14770033664", "8", "32768"], "{line}");
    assert_eq!(
        cells[6..],
        ["7.4", "7.4", "14.8", "7.3", "32.5", "7.6", "1.5", "1.0", "79.4", "80.0", "fits"]
    );
    assert!(
        large.contains("run: sft: reading and writing models takes 472.6 GB of a node's own memory"),
        "{large}"
    );
    assert!(large.contains("has not run on one yet"), "{large}");
    let whole = planned("dir:/models/Qwen2.5-Coder-14B-Instruct", "{ gpusPerNode: 4 }");
    assert!(
        whole.lines().any(|line| line.starts_with("run: dpo") && line.ends_with("does not fit")),
        "{whole}"
    );
    let unknown = planned("dir:/models/mine", "{}");
    assert!(unknown.contains("unknown model dir:/models/mine: no arithmetic"), "{unknown}");
}

#[test]
fn the_quickstart_is_one_collection_of_at_most_1500_attempts() {
    let path = shipped().into_iter().find(|path| path.ends_with("quickstart.yaml")).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_sealign")).arg("plan").arg(path).args(["--output", "json"]).output();
    let plan: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let collection = plan["objects"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|object| object["kind"] == "RolloutCampaign" && object["owner"] == "quickstart");
    let attempts: Vec<u64> = collection.map(|object| object["attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [1_440]);
}
