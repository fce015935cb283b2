//! One grading: a fresh sandbox, the filtered patch, the tests restored last, the negative control, the verdict.

use std::sync::Arc;

use rand::Rng as _;
use sealign_manifest::key::{self, Stage};
use sealign_manifest::record::RECORD_VERSION;
use sealign_manifest::{Digest, GradingItem, Task, Verdict, VerdictRecord};
use sealign_sandbox::base64::Bytes;
use sealign_sandbox::protocol::{ExecIsolated, FileWrite};
use sealign_storage::ArtifactStoreExt as _;
use sealign_tasks::grade::{GradingPlan, Planned, RunOutput, STDOUT_BYTES_MAX, plan};
use sealign_tasks::patch::PATCH_BYTES_MAX;

use super::attempt::{Failed, Outcome, alive, claim, let_go, lost};
use super::context::Context;
use super::plan::Graded;
use super::pods::Pod;
use super::sandbox::{Sandbox, SandboxError};
use super::state::Slot;
use crate::error::WorkerError;
use crate::saving;

/// Bytes of standard error that are taken; nothing is decided by them.
const STDERR_CAP_BYTES: usize = 4 * 1024;

/// Grades a patch and records the verdict, for every campaign where it is definite.
///
/// # Errors
/// [`WorkerError`] when the store fails for good, a patch is missing, or a task cannot be graded at all.
pub async fn grade(
    context: &Context,
    slot: &Slot,
    item: &GradingItem,
    pod: &Arc<Pod>,
    round: u32,
) -> Result<Outcome<Graded>, WorkerError> {
    let task = context.task(&item.task)?;
    let patch = read_patch(context, &item.patch).await?;
    let cannot = |error: sealign_tasks::grade::GradeError| WorkerError::rejected(error.to_string());
    let sandbox = match claim(context, slot, pod).await {
        Ok(sandbox) => sandbox,
        Err(failed) => return Ok(Outcome::Failed(failed.record(slot, round))),
    };
    let planned = plan(&task, &patch, &nonce()).map_err(cannot)?;
    let work = async {
        match verdict(context, item, planned, (&sandbox, pod)).await {
            Ok(record) => save(context, slot, &record).await.map(Outcome::Recorded),
            // A grading asks no model.
            Err(failed) => Ok(Outcome::Failed(Failed { tokens: Some(0), ..failed }.record(slot, round))),
        }
    };
    let outcome = alive(&sandbox, work).await?;
    let_go(&sandbox, &outcome).await;
    Ok(outcome)
}

async fn read_patch(context: &Context, digest: &Digest) -> Result<String, WorkerError> {
    if *digest == Digest::of_bytes(b"") {
        return Ok(String::new());
    }
    let bytes_max = u64::try_from(PATCH_BYTES_MAX).unwrap_or(u64::MAX);
    let bytes = saving::patiently(|| context.store.get_blob(digest, bytes_max)).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A mark that task code cannot guess; it is in no record.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    Digest::of_bytes(&bytes).short(32).to_owned()
}

async fn verdict(
    context: &Context,
    item: &GradingItem,
    planned: Planned,
    (sandbox, pod): (&Sandbox, &Pod),
) -> Result<VerdictRecord, Failed> {
    let plan = match planned {
        Planned::Decided(judgement) => return Ok(record(item, judgement)),
        Planned::Run(plan) => plan,
    };
    match run(sandbox, &plan).await {
        Ok(outputs) => Ok(record(item, plan.judge(&outputs))),
        Err(error) => {
            let limit = lost(context, pod, &error, 0).await?;
            Ok(VerdictRecord {
                version: RECORD_VERSION,
                item: item.clone(),
                verdict: Verdict::Unresolved,
                failed: Vec::new(),
                detail: format!("the tests passed the sandbox's {limit} limit"),
            })
        }
    }
}

fn record(item: &GradingItem, judgement: sealign_tasks::grade::Judgement) -> VerdictRecord {
    VerdictRecord {
        version: RECORD_VERSION,
        item: item.clone(),
        verdict: judgement.verdict,
        failed: judgement.failed,
        detail: judgement.detail,
    }
}

async fn run(sandbox: &Sandbox, plan: &GradingPlan) -> Result<Vec<RunOutput>, SandboxError> {
    let file = |file: &sealign_manifest::TaskFile| FileWrite {
        path: file.path.clone(),
        content: Bytes(file.content.clone().into_bytes()),
        mode: 0o644,
    };
    sandbox.write_files(plan.files.iter().map(file).collect()).await?;
    let mut outputs = Vec::with_capacity(plan.runs.len());
    for run in &plan.runs {
        let request = ExecIsolated {
            argv: run.argv.clone(),
            cwd: String::new(),
            env: std::collections::BTreeMap::new(),
            stdin: Some(Bytes(run.stdin.clone().into_bytes())),
            timeout_seconds: u64::from(run.timeout_seconds.max(1)),
            stdout_cap_bytes: STDOUT_BYTES_MAX,
            stderr_cap_bytes: STDERR_CAP_BYTES,
        };
        let reply = sandbox.exec_isolated(&request).await?;
        outputs.push(RunOutput {
            exit_code: reply.exit_code,
            timed_out: reply.timed_out,
            stdout: reply.stdout.text(),
        });
    }
    Ok(outputs)
}

/// Makes a verdict durable: a definite one first where every campaign finds it. Returns the one that counts.
///
/// # Errors
/// [`WorkerError::Store`].
pub async fn save(context: &Context, slot: &Slot, record: &VerdictRecord) -> Result<Graded, WorkerError> {
    if record.verdict == Verdict::Infra {
        return link(context, slot, record).await;
    }
    let counting = saving::settle_json(&*context.store, &key::verdict(&slot.item), record).await?.0;
    link(context, slot, &counting).await
}

/// Records a verdict under the run alone.
///
/// # Errors
/// [`WorkerError::Store`].
pub async fn link(context: &Context, slot: &Slot, record: &VerdictRecord) -> Result<Graded, WorkerError> {
    let key = context.keys.record(&slot.group, Stage::Grade, &slot.item);
    let (counting, digest) = saving::settle_json(&*context.store, &key, record).await?;
    Ok(Graded { verdict: counting.verdict, digest })
}

/// The record of a grading that infrastructure failed for good.
pub fn closed_out(item: &GradingItem, detail: String) -> VerdictRecord {
    VerdictRecord {
        version: RECORD_VERSION,
        item: item.clone(),
        verdict: Verdict::Infra,
        failed: Vec::new(),
        detail,
    }
}

/// The grading that a patch needs.
pub fn item_of(task: &Task, task_digest: &Digest, patch: &Digest, repeat: u32) -> GradingItem {
    GradingItem {
        task: task_digest.clone(),
        patch: patch.clone(),
        environment: task.environment.digest.clone(),
        grader: sealign_tasks::grade::GRADER_VERSION,
        repeat,
    }
}
