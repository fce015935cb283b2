//! The loop of one attempt.

use std::collections::BTreeMap;
use std::time::Duration;

use sealign_manifest::group::TryCause;
use sealign_manifest::record::Usage;
use sealign_manifest::{StopReason, Task};
use sealign_trajectory::key::{KeyOptions, call_key};
use sealign_trajectory::protocol::render_result;
use sealign_trajectory::stuck::{STUCK_ROUNDS, is_comparable};
use sealign_trajectory::{Action, Message, ObservationPart, Role, Turn};

use crate::environment::{Environment, EnvironmentError, LimitKind};
use crate::harness::{End, Harness, Reaction, Session, TemplateError};
use crate::limits::{Clock, Limits, WallMeter};
use crate::model::{CompletionRequest, FinishReason, Model, ModelError, Sampling};
use crate::replay::{Replay, ReplayedTurn};
use crate::stuck::{StuckDetector, StuckRule};

/// Counts the tokens of a prompt as the model's server would.
pub type PromptCounter<'counter> = &'counter (dyn Fn(&[Message]) -> u64 + Sync);

/// Everything that an attempt follows from, beside model and environment.
#[derive(Clone, Copy)]
pub struct Setup<'setup> {
    /// The task.
    pub task: &'setup Task,
    /// Seed of every request: the item's.
    pub seed: u32,
    /// The harness.
    pub harness: &'setup dyn Harness,
    /// How completions are sampled.
    pub sampling: &'setup Sampling,
    /// Bounds.
    pub limits: &'setup Limits,
    /// Which rule ends an attempt that repeats itself.
    pub stuck_rule: StuckRule,
    /// A prefix of actions to take first, for an item that starts at a node of a forest.
    pub replay: Option<Replay<'setup>>,
    /// Counts prompts before they are sent; without one, the server's own count of the request before is what is known,
    /// and a prompt that turns out too long costs one request.
    pub prompt_counter: Option<PromptCounter<'setup>>,
}

/// What an attempt left. Deterministic when model and environment are.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Messages before the first model turn.
    pub prompt: Vec<Message>,
    /// Model turns.
    pub turns: Vec<Turn>,
    /// Why it ended.
    pub stop: StopReason,
    /// One line for people; empty where the reason says all.
    pub detail: String,
    /// Tokens of all requests, replayed turns excluded: nobody asked for them again.
    pub usage: Usage,
    /// What metrics count: `invalidTurns`, `messageTurns`, `cutTurns` (ended by the completion limit), `replayedTurns`,
    /// `stuck` and `stuckAtEnd` (0 or 1: the paper's metric, whatever the stop rule). Zeros are left out.
    pub properties: BTreeMap<String, u64>,
    /// The answer of a harness that works without an environment.
    pub answer: Option<String>,
}

