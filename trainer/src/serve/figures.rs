//! The server's counters on `/metrics`. The names are listed in `docs/trainer.md`.

use prometheus::{IntCounter, IntGauge, Registry};

use super::engine::Answer;

/// Counters since the start.
#[derive(Debug)]
pub struct ServeFigures {
    registry: Registry,
    running: IntGauge,
    answered: IntCounter,
    refused: IntCounter,
    prompt_tokens: IntCounter,
    cached_tokens: IntCounter,
    answer_tokens: IntCounter,
}

/// A request that counts as running until this is dropped.
#[derive(Debug)]
pub struct Running(IntGauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ServeFigures {
    /// All zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let running = IntGauge::new("sealign_serve_running", "Requests that are being answered")?;
        let figures = Self {
            answered: counter("sealign_serve_answered_total", "Answers that were finished")?,
            refused: counter("sealign_serve_refused_total", "Requests that got no answer")?,
            prompt_tokens: counter("sealign_serve_prompt_tokens_total", "Tokens of answered prompts")?,
            cached_tokens: counter(
                "sealign_serve_cached_tokens_total",
                "Tokens of answered prompts that were not computed again",
            )?,
            answer_tokens: counter("sealign_serve_answer_tokens_total", "Tokens generated")?,
            running: running.clone(),
            registry: registry.clone(),
        };
        registry.register(Box::new(running))?;
        Ok(figures)
    }

    /// Counts a request as running.
    pub fn begin(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// Counts an answer.
    pub fn count(&self, prompt_tokens: usize, answer: &Answer) {
        self.answered.inc();
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.cached_tokens.inc_by(answer.cached_tokens as u64);
        self.answer_tokens.inc_by(answer.tokens as u64);
    }

    /// Counts a request without an answer.
    pub fn count_refusal(&self) {
        self.refused.inc();
    }

    /// All counters in Prometheus' text form.
    pub fn text(&self) -> String {
        crate::train::metrics::text(&self.registry)
    }
}
