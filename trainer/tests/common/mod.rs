//! Small random models and data for the trainer's tests.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};

use sealign_batch::{Encoded, EncodedPair};
use sealign_trainer::model::{Decoder, ModelConfig, init};
use sealign_trainer::train::data::Example;
use serde_json::{Value, json};

/// Tokens of the byte-level test tokenizer: 256 bytes and three control tokens, padded to a round number.
pub const VOCAB: usize = 272;

/// `config.json` of a tiny model.
pub fn config(family: &str, heads: usize, kv_heads: usize, tied: bool) -> Value {
    json!({
        "model_type": family, "architectures": ["X"], "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": tied, "hidden_act": "silu", "max_position_embeddings": 4096,
        "initializer_range": 0.2, "eos_token_id": 257,
    })
}

/// A random trainable model.
pub fn model(document: &Value, seed: u64) -> Decoder {
    let config = ModelConfig::from_value(document).unwrap();
    let weights = init::random(&config, seed).unwrap();
    Decoder::trainable(config, weights)
}

/// A small deterministic number stream.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(below)).unwrap()
    }

    pub fn ids(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next(250)).collect()
    }
}

/// A sequence with loss on its last `trained` tokens.
pub fn encoded(ids: Vec<u32>, trained: usize) -> Encoded {
    let plain = ids.len() - trained;
    let weights = (0..ids.len()).map(|index| if index >= plain { 1.0 } else { 0.0 }).collect();
    Encoded { ids, weights, turn_ends: Vec::new() }
}

/// Pairs along one trajectory, as critical decisions are, and trajectories that share a prompt.
pub fn examples() -> Vec<Example> {
    let mut numbers = Numbers(7);
    let trunk = numbers.ids(40);
    let mut examples = Vec::new();
    for depth in [10, 20, 33, 40] {
        let side = |len: usize, numbers: &mut Numbers| {
            let mut ids = trunk[..depth].to_vec();
            ids.extend(numbers.ids(len));
            encoded(ids, len)
        };
        let (chosen, rejected) = (side(5, &mut numbers), side(8, &mut numbers));
        examples.push(Example::Pair(EncodedPair { chosen, rejected }));
    }
    for len in [9, 17] {
        let mut ids = trunk[..15].to_vec();
        ids.extend(numbers.ids(len));
        examples.push(Example::Trajectory(encoded(ids, len + 6)));
    }
    examples.push(Example::Trajectory(encoded(numbers.ids(25), 12)));
    examples
}

/// Writes a byte-level `tokenizer.json` with ChatML's control tokens.
pub fn write_tokenizer(folder: &Path) {
    let mut vocab = serde_json::Map::new();
    for (byte, character) in byte_characters().into_iter().enumerate() {
        vocab.insert(character.to_string(), json!(byte));
    }
    let control = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let document = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [control(256, "<|im_start|>"), control(257, "<|im_end|>"), control(258, "<|endoftext|>")],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    });
    std::fs::write(folder.join("tokenizer.json"), document.to_string()).unwrap();
}

/// The printable stand-ins of bytes that byte-level tokenizers use.
fn byte_characters() -> Vec<char> {
    let mut spare = 256_u32;
    (0_u32..256)
        .map(|byte| {
            let printable =
                (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
            let code = if printable { byte } else { spare };
            spare += u32::from(!printable);
            char::from_u32(code).unwrap()
        })
        .collect()
}

/// A model folder with random weights and the byte-level tokenizer.
pub fn model_folder(parent: &Path, name: &str, document: &Value, seed: u64) -> PathBuf {
    let folder = parent.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    write_tokenizer(&folder);
    let model = model(document, seed);
    sealign_trainer::train::export::write_layout(
        &folder,
        &model,
        sealign_trainer::model::tensors::SaveType::F32,
    )
    .unwrap();
    folder
}

/// SFT rows: `tasks` tasks with two trajectories each, whose answers can be learnt.
pub fn write_sft(path: &Path, tasks: usize) {
    let mut text = String::new();
    for task in 0..tasks {
        for sample in 0..2 {
            let row = json!({"instance_id": format!("task-{task}"), "trajectory_id": format!("task-{task}/{sample}"),
            "messages": [
                {"role": "user", "content": format!("say {}", task % 5)},
                {"role": "assistant", "content": "look"},
                {"role": "user", "content": format!("seen {sample}")},
                {"role": "assistant", "content": format!("said {}", task % 5)},
            ]});
            text.push_str(&row.to_string());
            text.push('\n');
        }
    }
    std::fs::write(path, text).unwrap();
}

/// Preference rows: two decisions a task on one prefix.
pub fn write_pairs(path: &Path, tasks: usize) {
    let mut text = String::new();
    for task in 0..tasks {
        let mut prompt = vec![json!({"role": "user", "content": format!("say {}", task % 5)})];
        for depth in 0..2 {
            let row = json!({"instance_id": format!("task-{task}"), "node_id": format!("task-{task}/{depth}"),
                "prompt": prompt, "chosen": [{"role": "assistant", "content": "look first"}],
                "rejected": [{"role": "assistant", "content": "give up now"}], "depth": depth});
            text.push_str(&row.to_string());
            text.push('\n');
            prompt.push(json!({"role": "assistant", "content": "look"}));
            prompt.push(json!({"role": "user", "content": format!("seen {depth}")}));
        }
    }
    std::fs::write(path, text).unwrap();
}

/// A folder with a model of three layers, 24 attempts (`sft.jsonl`) and 24 pairs (`pairs.jsonl`), and the model's own folder.
pub fn training_folder(tied: bool) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = model_folder(folder.path(), "base", &config("qwen2", 4, 2, tied), 11);
    write_sft(&folder.path().join("sft.jsonl"), 24);
    write_pairs(&folder.path().join("pairs.jsonl"), 24);
    (folder, model)
}

/// What a computation gives, and by how many bytes the process's resident memory grew over its start meanwhile at most.
pub fn growth<T>(work: impl FnOnce() -> T) -> (T, u64) {
    // Sets the largest resident memory to the present one.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = sealign_trainer::process::peak_rss_bytes();
    let result = work();
    (result, sealign_trainer::process::peak_rss_bytes() - before)
}