/// No attempt came about, through no doing of the model: a failed try, not a result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The model's server failed beyond its bounds, or is not configured right.
    #[error("the model gave no completion")]
    Model {
        /// Tokens spent so far.
        usage: Usage,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// The environment was lost.
    #[error("the environment failed")]
    Environment {
        /// Tokens spent so far.
        usage: Usage,
        /// Why.
        #[source]
        source: EnvironmentError,
    },
    /// The prompt cannot be written.
    #[error("the prompt cannot be written")]
    Prompt(#[from] TemplateError),
}

impl Failure {
    /// The cause for the record of the try; `None` for a template, which no try can cure.
    pub fn cause(&self) -> Option<TryCause> {
        match self {
            Self::Model { .. } => Some(TryCause::Model),
            Self::Environment { .. } => Some(TryCause::Sandbox),
            Self::Prompt(_) => None,
        }
    }

    /// Tokens that the try spent.
    pub fn usage(&self) -> Usage {
        match self {
            Self::Model { usage, .. } | Self::Environment { usage, .. } => *usage,
            Self::Prompt(_) => Usage::default(),
        }
    }
}

/// Makes one attempt.
///
/// # Errors
/// [`Failure`] when infrastructure fails: model server, environment, or a prompt template.
pub async fn run(
    setup: Setup<'_>,
    model: &dyn Model,
    environment: &mut dyn Environment,
    clock: &dyn Clock,
) -> Result<Attempt, Failure> {
    let mut course = Course::begin(setup, clock)?;
    let mut session = setup.harness.session(setup.task);
    if let Some(ending) = course.replay(session.as_mut(), environment).await? {
        return Ok(course.end(ending));
    }
    loop {
        if let Some(ending) = course.limit_before_turn() {
            return Ok(course.end(ending));
        }
        let max_tokens = course.completion_tokens_left();
        let request = CompletionRequest {
            messages: &course.messages,
            sampling: setup.sampling,
            max_tokens,
            seed: setup.seed,
            stop: setup.harness.stop(),
        };
        let completion = match model.complete(&request).await {
            Ok(completion) => completion,
            Err(ModelError::ContextExceeded) => return Ok(course.end(ending(StopReason::ContextExceeded))),
            Err(source) => return Err(Failure::Model { usage: course.attempt.usage, source }),
        };
        course.charge(&completion.usage, completion.waited);
        if completion.usage.prompt_tokens >= setup.limits.context_tokens {
            // Had the prompt been counted beforehand, it would not have been sent; so its answer does not count.
            return Ok(course.end(ending(StopReason::ContextExceeded)));
        }
        let command_time = course.command_time();
        let reaction = match session.react(&completion, environment, command_time).await {
            Ok(reaction) => reaction,
            Err(EnvironmentError::Limit(kind)) => return Ok(course.end(limit_ending(kind))),
            Err(source) => return Err(Failure::Environment { usage: course.attempt.usage, source }),
        };
        course.count("cutTurns", u64::from(completion.finish == FinishReason::Length));
        if let Some(ending) = course.take(reaction) {
            return Ok(course.end(ending));
        }
    }
}

/// Why an attempt ends, and a line for people.
type Ending = (StopReason, String);

fn ending(stop: StopReason) -> Ending {
    (stop, String::new())
}

fn limit_ending(kind: LimitKind) -> Ending {
    (StopReason::Limit, format!("the environment's {} limit was passed", kind.name()))
}

/// An attempt in the making.
struct Course<'setup> {
    setup: Setup<'setup>,
    attempt: Attempt,
    /// The conversation as the next request shows it: what training is shown too (`sealign_trajectory::chat`).
    messages: Vec<Message>,
    wall: WallMeter<'setup>,
    detector: StuckDetector,
    /// Tokens that the conversation is known to have.
    context_known: u64,
}

impl<'setup> Course<'setup> {
    fn begin(setup: Setup<'setup>, clock: &'setup dyn Clock) -> Result<Self, TemplateError> {
        let prompt = setup.harness.prompt(setup.task)?;
        let attempt = Attempt {
            prompt: prompt.clone(),
            turns: Vec::new(),
            stop: StopReason::Finished,
            detail: String::new(),
            usage: Usage::default(),
            properties: BTreeMap::new(),
            answer: None,
        };
        let wall = WallMeter::start(clock, setup.limits);
        let detector = StuckDetector::new(setup.stuck_rule);
        Ok(Self { setup, attempt, messages: prompt, wall, detector, context_known: 0 })
    }

    /// Takes the actions of the prefix; `Some` when the attempt ends in it.
    async fn replay(
        &mut self,
        session: &mut dyn Session,
        environment: &mut dyn Environment,
    ) -> Result<Option<Ending>, Failure> {
        let Some(replay) = self.setup.replay else { return Ok(None) };
        for (index, recorded) in replay.turns.iter().enumerate() {
            let command_time = self.command_time();
            let step = match replay.take(recorded, session, environment, command_time).await {
                Ok(step) => step,
                Err(EnvironmentError::Limit(kind)) => return Ok(Some(limit_ending(kind))),
                Err(source) => return Err(Failure::Environment { usage: self.attempt.usage, source }),
            };
            self.count("replayedTurns", 1);
            match step {
                ReplayedTurn::Same(reaction) => {
                    if let Some(ending) = self.take(reaction) {
                        return Ok(Some(ending));
                    }
                }
                ReplayedTurn::Diverged(reaction) => {
                    // However the turn would have ended the attempt, that it diverged comes first.
                    let _ = self.take(reaction);
                    let detail = format!("turn {} of the prefix gave another observation", index + 1);
                    return Ok(Some((StopReason::ReplayDiverged, detail)));
                }
            }
        }
        Ok(None)
    }

