//! One rollout: claim, prepare, let the agent work, take what it left, record, let go.

use std::sync::Arc;
use std::time::Duration;

use sealign_agent::environment::NoEnvironment;
use sealign_agent::{Attempt, EnvironmentError, Failure, Setup};
use sealign_manifest::group::{TryCause, TryRecord};
use sealign_manifest::key::Stage;
use sealign_manifest::record::{RECORD_VERSION, RolloutRecord, Usage};
use sealign_manifest::{Digest, RolloutItem, StopReason, Task, TaskFile};
use sealign_sandbox::base64::Bytes;
use sealign_sandbox::protocol::{ChangeKind, Changes, ChangesReply, EntryKind, FileWrite, Seal};

use super::context::{Context, PolicySettings, Rollouts};
use super::environment::SandboxEnvironment;
use super::plan::Rollout;
use super::pods::{Fate, OwnLimit, Pod};
use super::sandbox::{Sandbox, SandboxError};
use super::state::Slot;
use crate::error::WorkerError;
use crate::saving;

/// Time between two signs of life to a claimed sandbox, which waits 60 s for one.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Names that are in no patch wherever they occur.
const SKIPPED_NAMES: [&str; 3] = [".git", "__pycache__", ".pytest_cache"];
/// Largest changed file that enters a patch, in bytes: source files are far smaller.
const CHANGED_FILE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all changed files together, both sides: the server's own bound.
const CHANGES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What became of an item in hand.
#[derive(Debug)]
pub enum Outcome<R> {
    /// Its record exists, ours or that of a writer that was first; these are the figures of the one that counts.
    Recorded(R),
    /// The try failed; to be made durable by the driver.
    Failed(TryRecord),
}

/// A failed try in the making.
pub(super) struct Failed {
    pub cause: TryCause,
    pub detail: String,
    /// Tokens spent; `None` when nobody knows.
    pub tokens: Option<u64>,
}

impl Failed {
    pub(super) fn free(cause: TryCause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into(), tokens: Some(0) }
    }

    pub(super) fn record(self, slot: &Slot, round: u32) -> TryRecord {
        let detail = one_line(&self.detail);
        TryRecord { item: slot.item.clone(), round, cause: self.cause, tokens: self.tokens, detail }
    }
}

/// A text as one bounded line.
pub(super) fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(CHARS_MAX).collect()
}

/// What an attempt came to before its record is written.
struct Left {
    attempt: Attempt,
    patch: String,
    no_source_edit: bool,
}

/// Makes one attempt and its record.
///
/// # Errors
/// [`WorkerError`] when the store fails for good or the plan is not what it should be.
pub async fn rollout(
    context: &Context,
    slot: &Slot,
    item: &RolloutItem,
    pod: Option<Arc<Pod>>,
    round: u32,
) -> Result<Outcome<Rollout>, WorkerError> {
    let task = context.task(&item.task)?;
    let rollouts = context
        .rollouts
        .as_ref()
        .ok_or_else(|| WorkerError::Premise("a run of gradings has rollout items".into()))?;
    let Some(pod) = pod else {
        return match direct(rollouts, item, &task).await {
            Ok(left) => save(context, slot, item, &task, left).await.map(Outcome::Recorded),
            Err(failed) => Ok(Outcome::Failed(failed.record(slot, round))),
        };
    };
    let sandbox = match claim(context, slot, &pod).await {
        Ok(sandbox) => sandbox,
        Err(failed) => return Ok(Outcome::Failed(failed.record(slot, round))),
    };
    let work = async {
        match in_sandbox(context, rollouts, item, &task, (&sandbox, &pod)).await {
            Ok(left) => save(context, slot, item, &task, left).await.map(Outcome::Recorded),
            Err(failed) => Ok(Outcome::Failed(failed.record(slot, round))),
        }
    };
    let outcome = alive(&sandbox, work).await?;
    let_go(&sandbox, &outcome).await;
    Ok(outcome)
}

