//! Training steps as pods run them: inputs, checkpoints and results are in a store, adapters among them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{config, model_folder, write_pairs, write_sft};
use sealign_crds::alignment_run::{DpoStage, SftStage, TrainerSpec};
use sealign_manifest::group::{ForestManifest, OutputRef};
use sealign_manifest::train::{AdapterManifest, ModelManifest, ModelSource, TrainStep};
use sealign_manifest::{Digest, ObjectKeys};
use sealign_plan::config::{CONFIG_VARIABLE, STORE_VARIABLE, WorkerConfig};
use sealign_plan::settings;
use sealign_trainer::model::tensors;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tch::Tensor;

const FOREST: &str = "demo/trajectoryforests/forest-0a0b0c0d";

/// A store with a forest, and a model beside it.
struct Place {
    folder: tempfile::TempDir,
    keys: ObjectKeys,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        model_folder(folder.path(), "base", &config("qwen2", 4, 2, true), 11);
        let place = Self { folder, keys: ObjectKeys::new("demo/alignmentruns/run-1a2b3c4d") };
        let forest = place.path(FOREST);
        std::fs::create_dir_all(&forest).unwrap();
        write_sft(&forest.join("sft.jsonl"), 24);
        write_pairs(&forest.join("dpo.jsonl"), 24);
        let output = |name: &str| {
            let file = format!("{name}.jsonl");
            let bytes = std::fs::read(forest.join(&file)).unwrap();
            (name.to_owned(), OutputRef { file, digest: Digest::of_bytes(&bytes), bytes: bytes.len() as u64 })
        };
        let manifest = ForestManifest {
            inputs: BTreeMap::new(),
            options: Digest::of_bytes(b""),
            outputs: BTreeMap::from([output("sft"), output("dpo")]),
            statistics: Value::Null,
            sft_examples: 48,
            pairs: 48,
        };
        std::fs::write(forest.join("forest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        place
    }

    /// The file of a key: the store is a folder.
    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("store").join(key)
    }

    fn read<T: DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_slice(&std::fs::read(self.path(key)).unwrap()).unwrap()
    }

    fn tensors(&self, key: &str) -> BTreeMap<String, Tensor> {
        tensors::read(&self.path(key)).unwrap()
    }

    /// Runs one round of the step `name`; it has to end well.
    fn train(&self, name: &str, model: ModelSource, settings: Value) -> String {
        let Output { status, stdout, stderr } = self.start(name, model, settings);
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn start(&self, name: &str, model: ModelSource, settings: Value) -> Output {
        let step = TrainStep {
            keys: self.keys.step(name),
            name: name.to_owned(),
            model,
            forest: format!("{FOREST}/forest.json"),
            settings,
            round: 0,
        };
        Command::new(env!("CARGO_BIN_EXE_sealign-trainer"))
            .arg("step")
            .env(CONFIG_VARIABLE, serde_json::to_string(&WorkerConfig::Train(step)).unwrap())
            .env(STORE_VARIABLE, format!("file://{}", self.path("").display()))
            .env("OMP_WAIT_POLICY", "passive")
            .output()
            .unwrap()
    }

    fn base(&self) -> ModelSource {
        ModelSource::Directory(self.folder.path().join("base").display().to_string())
    }
}

fn optimization() -> Value {
    json!({ "maxEpochs": 4, "tokensPerStep": 700, "contextTokens": 400, "validationPercent": 20, "checkpointSteps": 2 })
}

fn lora() -> TrainerSpec {
    serde_json::from_value(json!({ "lora": { "rank": 4, "alpha": 8 } })).unwrap()
}

fn sft_settings(trainer: &TrainerSpec) -> Value {
    let stage: SftStage =
        serde_json::from_value(json!({ "learningRate": "2e-2", "optimization": optimization() })).unwrap();
    settings::sft(&stage, trainer, 3)
}

fn dpo_settings(trainer: &TrainerSpec) -> Value {
    let fields = json!({ "learningRate": "5e-3", "sftExamplesPerStep": 2, "optimization": optimization() });
    let stage: DpoStage = serde_json::from_value(fields).unwrap();
    settings::dpo(&stage, trainer, 3)
}

fn difference(left: &Tensor, right: &Tensor) -> f64 {
    (left - right).abs().max().double_value(&[])
}

