//! The parts of OpenAI's chat completions that are served, and vLLM's extras where clients rely on them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::{Answer, Finish};

/// Body of `POST /v1/chat/completions`. Members that change nothing here are ignored, those that would are refused.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatRequest {
    /// Name of the model; may be left out.
    #[serde(default)]
    pub model: Option<String>,
    /// The conversation.
    pub messages: Vec<Value>,
    /// 0 is greedy; OpenAI's default is 1.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Nucleus; 1 keeps all tokens.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Answer tokens at most.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// The newer name of `max_tokens`.
    #[serde(default)]
    pub max_completion_tokens: Option<usize>,
    /// One stop string or a list.
    #[serde(default)]
    pub stop: Option<StopStrings>,
    /// Seed of the draws.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Number of answers; only 1.
    #[serde(default)]
    pub n: Option<u32>,
    /// The answer as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// What events carry.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// Native tool calls; not served.
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    /// Only 1.
    #[serde(default)]
    pub repetition_penalty: Option<f64>,
    /// Log-probabilities; not served.
    #[serde(default)]
    pub logprobs: Option<bool>,
}

/// Options of server-sent events.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// A last event with the usage.
    #[serde(default)]
    pub include_usage: bool,
}

/// One stop string or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum StopStrings {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Stop strings of a request at most; every one is searched at every token.
pub const STOPS_MAX: usize = 16;

impl ChatRequest {
    /// Answer tokens at most, by either name.
    pub fn answer_limit(&self) -> Option<usize> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// The stop strings.
    pub fn stops(&self) -> Vec<String> {
        match &self.stop {
            None => Vec::new(),
            Some(StopStrings::One(stop)) => vec![stop.clone()],
            Some(StopStrings::Many(stops)) => stops.clone(),
        }
    }

    /// The name of a member that asks for something that is not served, with the remedy.
    pub fn refused(&self) -> Option<(&'static str, &'static str)> {
        let in_range =
            |value: Option<f64>, low: f64, high: f64| value.is_none_or(|value| (low..=high).contains(&value));
        [
            ("n", "must be 1; send one request per answer", self.n.is_none_or(|n| n == 1)),
            (
                "tools",
                "must be empty; describe the tools in the prompt",
                self.tools.as_ref().is_none_or(Vec::is_empty),
            ),
            ("repetition_penalty", "must be 1", in_range(self.repetition_penalty, 1.0, 1.0)),
            ("logprobs", "must be false", self.logprobs != Some(true)),
            ("temperature", "must be between 0 and 2", in_range(self.temperature, 0.0, 2.0)),
            (
                "top_p",
                "must be above 0 and at most 1",
                in_range(self.top_p, 0.0, 1.0) && self.top_p.is_none_or(|top_p| top_p > 0.0),
            ),
            ("max_tokens", "must be at least 1", self.answer_limit().is_none_or(|limit| limit >= 1)),
            ("stop", "must hold at most 16 strings", self.stops().len() <= STOPS_MAX),
            ("messages", "must not be empty", !self.messages.is_empty()),
        ]
        .into_iter()
        .find_map(|(field, remedy, holds)| (!holds).then_some((field, remedy)))
    }
}

/// Body of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct ChatResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: [Choice; 1],
    usage: Usage,
}

#[derive(Clone, Debug, Serialize)]
struct Choice {
    index: u32,
    message: AnswerMessage,
    finish_reason: &'static str,
    stop_reason: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: String,
}

#[derive(Clone, Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokens,
}

#[derive(Clone, Debug, Serialize)]
struct PromptTokens {
    cached_tokens: usize,
}

/// OpenAI's word for why an answer ended.
pub fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn | Finish::StopString(_) => "stop",
        Finish::Length => "length",
    }
}

impl ChatResponse {
    /// The response to a request with the given prompt length.
    pub fn new(id: String, created: u64, model: String, prompt_tokens: usize, answer: Answer) -> Self {
        let finish_reason = reason(&answer.finish);
        let stop_reason = match answer.finish {
            Finish::StopString(stop) => Some(stop),
            Finish::EndOfTurn | Finish::Length => None,
        };
        let message = AnswerMessage { role: "assistant", content: answer.text };
        Self {
            id,
            object: "chat.completion",
            created,
            model,
            choices: [Choice { index: 0, message, finish_reason, stop_reason }],
            usage: Usage {
                prompt_tokens,
                completion_tokens: answer.tokens,
                total_tokens: prompt_tokens + answer.tokens,
                prompt_tokens_details: PromptTokens { cached_tokens: answer.cached_tokens },
            },
        }
    }
}