/// Ends a sandbox that is needed no more: its record is durable, or its try failed for a reason outside it. Whether it
/// hears of that changes nothing.
pub(super) async fn let_go<R>(sandbox: &Sandbox, outcome: &Outcome<R>) {
    let is_done = match outcome {
        Outcome::Recorded(_) => true,
        Outcome::Failed(failed) => matches!(failed.cause, TryCause::Model | TryCause::Store),
    };
    if is_done && let Err(error) = sandbox.finish().await {
        tracing::debug!(%error, "a sandbox did not answer that it ends");
    }
}

/// Claims the sandbox of `pod` for the item. A sandbox that another runner claimed is never adopted.
pub(super) async fn claim(context: &Context, slot: &Slot, pod: &Pod) -> Result<Sandbox, Failed> {
    let claimed = match context.doors.open(pod) {
        Ok(door) => Sandbox::claim(door, slot.item.as_str()).await,
        Err(error) => Err(error),
    };
    match claimed {
        Ok(sandbox) => Ok(sandbox),
        Err(error) if error.is_claimed_by_another() => {
            let detail = "an earlier runner had claimed the sandbox";
            Err(Failed { cause: TryCause::RunnerLost, detail: detail.into(), tokens: None })
        }
        Err(error) => Err(match context.ends.of(&pod.uid, &error.to_string(), false).await {
            Fate::Failed(cause, detail) => Failed::free(cause, detail),
            Fate::OwnLimit(_) => Failed::free(TryCause::Sandbox, error.to_string()),
        }),
    }
}