    /// Records a turn; `Some` when the attempt ends with it.
    fn take(&mut self, reaction: Reaction) -> Option<Ending> {
        let Reaction { raw, free_text, action, observation, seen, end } = reaction;
        self.count("invalidTurns", u64::from(matches!(action, Action::Invalid { .. })));
        self.count("messageTurns", u64::from(matches!(action, Action::Message)));
        self.messages.push(Message { role: Role::Assistant, content: raw.clone() });
        self.messages.extend(observation.iter().flatten().map(heard));
        let turn = Turn { raw: Some(raw), free_text, action, observation, condensed_before: false };
        let is_stuck = self.detector.is_stuck_after(&turn, &seen);
        self.attempt.turns.push(turn);
        match end {
            Some(End::Finished(answer)) => {
                self.attempt.answer = answer;
                Some(ending(StopReason::Finished))
            }
            Some(End::Limit(kind)) => Some(limit_ending(kind)),
            None => is_stuck.then(|| ending(StopReason::Stuck)),
        }
    }

    fn limit_before_turn(&mut self) -> Option<Ending> {
        let limits = self.setup.limits;
        let usage = self.attempt.usage;
        let spent = usage.prompt_tokens + usage.completion_tokens;
        if let Some(counter) = self.setup.prompt_counter {
            self.context_known = counter(&self.messages);
        }
        if self.attempt.turns.len() >= limits.turns as usize {
            return Some(ending(StopReason::TurnLimit));
        }
        if self.context_known >= limits.context_tokens {
            return Some(ending(StopReason::ContextExceeded));
        }
        if limits.tokens.is_some_and(|bound| spent >= bound) {
            return Some((StopReason::Limit, "the attempt's own token limit was reached".to_owned()));
        }
        self.wall.left().is_zero().then(|| ending(StopReason::Timeout))
    }

    /// What the next completion may have: the sampling's bound, or what is left of the context.
    fn completion_tokens_left(&self) -> u32 {
        let left = self.setup.limits.context_tokens.saturating_sub(self.context_known);
        self.setup.sampling.max_tokens.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
    }

    fn command_time(&self) -> Duration {
        Duration::from_secs(self.setup.limits.command_seconds)
            .min(self.wall.left())
            .max(Duration::from_secs(1))
    }

    fn charge(&mut self, usage: &Usage, waited: Duration) {
        self.attempt.usage.prompt_tokens += usage.prompt_tokens;
        self.attempt.usage.completion_tokens += usage.completion_tokens;
        self.context_known = usage.prompt_tokens + usage.completion_tokens;
        self.wall.exclude(waited);
    }

    fn count(&mut self, property: &str, by: u64) {
        if by > 0 {
            *self.attempt.properties.entry(property.to_owned()).or_default() += by;
        }
    }

    /// Hands the attempt over with its metrics.
    fn end(mut self, (stop, detail): Ending) -> Attempt {
        let (anywhere, at_end) = paper_stuck(&self.attempt.turns);
        self.count("stuck", u64::from(anywhere));
        self.count("stuckAtEnd", u64::from(at_end));
        Attempt { stop, detail, ..self.attempt }
    }
}

/// An observation part as the model sees it.
fn heard(part: &ObservationPart) -> Message {
    let content = match &part.tool {
        Some(tool) => render_result(tool, &part.text),
        None => part.text.clone(),
    };
    Message { role: Role::User, content }
}

/// The paper's metric: three equal actions in a row, anywhere and at the end.
fn paper_stuck(turns: &[Turn]) -> (bool, bool) {
    let keys: Vec<Option<String>> =
        turns.iter().map(|turn| is_comparable(turn).then(|| call_key(turn, KeyOptions::default()))).collect();
    let is_loop = |window: &[Option<String>]| {
        window.iter().all(Option::is_some) && window.windows(2).all(|pair| pair.first() == pair.last())
    };
    let at_end = keys.windows(STUCK_ROUNDS).next_back().is_some_and(is_loop);
    (keys.windows(STUCK_ROUNDS).any(is_loop), at_end)
}
