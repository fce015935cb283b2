//! Attempts of scripted policies as training texts.

use std::collections::BTreeMap;
use std::time::Duration;

use sealign_agent::environment::EnvironmentError;
use sealign_agent::harness::TemplateError;
use sealign_agent::harness::openhands::{OpenHands, Profile};
use sealign_agent::limits::{Clock, Limits};
use sealign_agent::model::Sampling;
use sealign_agent::run::{Attempt, Failure, Setup, run};
use sealign_agent::scripted::ScriptedModel;
use sealign_agent::stuck::StuckRule;
use sealign_manifest::{Digest, Task};
use sealign_tasks::suites::mini::teacher::{PolicyParams, Teacher};
use sealign_tasks::suites::mini::truth::TruthError;
use sealign_tasks::suites::mini::world::World;
use sealign_tasks::suites::mini::{Family, MiniError, MiniOptions, Split, generate};
use sealign_trajectory::chat::{self, ChatOptions};
use sealign_trajectory::{Action, Message, Origin, Outcome, Trajectory, Turn, UnknownCause};

use crate::predicted::PredictedEnvironment;

/// A policy and its share of the attempts, in hundredths.
pub type Mixture = [(&'static str, u32)];

/// From bad to good: what the base model reads of whole attempts. A third of them only loop, give up or guess, so that
/// the model knows such behaviour and an aligned one has something to leave.
pub const READING: &Mixture =
    &[("looper", 20), ("quitter", 20), ("blind", 26), ("weak", 16), ("medium", 10), ("strong", 8)];

/// Policies whose right edits become commits.
pub const COMMITTERS: &Mixture = &[("strong", 50), ("medium", 35), ("weak", 15)];

/// A training text: a conversation, and what of it is learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The messages as the harness shows them.
    pub messages: Vec<Message>,
    /// Learn only the last message instead of every token.
    pub last_only: bool,
}

/// Why no texts can be made.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tasks cannot be generated.
    #[error("the tasks cannot be generated")]
    Tasks(#[from] MiniError),
    /// A task is not of the suite.
    #[error("a task has no truth")]
    Truth(#[from] TruthError),
    /// The harness cannot write its prompt.
    #[error("the prompt cannot be written")]
    Prompt(#[from] TemplateError),
    /// A mixture names a policy that does not exist.
    #[error("`{0}` is not a policy")]
    UnknownPolicy(&'static str),
    /// No runtime for the agent loop.
    #[error("the agent loop cannot run")]
    Runtime(#[from] std::io::Error),
    /// The loop failed where nothing can fail.
    #[error("an attempt failed")]
    Attempt(#[from] Failure),
}

/// `count` whole attempts at distinct tasks by the policies of `mixture`.
///
/// # Errors
/// [`TextError`].
pub fn attempts(seed: u32, count: usize, mixture: &Mixture) -> Result<Vec<Text>, TextError> {
    let mut texts = Vec::with_capacity(count);
    each_attempt(seed, "attempts", count, mixture, |attempt, _| {
        texts.push(Text { messages: conversation(&attempt, attempt.turns.len()), last_only: false });
    })?;
    Ok(texts)
}

/// Conversations of `count` attempts, each up to and including its right edit. Attempts without one give nothing.
///
/// # Errors
/// [`TextError`].
pub fn commits(seed: u32, count: usize) -> Result<Vec<Text>, TextError> {
    let mut texts = Vec::new();
    each_attempt(seed, "commits", count, COMMITTERS, |attempt, task| {
        if let Some(turns) = turns_to_right_edit(&attempt, task) {
            texts.push(Text { messages: conversation(&attempt, turns), last_only: true });
        }
    })?;
    Ok(texts)
}

/// Where the task's file first holds the right line and the context says why: the number of turns up to that edit.
fn turns_to_right_edit(attempt: &Attempt, task: &Task) -> Option<usize> {
    let mut world = World::new(task).ok()?;
    let is_told = |turns: &[Turn], world: &World| {
        world.truth().explicit
            || world.truth().family.is_evident()
            || turns
                .iter()
                .any(|turn| turn.observation.iter().flatten().any(|part| part.text.contains("expected")))
    };
    for (index, turn) in attempt.turns.iter().enumerate() {
        let Action::Calls { calls } = &turn.action else { continue };
        for call in calls.iter().filter(|call| call.name == "str_replace_editor") {
            let text = |name: &str| call.arguments.get(name).and_then(|value| value.as_str());
            let (Some(path), Some(old)) = (text("path"), text("old_str")) else { continue };
            let _ = world.replace(path, old, text("new_str").unwrap_or_default());
            let before = attempt.turns.get(..index).unwrap_or_default();
            if world.is_right() && is_told(before, &world) {
                return Some(index + 1);
            }
        }
    }
    None
}

/// The messages of the first `turns` turns without what followed the last of them.
fn conversation(attempt: &Attempt, turns: usize) -> Vec<Message> {
    let trajectory = Trajectory {
        id: String::new(),
        source: String::new(),
        task: String::new(),
        prompt: attempt.prompt.clone(),
        first_observation: None,
        turns: attempt.turns.clone(),
        outcome: Outcome::Unknown(UnknownCause::NoVerdict),
        patch: None,
        exit_status: None,
        model: None,
        origin: Origin { format: String::new(), path: String::new(), line: 1 },
        message_count: 0,
        extra: BTreeMap::new(),
    };
    let options = ChatOptions::default();
    let last = turns.saturating_sub(1);
    let before = chat::prefix(&trajectory, last, &options);
    let shown = before.into_iter().chain(chat::decision(&trajectory, last, &options));
    shown.map(|turn| Message { role: turn.role, content: turn.content }).collect()
}

fn each_attempt(
    seed: u32,
    stream: &str,
    count: usize,
    mixture: &Mixture,
    mut take: impl FnMut(Attempt, &Task),
) -> Result<(), TextError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let harness = OpenHands::new(Profile::Compact);
    let limits = Limits { turns: 10, context_tokens: u64::MAX, ..Limits::default() };
    let sampling = Sampling::default();
    for (index, task) in tasks(seed, stream, count)?.iter().enumerate() {
        let policy = share(mixture, index);
        let params = PolicyParams::named(policy).ok_or(TextError::UnknownPolicy(policy))?;
        let attempt_seed = Digest::of_bytes(format!("{stream}/{seed}/{index}").as_bytes()).seed();
        let teacher = Teacher::new(task, params, attempt_seed)?;
        let model = ScriptedModel::new(move |messages: &[Message], _: u32| teacher.next(messages));
        let mut environment = PredictedEnvironment::new(World::new(task)?);
        let setup = Setup {
            task,
            seed: attempt_seed,
            harness: &harness,
            sampling: &sampling,
            limits: &limits,
            stuck_rule: StuckRule::Paper3,
            replay: None,
            prompt_counter: None,
        };
        match runtime.block_on(run(setup, &model, &mut environment, &NoClock)) {
            Ok(attempt) => take(attempt, task),
            // The policy did something that is not predicted; the text is simply not used.
            Err(Failure::Environment { source: EnvironmentError::Lost(_), .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(())
}

/// All families, half of the tasks as the habits recipe draws them and half as the guessing recipe does.
fn tasks(seed: u32, stream: &str, count: usize) -> Result<Vec<Task>, MiniError> {
    // Another stream of seeds than any task set of a user: the top bit is set, which the API does not allow.
    let seed = u64::from(Digest::of_bytes(format!("{stream}/{seed}").as_bytes()).seed()) | 1 << 40;
    let habits = MiniOptions {
        families: Family::ALL.to_vec(),
        ..MiniOptions::standard(Split::Train, seed, count.div_ceil(2))
    };
    let guessing = MiniOptions::guessing(Split::Train, seed, count / 2);
    let mut tasks = Vec::with_capacity(count);
    let mut others = generate(&guessing)?.into_iter();
    for task in generate(&habits)? {
        tasks.push(task);
        tasks.extend(others.next());
    }
    Ok(tasks)
}

/// The policy of attempt `index`: shares hold in every hundred, interleaved by a step that is coprime to it.
fn share(mixture: &Mixture, index: usize) -> &'static str {
    let mut rest = u32::try_from(index % 100 * 37 % 100).unwrap_or(0);
    for (policy, weight) in mixture {
        if rest < *weight {
            return policy;
        }
        rest -= weight;
    }
    mixture.first().map_or("strong", |(policy, _)| policy)
}

/// Scripted attempts take no time.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_trajectory::Role;

    #[test]
    fn shares_hold_in_every_hundred_attempts() {
        let strong = (0..100).filter(|index| share(READING, *index) == "strong").count();
        let blind = (300..400).filter(|index| share(READING, *index) == "blind").count();
        assert_eq!((strong, blind), (8, 26));
    }

    #[test]
    fn equal_seeds_give_equal_texts_and_other_seeds_others() {
        let texts = attempts(1, 40, READING).unwrap();
        assert_eq!(texts, attempts(1, 40, READING).unwrap());
        assert_ne!(texts, attempts(2, 40, READING).unwrap());
        assert!(texts.len() > 35, "only {} of 40 attempts were predicted", texts.len());
    }

    #[test]
    fn a_commit_ends_with_an_edit_that_is_right() {
        let texts = commits(1, 60).unwrap();
        assert!(texts.len() > 30, "only {} of 60 attempts have a right edit", texts.len());
        for text in texts {
            let last = text.messages.last().unwrap();
            assert_eq!(last.role, Role::Assistant);
            assert!(last.content.contains("<parameter=old_str>"), "{}", last.content);
        }
    }
}