/// Works with signs of life beside it. Silence is not acted upon here: the work meets it at its next request.
pub(super) async fn alive<T>(sandbox: &Sandbox, work: impl Future<Output = T>) -> T {
    let pings = async {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            if let Err(error) = sandbox.ping().await {
                tracing::debug!(%error, "a sandbox did not answer a ping");
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = pings => unreachable!("pings never end"),
    }
}

async fn direct(rollouts: &Rollouts, item: &RolloutItem, task: &Task) -> Result<Left, Failed> {
    let attempt =
        run(rollouts, item, task, &mut NoEnvironment).await.map_err(|failure| model_failure(&failure))?;
    let after = match &attempt.answer {
        Some(answer) => answered(task, answer),
        None => task.environment.files.clone(),
    };
    Ok(leave(task, attempt, &after))
}

/// The task's files with the answer of a harness without an environment in place: it is shown one program and answers
/// with one, so it replaces the task's only file.
fn answered(task: &Task, answer: &str) -> Vec<TaskFile> {
    match task.environment.files.as_slice() {
        [only] if !answer.is_empty() => {
            vec![TaskFile { path: only.path.clone(), content: answer.to_owned() }]
        }
        files => files.to_vec(),
    }
}

async fn run(
    rollouts: &Rollouts,
    item: &RolloutItem,
    task: &Task,
    environment: &mut dyn sealign_agent::Environment,
) -> Result<Attempt, Failure> {
    let settings = rollouts.policies.get(&item.policy);
    let model = rollouts.models.model(&item.policy, task);
    let (Some(PolicySettings { sampling, .. }), Ok(model)) = (settings, &model) else {
        let reason = model.err().unwrap_or_else(|| format!("the campaign has no policy `{}`", item.policy));
        let source = sealign_agent::ModelError::Configuration { status: 0, reason };
        return Err(Failure::Model { usage: Usage::default(), source });
    };
    let setup = Setup {
        task,
        seed: item.seed,
        harness: rollouts.harness.as_ref(),
        sampling,
        limits: &rollouts.limits,
        stuck_rule: rollouts.stuck_rule,
        replay: None,
        prompt_counter: None,
    };
    sealign_agent::run(setup, model.as_ref(), environment, rollouts.clock.as_ref()).await
}

async fn in_sandbox(
    context: &Context,
    rollouts: &Rollouts,
    item: &RolloutItem,
    task: &Task,
    (sandbox, pod): (&Sandbox, &Pod),
) -> Result<Left, Failed> {
    if let Err(error) = prepare(sandbox, task).await {
        return Err(lost(context, pod, &error, 0).await.map_or_else(
            |failed| failed,
            |_| Failed::free(TryCause::Sandbox, "the sandbox ended before the agent began"),
        ));
    }
    let mut environment = SandboxEnvironment::new(sandbox.clone(), context.ends.clone(), pod.uid.clone());
    let attempt = match run(rollouts, item, task, &mut environment).await {
        Ok(attempt) => attempt,
        Err(failure) => return Err(failure_of(&failure, environment.fate)),
    };
    if environment.fate.is_some() {
        // The pod passed its own limit and is gone, and its files with it.
        return Ok(Left { attempt, patch: String::new(), no_source_edit: true });
    }
    let request = Changes { max_file_bytes: CHANGED_FILE_BYTES_MAX, max_total_bytes: CHANGES_BYTES_MAX };
    let tokens = attempt.usage.prompt_tokens + attempt.usage.completion_tokens;
    match sandbox.changes(&request).await {
        Ok(changes) => {
            let after = files_after(&task.environment.files, &changes);
            Ok(leave(task, attempt, &after))
        }
        Err(error) => {
            let limit = lost(context, pod, &error, tokens).await?;
            let detail = format!("the environment's {limit} limit was passed");
            let attempt = Attempt { stop: StopReason::Limit, detail, ..attempt };
            Ok(Left { attempt, patch: String::new(), no_source_edit: true })
        }
    }
}

/// Writes the task's files and records them as the beginning.
async fn prepare(sandbox: &Sandbox, task: &Task) -> Result<(), SandboxError> {
    let file = |file: &TaskFile| FileWrite {
        path: file.path.clone(),
        content: Bytes(file.content.clone().into_bytes()),
        mode: 0o644,
    };
    sandbox.write_files(task.environment.files.iter().map(file).collect()).await?;
    sandbox.seal(&Seal { skip_names: SKIPPED_NAMES.map(str::to_owned).to_vec() }).await
}

/// What silence of a claimed sandbox means: the name of its own limit, or a failed try.
pub(super) async fn lost(
    context: &Context,
    pod: &Pod,
    error: &SandboxError,
    tokens: u64,
) -> Result<&'static str, Failed> {
    match context.ends.of(&pod.uid, &error.to_string(), true).await {
        Fate::OwnLimit(OwnLimit::Memory) => Ok("memory"),
        Fate::OwnLimit(OwnLimit::Disk) => Ok("disk"),
        Fate::Failed(cause, detail) => Err(Failed { cause, detail, tokens: Some(tokens) }),
    }
}

fn failure_of(failure: &Failure, fate: Option<Fate>) -> Failed {
    match (failure, fate) {
        (Failure::Environment { usage, .. }, Some(Fate::Failed(cause, detail))) => {
            Failed { cause, detail, tokens: Some(usage.prompt_tokens + usage.completion_tokens) }
        }
        _ => model_failure(failure),
    }
}

fn model_failure(failure: &Failure) -> Failed {
    let usage = failure.usage();
    let tokens = Some(usage.prompt_tokens + usage.completion_tokens);
    let detail = match failure {
        Failure::Model { source, .. } => source.to_string(),
        Failure::Environment { source: EnvironmentError::Lost(detail), .. } => detail.clone(),
        Failure::Environment { source, .. } => source.to_string(),
        Failure::Prompt(source) => source.to_string(),
    };
    // A prompt that cannot be written is the configuration's fault, like a model that is not configured right.
    Failed { cause: failure.cause().unwrap_or(TryCause::Model), detail, tokens }
}

