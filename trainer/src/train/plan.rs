//! What is fixed before a run starts: the digest of its inputs, its steps, its learning rates.

use std::collections::BTreeMap;
use std::path::Path;

use sealign_batch::order::epoch_steps;
use sealign_manifest::Digest;

use super::checkpoint::digest_file;
use super::data::{Data, ExampleSet};
use super::run::RunError;
use super::settings::{StageSettings, TrainConfig};
use crate::model::directory;
use crate::optim::{AdamWSettings, Schedule};

/// Digests of everything that the result depends on; `run` is over all the others.
pub fn input_digests(
    config: &TrainConfig,
    tokenizer_folder: &Path,
    data: &Data,
) -> Result<BTreeMap<String, Digest>, RunError> {
    let mut digests = data.digests.clone();
    digests.insert("model/config.json".to_owned(), digest_file(&config.model.join("config.json"))?);
    for file in directory::weight_files(&config.model)? {
        digests.insert(format!("model/{file}"), digest_file(&config.model.join(&file))?);
    }
    for name in ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja"]
    {
        let path = tokenizer_folder.join(name);
        if path.exists() {
            digests.insert(format!("tokenizer/{name}"), digest_file(&path)?);
        }
    }
    // Threads, processes and memory are the machines' business; sums they may reorder are far below what a setting changes.
    let plain = StageSettings::new(config.settings.stage);
    let settings = StageSettings {
        threads: plain.threads,
        sharding: plain.sharding,
        recompute: plain.recompute,
        collective_timeout_seconds: plain.collective_timeout_seconds,
        ..config.settings.clone()
    };
    let text = serde_json::to_vec(&settings).unwrap_or_default();
    digests.insert("settings".to_owned(), Digest::of_bytes(&text));
    let all = serde_json::to_vec(&digests).unwrap_or_default();
    digests.insert("run".to_owned(), Digest::of_bytes(&all));
    Ok(digests)
}

/// The steps of all epochs, and after how many steps each epoch ends. A run that is cut short by `maxSteps` ends an epoch
/// there, so that it is evaluated.
pub fn plan(settings: &StageSettings, train: &ExampleSet) -> (Vec<Vec<usize>>, Vec<usize>) {
    let limit = settings.max_steps.unwrap_or(usize::MAX);
    let tasks: Vec<&str> = train.tasks.iter().map(String::as_str).collect();
    let (mut steps, mut ends) = (Vec::new(), Vec::new());
    for epoch in 0..settings.max_epochs {
        if steps.len() >= limit {
            break;
        }
        let epoch = epoch as u64;
        steps.extend(epoch_steps(
            settings.seed,
            epoch,
            &train.lengths,
            &tasks,
            settings.grouping,
            settings.batch,
        ));
        steps.truncate(limit);
        ends.push(steps.len());
    }
    (steps, ends)
}

/// The learning rates of a run.
pub fn schedule(settings: &StageSettings, total_steps: usize) -> Schedule {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a step count is a small non-negative number"
    )]
    let warmup_steps = (settings.warmup_ratio * total_steps as f64).ceil() as usize;
    Schedule {
        kind: settings.schedule,
        peak: settings.peak_rate(),
        floor_share: settings.floor_share,
        warmup_steps,
        total_steps,
    }
}

/// The optimiser's constants.
pub fn adamw(settings: &StageSettings) -> AdamWSettings {
    AdamWSettings {
        beta1: settings.adam_beta1,
        beta2: settings.adam_beta2,
        epsilon: settings.adam_epsilon,
        weight_decay: settings.weight_decay,
    }
}
