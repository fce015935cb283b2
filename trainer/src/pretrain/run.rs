//! Three stages: copying drills, whole attempts, commits among attempts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sealign_base::{TextError, texts};
use sealign_batch::conversation::EncodeError;
use sealign_batch::tokenizer::TokenizerError;
use sealign_batch::{ChatFormat, Layout, Tokenizer};
use sealign_manifest::Digest;
use serde_json::{Value, json};

use super::competence;
use super::corpus::{Deck, drills, encode};
use super::structured::{self, StructureError};
use super::vocabulary::{self, VocabularyError};
use crate::loss::dpo::{Preference, PreferenceLoss};
use crate::loss::sft::Reduction;
use crate::model::config::{ConfigError, ModelConfig};
use crate::model::tensors::SaveType;
use crate::model::{Decoder, Recompute};
use crate::optim::{AdamW, AdamWSettings, Schedule, ScheduleKind};
use crate::train::checkpoint::CheckpointError;
use crate::train::data::Example;
use crate::train::export::{Provenance, write_model};
use crate::train::step::{Computation, Objective, StepExample, compute};

/// Tokens of one optimiser step.
const STEP_TOKENS: usize = 3_000;
/// Vocabulary of the base model.
const VOCABULARY: usize = 1_024;
/// Context of the base model.
const CONTEXT: usize = 768;
/// Optimiser steps of copying drills; fewer where all the rest is shorter than that.
const DRILL_STEPS: usize = 80;
/// Share of the tokens after the drills that whole attempts alone get.
const READING_SHARE: f64 = 0.15;
/// Share of the commit stage's tokens that commits get; the rest are whole attempts.
const COMMIT_SHARE: f64 = 0.8;
/// Fresh commits that competence is measured on at most.
const FRESH_COMMITS: usize = 500;
/// Peak learning rates of the three stages.
const RATES: [f64; 3] = [3e-3, 3e-3, 2e-3];
/// Tokens of a whole attempt and of a commit, about: how many texts to generate follows from it.
const TEXT_TOKENS: usize = 150;