#[test]
fn an_adapter_is_merged_into_the_stages_model_and_lies_beside_it_and_the_next_stage_goes_on_from_there() {
    let place = Place::new();
    place.train("sft", place.base(), sft_settings(&lora()));
    let sft = place.keys.step("sft");
    let model: ModelManifest = place.read(&sft.model());
    let adapter: AdapterManifest = place.read(&sft.adapter());
    for (folder, files) in [("model", &model.files), ("adapter", &adapter.files)] {
        for file in files.values() {
            let bytes = std::fs::read(place.path(&sft.join(&format!("{folder}/{}", file.file)))).unwrap();
            assert_eq!(Digest::of_bytes(&bytes), file.digest, "{folder}/{}", file.file);
        }
    }
    assert_eq!(adapter.inputs["model/model.safetensors"], model.inputs["model/model.safetensors"]);
    let document: Value = place.read(&sft.join("adapter/adapter_config.json"));
    assert_eq!(document["base_model_name_or_path"], json!(place.folder.path().join("base")));
    let base = tensors::read(&place.folder.path().join("base/model.safetensors")).unwrap();
    let (merged, update) = (
        place.tensors(&sft.join("model/model.safetensors")),
        place.tensors(&sft.join("adapter/adapter_model.safetensors")),
    );
    let name = "model.layers.1.mlp.down_proj";
    let side = |side: &str| &update[&format!("base_model.model.{name}.lora_{side}.weight")];
    let product = side("B").matmul(side("A")) * 2.0;
    let name = format!("{name}.weight");
    assert!(difference(&merged[&name], &base[&name]) > 1e-3, "nothing was learnt");
    assert!(difference(&merged[&name], &(&base[&name] + product)) < 1e-6);

    place.train("dpo-0", ModelSource::Manifest(sft.model()), dpo_settings(&lora()));
    let dpo = place.keys.step("dpo-0");
    let preferred: ModelManifest = place.read(&dpo.model());
    assert_eq!(preferred.inputs["model/model.safetensors"], model.files["model.safetensors"].digest);
    assert!(preferred.metrics["accuracy"].as_f64().unwrap() > 0.9, "{:?}", preferred.metrics);
    let document: Value = place.read(&dpo.join("adapter/adapter_config.json"));
    assert_eq!(document["base_model_name_or_path"], json!(format!("artifact:{}", sft.model())));
    let last = place.tensors(&dpo.join("model/model.safetensors"));
    assert!(difference(&last[&name], &merged[&name]) > 1e-5);
}

#[test]
fn an_adapter_step_goes_on_from_its_newest_whole_checkpoint_and_ends_with_the_same_bytes() {
    let place = Place::new();
    let first = place.train("sft", place.base(), sft_settings(&lora()));
    assert!(!first.contains("resuming"), "{first}");
    let sft = place.keys.step("sft");
    let results = |place: &Place| {
        let model: ModelManifest = place.read(&sft.model());
        let adapter: AdapterManifest = place.read(&sft.adapter());
        (model.files, model.metrics, adapter)
    };
    let expected = results(&place);
    for folder in ["model", "adapter", "lineage"] {
        std::fs::remove_dir_all(place.path(&sft.join(folder))).unwrap();
    }
    // The newest one is torn, as by a crash within its last upload.
    let checkpoints = place.path(&sft.join("checkpoints"));
    let steps = std::fs::read_dir(&checkpoints).unwrap();
    let mut steps: Vec<u64> =
        steps.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    steps.sort_unstable();
    let newest = steps.pop().unwrap();
    std::fs::remove_file(checkpoints.join(newest.to_string()).join("manifest.json")).unwrap();
    let again = place.train("sft", place.base(), sft_settings(&lora()));
    let resumed = format!("resuming after step {}", steps.last().unwrap());
    assert!(again.contains(&resumed), "{again}");
    assert_eq!(results(&place), expected);
    let done = place.train("sft", place.base(), sft_settings(&lora()));
    assert!(done.contains("already complete"), "{done}");
}

#[test]
fn a_step_that_trains_all_weights_has_no_adapter_and_bad_data_is_left_as_a_rejection() {
    let place = Place::new();
    place.train("sft", place.base(), sft_settings(&TrainerSpec::default()));
    let sft = place.keys.step("sft");
    assert!(place.path(&sft.model()).exists() && !place.path(&sft.adapter()).exists());

    let forest = place.path(FOREST).join("forest.json");
    let mut manifest: ForestManifest = serde_json::from_slice(&std::fs::read(&forest).unwrap()).unwrap();
    manifest.outputs.remove("dpo");
    std::fs::write(&forest, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let refused = place.start("dpo-0", ModelSource::Manifest(sft.model()), dpo_settings(&lora()));
    assert_eq!(refused.status.code(), Some(64));
    let rejection: Value = place.read(&place.keys.step("dpo-0").rejection("dpo-0"));
    assert!(rejection["message"].as_str().unwrap().contains("no output `dpo`"), "{rejection}");
}