/// The text files that the sandbox holds now. What is not text, or too large, counts as unchanged.
fn files_after(before: &[TaskFile], changes: &ChangesReply) -> Vec<TaskFile> {
    let mut files: std::collections::BTreeMap<String, String> =
        before.iter().map(|file| (file.path.clone(), file.content.clone())).collect();
    for change in &changes.changes {
        if change.kind == ChangeKind::Deleted {
            files.remove(&change.path);
            continue;
        }
        let text = change
            .new
            .as_ref()
            .filter(|state| state.kind == EntryKind::File)
            .and_then(|state| String::from_utf8(state.content.as_ref()?.0.clone()).ok());
        if let Some(text) = text {
            files.insert(change.path.clone(), text);
        }
    }
    files.into_iter().map(|(path, content)| TaskFile { path, content }).collect()
}

fn leave(task: &Task, attempt: Attempt, after: &[TaskFile]) -> Left {
    let filtered = sealign_tasks::patch::rollout_patch(task, after);
    Left { attempt, patch: filtered.patch, no_source_edit: filtered.is_without_source_edit }
}

/// Makes patch and record durable, in this order.
async fn save(
    context: &Context,
    slot: &Slot,
    item: &RolloutItem,
    task: &Task,
    left: Left,
) -> Result<Rollout, WorkerError> {
    let Left { attempt, patch, no_source_edit } = left;
    let patch = if patch.is_empty() {
        None
    } else {
        Some(saving::settle_blob(&*context.store, patch.into_bytes()).await?)
    };
    let mut properties = attempt.properties;
    if no_source_edit {
        properties.insert("noSourceEdit".into(), 1);
    }
    let rollouts = context.rollouts.as_ref();
    let policy = rollouts.and_then(|rollouts| rollouts.policies.get(&item.policy));
    let record = RolloutRecord {
        version: RECORD_VERSION,
        item: item.clone(),
        task_id: task.id.clone(),
        harness: rollouts.map_or_else(String::new, |rollouts| rollouts.harness.name()),
        policy: policy.map_or_else(|| Digest::of_bytes(b""), |settings| settings.digest.clone()),
        environment: task.environment.digest.clone(),
        prompt_digest: Digest::of_json(&attempt.prompt)?,
        prompt: attempt.prompt,
        turns: attempt.turns,
        stop: attempt.stop,
        detail: attempt.detail,
        patch,
        usage: attempt.usage,
        properties,
    };
    write(context, slot, &record).await
}

/// Writes a rollout record and returns the figures of the one that counts.
///
/// # Errors
/// [`WorkerError::Store`].
pub async fn write(context: &Context, slot: &Slot, record: &RolloutRecord) -> Result<Rollout, WorkerError> {
    let key = context.keys.record(&slot.group, Stage::Rollout, &slot.item);
    let (counting, digest) = saving::settle_json(&*context.store, &key, record).await?;
    Ok(Rollout::of(&counting, digest))
}

/// The record of an item that is closed without an attempt.
///
/// # Errors
/// [`WorkerError::Premise`] when the plan names an unknown task.
pub fn closed_out(
    context: &Context,
    item: &RolloutItem,
    stop: StopReason,
    detail: String,
) -> Result<RolloutRecord, WorkerError> {
    let task = context.task(&item.task)?;
    let rollouts = context.rollouts.as_ref();
    let policy = rollouts.and_then(|rollouts| rollouts.policies.get(&item.policy));
    Ok(RolloutRecord {
        version: RECORD_VERSION,
        item: item.clone(),
        task_id: task.id.clone(),
        harness: rollouts.map_or_else(String::new, |rollouts| rollouts.harness.name()),
        policy: policy.map_or_else(|| Digest::of_bytes(b""), |settings| settings.digest.clone()),
        environment: task.environment.digest.clone(),
        prompt_digest: Digest::of_bytes(b""),
        prompt: Vec::new(),
        turns: Vec::new(),
        stop,
        detail,
        patch: None,
        usage: Usage::default(),
        properties: std::collections::BTreeMap::new(),
    })
}
