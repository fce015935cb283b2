//! What the loop asks of a model: complete a conversation.

use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::record::Usage;
use sealign_trajectory::Message;
use serde::{Deserialize, Serialize};

/// How completions are sampled. Part of a policy and so of every record's digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Probability mass of the nucleus; 1 leaves it off.
    pub top_p: f64,
    /// Most tokens of one completion; the context that is left may allow fewer.
    pub max_tokens: u32,
    /// Sent only when given: a server may take a penalty from the model's files, 1.0 switches that off, and servers
    /// other than vLLM may not know the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
}

impl Default for Sampling {
    /// Greedy, as OpenHands and the paper evaluate (specs 1.2).
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, max_tokens: 4096, repetition_penalty: None }
    }
}

/// One request for a completion.
#[derive(Clone, Copy, Debug)]
pub struct CompletionRequest<'request> {
    /// The conversation; its last message is not the assistant's.
    pub messages: &'request [Message],
    /// How to sample. `max_tokens` below replaces the one in here.
    pub sampling: &'request Sampling,
    /// Most tokens of this completion, at least 1.
    pub max_tokens: u32,
    /// Seed of this request.
    pub seed: u32,
    /// Texts that end the completion.
    pub stop: &'request [String],
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End of turn, or a stop sequence.
    Stop,
    /// `max_tokens` was reached; the text is incomplete.
    Length,
    /// Anything else that a server names.
    Other,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text as sampled. Where the server says which stop sequence ended it, that sequence is part of the text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens, as the server counts them; zeros from a scripted policy.
    pub usage: Usage,
    /// Time spent not in the completion itself but waiting for a server that was unreachable, loading or throttling, our
    /// own queue included. It does not count against an attempt's wall limit, and is never recorded.
    pub waited: Duration,
}

/// Why there is no completion.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The prompt does not fit the model's context. The model's doing, not a failure of infrastructure.
    #[error("the prompt does not fit the model's context")]
    ContextExceeded,
    /// The server did not answer as it should within the bounds of repetition.
    #[error("the model server gave no completion after {tries} tries: {reason}")]
    Unavailable {
        /// Tries made.
        tries: u32,
        /// Of the last try: a bounded line without secrets.
        reason: String,
    },
    /// The server kept throttling within the bounds of repetition.
    #[error(
        "the model server throttled {tries} tries in a row; lower the campaign's parallelism or its requests per minute"
    )]
    Throttled {
        /// Tries made.
        tries: u32,
    },
    /// The request cannot succeed as configured: endpoint, model name, credentials or a field that the server refuses.
    #[error(
        "the model server refused the request ({status}): {reason}; check endpoint, model name and API key"
    )]
    Configuration {
        /// HTTP status, or 0 when nothing was sent.
        status: u16,
        /// A bounded line of the server's words.
        reason: String,
    },
}

impl ModelError {
    /// Whether another attempt, later, may succeed without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Throttled { .. } => true,
            Self::ContextExceeded | Self::Configuration { .. } => false,
        }
    }
}

/// Completes conversations. Implementations repeat what may succeed when repeated, within bounds; the caller does not.
#[async_trait]
pub trait Model: Send + Sync {
    /// Completes the conversation.
    async fn complete(&self, request: &CompletionRequest<'_>) -> Result<Completion, ModelError>;

    /// Whether requests can be expected to succeed now; for readiness, without repetition.
    async fn ready(&self) -> Result<(), ModelError> {
        Ok(())
    }
}
