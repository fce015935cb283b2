//! Models that are no language models: documented scripts that write assistant text, for teachers and for tests.
//!
//! A closure is a policy, so a teacher of `sealign_tasks` becomes a model by
//! `ScriptedModel::new(move |messages: &[Message], _seed: u32| teacher.next(messages))`.
//!
//! A policy sees what a model would see and is a pure function of it and of the seed, so an attempt with one is
//! reproducible to the byte. Its completions count no tokens.

use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::record::Usage;
use sealign_trajectory::{Message, Role};

use crate::model::{Completion, CompletionRequest, FinishReason, Model, ModelError};

/// Writes the next assistant text of a conversation.
pub trait ScriptedPolicy: Send + Sync {
    /// The next text. Equal conversations and seeds give equal texts.
    fn next(&self, messages: &[Message], seed: u32) -> String;
}

impl<F: Fn(&[Message], u32) -> String + Send + Sync> ScriptedPolicy for F {
    fn next(&self, messages: &[Message], seed: u32) -> String {
        self(messages, seed)
    }
}

/// A policy as a model.
#[derive(Clone, Debug)]
pub struct ScriptedModel<P> {
    policy: P,
}

impl<P: ScriptedPolicy> ScriptedModel<P> {
    /// Lets `policy` answer.
    pub fn new(policy: P) -> Self {
        Self { policy }
    }
}

#[async_trait]
impl<P: ScriptedPolicy> Model for ScriptedModel<P> {
    async fn complete(&self, request: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
        let text = self.policy.next(request.messages, request.seed);
        Ok(Completion { text, finish: FinishReason::Stop, usage: Usage::default(), waited: Duration::ZERO })
    }
}

/// Says the given texts in order, whatever it sees; after the last one it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Recital {
    texts: Vec<String>,
}

impl Recital {
    /// The texts to say.
    pub fn new(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { texts: texts.into_iter().map(Into::into).collect() }
    }
}

impl ScriptedPolicy for Recital {
    fn next(&self, messages: &[Message], _seed: u32) -> String {
        let said = messages.iter().filter(|message| message.role == Role::Assistant).count();
        self.texts.get(said).cloned().unwrap_or_default()
    }
}
