//! The decoding loop: one thread that owns the model.
//!
//! Each turn of the loop takes new requests up to the batch limit, extends every active sequence (a chunk of a prompt, or the
//! token drawn last) in one forward pass, and draws the next token of those whose prompt is done.

use std::collections::VecDeque;
use std::sync::Arc;

use sealign_batch::Tokenizer;
use tch::Tensor;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::batch::{Extension, extend};
use super::cache::{PrefixCache, Sequence};
use super::sampling::{Sampler, Sampling};
use super::text::AnswerText;
use crate::model::Decoder;

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Requests decoded together.
    pub batch_max: usize,
    /// Prompt tokens of one forward pass, so that long prompts do not hold up the others.
    pub prompt_tokens_max: usize,
    /// Memory for finished sequences, in bytes.
    pub cache_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { batch_max: 64, prompt_tokens_max: 2048, cache_bytes: 1 << 30 }
    }
}

/// Requests that wait for the engine at most; more are refused as overload.
const QUEUE_MAX: usize = 1024;

/// Pieces of an answer that wait for a slow client at most; a longer answer is held up in larger pieces.
const PIECES_MAX: usize = 65_536;

/// What a request wants.
#[derive(Debug)]
pub struct Request {
    /// Prompt tokens, at least one; prompt and answer fit the context.
    pub prompt: Vec<u32>,
    /// Answer tokens at most, at least one.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the answer.
    pub stops: Vec<String>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string appeared; it is not part of the text.
    StopString(String),
    /// `max_tokens` were generated.
    Length,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text, without stop string and control tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens generated, the end-of-turn token included.
    pub tokens: usize,
    /// Prompt tokens that were not computed again.
    pub cached_tokens: usize,
}

/// The engine did not answer.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Too many requests wait.
    #[error("{QUEUE_MAX} requests are waiting; send fewer at once")]
    Overloaded,
    /// The decoding thread is gone.
    #[error("the decoding thread has ended; restart the server")]
    Gone,
    /// The tokenizer could not decode what the model generated.
    #[error("the answer cannot be decoded: {0}")]
    Decode(String),
}

/// Where an answer goes.
#[derive(Debug)]
struct Reply {
    whole: oneshot::Sender<Result<Answer, EngineError>>,
    /// Text as it settles; nobody may listen.
    deltas: mpsc::Sender<String>,
}

/// An answer that is on its way.
#[derive(Debug)]
pub struct Answering {
    /// Pieces of its text; together they are the text of the whole answer.
    pub deltas: mpsc::Receiver<String>,
    whole: oneshot::Receiver<Result<Answer, EngineError>>,
}

impl Answering {
    /// The whole answer.
    pub async fn finish(self) -> Result<Answer, EngineError> {
        self.whole.await.map_err(|_| EngineError::Gone)?
    }
}

/// A handle to the decoding thread.
#[derive(Clone, Debug)]
pub struct Engine {
    queue: mpsc::Sender<(Request, Reply)>,
}

impl Engine {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(
        model: Decoder,
        tokenizer: Arc<Tokenizer>,
        ends: Vec<u32>,
        options: EngineOptions,
    ) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new().name("decode".to_owned()).spawn(move || {
            let cache = PrefixCache::new(options.cache_bytes);
            Loop {
                model,
                tokenizer,
                ends,
                options,
                requests,
                cache,
                waiting: VecDeque::new(),
                active: Vec::new(),
            }
            .run();
        })?;
        Ok(Self { queue })
    }

    /// Answers a request; others are decoded beside it.
    pub async fn answer(&self, request: Request) -> Result<Answer, EngineError> {
        self.begin(request)?.finish().await
    }

    /// Takes a request; its answer comes piece by piece.
    pub fn begin(&self, request: Request) -> Result<Answering, EngineError> {
        let (reply, whole) = oneshot::channel();
        // Every token settles at most one piece, and the end another.
        let (pieces, deltas) = mpsc::channel(request.max_tokens.saturating_add(1).min(PIECES_MAX));
        let reply = Reply { whole: reply, deltas: pieces };
        self.queue.try_send((request, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EngineError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => EngineError::Gone,
        })?;
        Ok(Answering { deltas, whole })
    }
}

struct Loop {
    model: Decoder,
    tokenizer: Arc<Tokenizer>,
    ends: Vec<u32>,
    options: EngineOptions,
    requests: mpsc::Receiver<(Request, Reply)>,
    cache: PrefixCache,
    waiting: VecDeque<(Request, Reply)>,
    active: Vec<Active>,
}

/// A request that is being answered.
struct Active {
    sequence: Sequence,
    /// Tokens that are not in the sequence yet: the rest of the prompt, or the token drawn last.
    pending: VecDeque<u32>,
    text: AnswerText,
    sampler: Sampler,
    generated: usize,
    max_tokens: usize,
    cached_tokens: usize,
    /// Bytes of the text that were sent as pieces.
    sent: usize,
    reply: Reply,
}