/// What is pretrained.
#[derive(Clone, Debug)]
pub struct PretrainSettings {
    /// Seed of texts, weights and order.
    pub seed: u32,
    /// Tokens after the drills.
    pub tokens: usize,
    /// Folder that the model goes to.
    pub out: PathBuf,
    /// Command that made it, for the provenance.
    pub command: String,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Pretrained {
    /// Digest of the weights file.
    pub digest: Digest,
    /// Optimiser steps.
    pub steps: usize,
    /// Share of fresh commits whose edit greedy decoding writes exactly.
    pub exact_share: f64,
}

/// Why there is no base model.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// Texts cannot be generated.
    #[error("the texts cannot be generated")]
    Texts(#[from] TextError),
    /// The tokenizer cannot be trained.
    #[error("the tokenizer cannot be made")]
    Vocabulary(#[from] VocabularyError),
    /// Its own file does not read back.
    #[error("the tokenizer cannot be read back")]
    Tokenizer(#[from] TokenizerError),
    /// A text cannot be encoded.
    #[error("a text cannot be encoded")]
    Encode(#[from] EncodeError),
    /// The configuration is wrong.
    #[error("the model's configuration is wrong")]
    Config(#[from] ConfigError),
    /// The weights cannot be initialised.
    #[error("the weights cannot be initialised")]
    Structure(#[from] StructureError),
    /// The folder cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The model cannot be saved.
    #[error("the model cannot be saved")]
    Save(#[from] CheckpointError),
    /// The loss is no longer a number.
    #[error("the loss stopped being finite at step {0}")]
    Diverged(usize),
}

/// Pretrains the base model. `say` gets a line for people now and then.
///
/// # Errors
/// [`PretrainError`].
pub fn pretrain(settings: &PretrainSettings, say: &mut dyn FnMut(&str)) -> Result<Pretrained, PretrainError> {
    let seed = settings.seed;
    let count = (settings.tokens / TEXT_TOKENS).max(400);
    let attempts = texts::attempts(seed, count, texts::READING)?;
    let commits = texts::commits(seed, count)?;
    say(&format!("{} attempts and {} commits generated", attempts.len(), commits.len()));
    let contents = attempts.iter().chain(&commits).flat_map(|text| &text.messages);
    let tokenizer_json = vocabulary::train(contents.map(|message| message.content.as_str()), VOCABULARY)?;
    let tokenizer = Tokenizer::from_json(tokenizer_json.as_bytes())?;
    let format = ChatFormat::chat_ml();
    let reading = encode(&tokenizer, &format, &attempts, CONTEXT)?;
    let editing = encode(&tokenizer, &format, &commits, CONTEXT)?;
    let fresh = texts::commits(seed.wrapping_add(0x00F2_E540), count.min(FRESH_COMMITS * 2))?;
    let mut fresh = encode(&tokenizer, &format, &fresh, CONTEXT)?;
    fresh.truncate(FRESH_COMMITS);
    let config = ModelConfig::from_value(&config_document())?;
    let weights = structured::induction(&config, u64::from(seed))?;
    let model = Decoder::trainable(config, weights);
    let mut course = Course::new(&model, u64::from(seed), say);
    course.drill(DRILL_STEPS.min(settings.tokens / STEP_TOKENS))?;
    let reading_tokens = scaled(settings.tokens, READING_SHARE);
    course.read(&reading, reading_tokens)?;
    course.commit(&reading, &editing, &fresh, settings.tokens.saturating_sub(reading_tokens))?;
    let steps = course.steps;
    let exact_share = share(competence::exact(&model, &fresh));
    say(&format!("exact edits on {} fresh commits: {:.1} %", fresh.len(), 100.0 * exact_share));
    let digest = save(settings, &model, &tokenizer_json, steps, exact_share)?;
    Ok(Pretrained { digest, steps, exact_share })
}

/// The optimiser's way through the stages.
struct Course<'model, 'say> {
    model: &'model Decoder,
    optimizer: AdamW,
    seed: u64,
    steps: usize,
    say: &'say mut dyn FnMut(&str),
}

impl<'model, 'say> Course<'model, 'say> {
    fn new(model: &'model Decoder, seed: u64, say: &'say mut dyn FnMut(&str)) -> Self {
        let constants = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weight_decay: 0.01 };
        Self { model, optimizer: AdamW::new(constants, &model.weights), seed, steps: 0, say }
    }

    fn drill(&mut self, count: usize) -> Result<(), PretrainError> {
        let schedule = stage_schedule(0, count, ScheduleKind::Constant);
        for step in 0..count {
            let examples = drills(self.seed, step as u64, STEP_TOKENS, VOCABULARY);
            let loss = self.step(&examples.iter().collect::<Vec<_>>(), schedule.rate(step))?;
            self.report("drill", step, count, loss);
        }
        Ok(())
    }

    fn read(&mut self, reading: &[Example], tokens: usize) -> Result<(), PretrainError> {
        let count = (tokens / STEP_TOKENS).max(1);
        let schedule = stage_schedule(1, count, ScheduleKind::Constant);
        let mut deck = Deck::new(reading, self.seed ^ 1);
        for step in 0..count {
            let loss = self.step(&deck.deal(STEP_TOKENS), schedule.rate(step))?;
            self.report("read", step, count, loss);
        }
        Ok(())
    }

    fn commit(
        &mut self,
        reading: &[Example],
        editing: &[Example],
        fresh: &[Example],
        tokens: usize,
    ) -> Result<(), PretrainError> {
        let count = (tokens / STEP_TOKENS).max(1);
        let schedule = stage_schedule(2, count, ScheduleKind::Cosine);
        let mut attempts = Deck::new(reading, self.seed ^ 2);
        let mut commits = Deck::new(editing, self.seed ^ 3);
        let commit_tokens = scaled(STEP_TOKENS, COMMIT_SHARE);
        for step in 0..count {
            let mut hand = commits.deal(commit_tokens);
            hand.extend(attempts.deal(STEP_TOKENS - commit_tokens));
            let loss = self.step(&hand, schedule.rate(step))?;
            self.report("commit", step, count, loss);
            if (step + 1) % 200 == 0 {
                let exact = share(competence::exact(self.model, fresh));
                (self.say)(&format!("exact edits on fresh commits: {:.1} %", 100.0 * exact));
            }
        }
        Ok(())
    }

    fn step(&mut self, examples: &[&Example], rate: f64) -> Result<f64, PretrainError> {
        let objective = Objective {
            reduction: Reduction::TokenMean,
            trajectory_weight: 1.0,
            preference: Preference {
                loss: PreferenceLoss::default(),
                beta: 0.1,
                label_smoothing: 0.0,
                length_normalized: false,
            },
        };
        let computation = Computation {
            layout: Layout::Linear,
            recompute: Recompute::Nothing,
            microbatch_tokens: 2 * STEP_TOKENS,
        };
        let members: Vec<StepExample<'_>> =
            examples.iter().map(|example| StepExample { example, reference: None }).collect();
        self.model.weights.zero_gradients();
        let figures = compute(self.model, &members, &objective, &computation, true);
        let norm = self.optimizer.step(&self.model.weights, rate, 1.0);
        self.steps += 1;
        if figures.loss.is_finite() && norm.is_finite() {
            Ok(figures.loss)
        } else {
            Err(PretrainError::Diverged(self.steps))
        }
    }

    fn report(&mut self, stage: &str, step: usize, count: usize, loss: f64) {
        if (step + 1).is_multiple_of(20) || step + 1 == count {
            (self.say)(&format!("{stage} {}/{count}: loss {loss:.4}", step + 1));
        }
    }
}

fn stage_schedule(stage: usize, steps: usize, kind: ScheduleKind) -> Schedule {
    let peak = RATES.get(stage).copied().unwrap_or(2e-3);
    Schedule { kind, peak, floor_share: 0.05, warmup_steps: (steps / 20).min(10), total_steps: steps }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "token counts stay far below 2^53, shares are between 0 and 1"
)]
fn scaled(count: usize, share: f64) -> usize {
    (count as f64 * share) as usize
}

#[expect(clippy::cast_precision_loss, reason = "counts of examples are small")]
fn share((hits, total): (usize, usize)) -> f64 {
    hits as f64 / total.max(1) as f64
}

/// The shape of the base model: 0.94 million parameters.
fn config_document() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": true,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "use_sliding_window": false,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    })
}

/// ChatML without a default system message.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn save(
    settings: &PretrainSettings,
    model: &Decoder,
    tokenizer_json: &str,
    steps: usize,
    exact_share: f64,
) -> Result<Digest, PretrainError> {
    let folder = settings.out.with_extension("tokenizer");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|source| PretrainError::Write { path, source })
    };
    std::fs::create_dir_all(&folder)
        .map_err(|source| PretrainError::Write { path: folder.clone(), source })?;
    write("tokenizer.json", tokenizer_json)?;
    write("tokenizer_config.json", &tokenizer_config().to_string())?;
    let metrics: BTreeMap<String, Value> = BTreeMap::from([
        ("command".to_owned(), settings.command.clone().into()),
        ("seed".to_owned(), settings.seed.into()),
        ("tokens".to_owned(), settings.tokens.into()),
        ("exactEditsOnFreshCommits".to_owned(), exact_share.into()),
        ("parameters".to_owned(), model.config.parameters().into()),
    ]);
    let provenance = Provenance { inputs: BTreeMap::new(), step: steps, steps, metrics };
    let manifest = write_model(&settings.out, model, &folder, SaveType::Bf16, provenance)?;
    remove(&folder)?;
    let weights = manifest.files.get("model.safetensors").map(|entry| entry.digest.clone());
    Ok(weights.unwrap_or_else(|| Digest::of_bytes(b"")))
}

fn remove(folder: &Path) -> Result<(), PretrainError> {
    std::fs::remove_dir_all(folder).map_err(|source| PretrainError::Write { path: folder.to_owned(), source })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": null,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    })
}