impl Loop {
    fn run(mut self) {
        loop {
            if self.active.is_empty() && self.waiting.is_empty() {
                let Some(request) = self.requests.blocking_recv() else { return };
                self.waiting.push_back(request);
            }
            while let Ok(request) = self.requests.try_recv() {
                self.waiting.push_back(request);
            }
            self.admit();
            self.step();
        }
    }

    fn admit(&mut self) {
        while self.active.len() < self.options.batch_max
            && let Some((request, reply)) = self.waiting.pop_front()
        {
            if reply.whole.is_closed() {
                continue;
            }
            let active = self.active.iter().map(|active| &active.sequence);
            let sequence = self.cache.take(&self.model.config, &request.prompt, active);
            let cached_tokens = sequence.tokens.len();
            self.active.push(Active {
                pending: request.prompt.into_iter().skip(cached_tokens).collect(),
                sequence,
                text: AnswerText::new(request.stops),
                sampler: Sampler::new(request.sampling),
                generated: 0,
                max_tokens: request.max_tokens,
                cached_tokens,
                sent: 0,
                reply,
            });
        }
    }

    fn step(&mut self) {
        // Clients that hung up make room for others.
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.active).into_iter().partition(|active| !active.reply.whole.is_closed());
        self.active = kept;
        for active in gone {
            self.cache.put(active.sequence);
        }
        let mut budget = self.options.prompt_tokens_max;
        let mut extensions = Vec::with_capacity(self.active.len());
        let mut drawing = Vec::with_capacity(self.active.len());
        for (index, active) in self.active.iter_mut().enumerate() {
            let count = if active.pending.len() == 1 { 1 } else { active.pending.len().min(budget) };
            if count == 0 {
                continue;
            }
            if count > 1 {
                budget -= count;
            }
            let tokens: Vec<u32> = active.pending.drain(..count).collect();
            drawing.push(active.pending.is_empty().then_some(index));
            extensions.push(Extension { sequence: &mut active.sequence, tokens });
        }
        if extensions.is_empty() {
            return;
        }
        let logits = rows(&extend(&self.model, &mut extensions));
        let mut finished = Vec::new();
        for (index, logits) in drawing.into_iter().zip(logits) {
            let Some(active) = index.and_then(|index| self.active.get_mut(index)) else { continue };
            if let Some(finish) = active.draw(&logits, &self.ends, &self.tokenizer) {
                finished.extend(index.map(|index| (index, finish)));
            }
        }
        // From the back, so that the places of the others stay.
        for (index, finish) in finished.into_iter().rev() {
            let active = self.active.remove(index);
            self.cache.put(active.finish(finish, &self.tokenizer));
        }
    }
}

/// The rows of a `[N, V]` tensor.
fn rows(logits: &Tensor) -> Vec<Vec<f32>> {
    let (count, width) = logits.size2().unwrap_or_default();
    (0..count)
        .map(|row| {
            let width = usize::try_from(width).unwrap_or(0);
            let mut values = vec![0.0; width];
            logits.get(row).copy_data(&mut values, width);
            values
        })
        .collect()
}

impl Active {
    /// Draws the next token. Returns why the answer is over, if it is.
    fn draw(
        &mut self,
        logits: &[f32],
        ends: &[u32],
        tokenizer: &Tokenizer,
    ) -> Option<Result<Finish, EngineError>> {
        let token = u32::try_from(self.sampler.next(logits)).unwrap_or(u32::MAX);
        self.generated += 1;
        if ends.contains(&token) {
            return Some(Ok(Finish::EndOfTurn));
        }
        match self.text.push(token, tokenizer) {
            Err(error) => return Some(Err(EngineError::Decode(error.to_string()))),
            Ok(Some(stop)) => return Some(Ok(Finish::StopString(stop))),
            Ok(None) => self.sent = self.reply.send(self.sent, self.text.settled()),
        }
        if self.generated >= self.max_tokens {
            return Some(Ok(Finish::Length));
        }
        self.pending.push_back(token);
        None
    }

    /// Sends the answer and returns the sequence for the cache.
    fn finish(self, finish: Result<Finish, EngineError>, tokenizer: &Tokenizer) -> Sequence {
        let Self { sequence, text, generated, cached_tokens, sent, reply, .. } = self;
        let answer = finish.and_then(|finish| {
            let text = match finish {
                Finish::StopString(_) => text.into_text(),
                Finish::EndOfTurn | Finish::Length => {
                    text.finish(tokenizer).map_err(|error| EngineError::Decode(error.to_string()))?
                }
            };
            Ok(Answer { text, finish, tokens: generated, cached_tokens })
        });
        if let Ok(answer) = &answer {
            reply.send(sent, &answer.text);
        }
        // Nobody waits when the client hung up in the meantime.
        let _ = reply.whole.send(answer);
        sequence
    }
}

impl Reply {
    /// Sends the text behind the first `sent` bytes and returns how many have been sent. What finds no room goes with the
    /// next piece.
    fn send(&self, sent: usize, text: &str) -> usize {
        match text.get(sent..) {
            Some(piece) if !piece.is_empty() && self.deltas.try_send(piece.to_owned()).is_ok() => text.len(),
            _ => sent,
        }
    }
}
