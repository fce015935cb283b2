//! The driver: carries out what the board decides, and tells it what came of it.
//!
//! One task per item in hand; everything it reports is durable before it does. The driver holds nothing that the store
//! does not: dropped at any point and begun again, it goes on where the records say.

mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sealign_manifest::group::{GroupManifest, TryRecord};
use sealign_manifest::key::Stage;
use sealign_manifest::{Digest, GradingItem, ItemKey, RolloutItem, RolloutRecord, StopReason, VerdictRecord};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attempt::{self, Outcome};
use super::close::{self, Closing};
use super::context::Context;
use super::grading;
use super::outcome::Seen;
use super::plan::{Graded, GroupWork, PlanWork, Rollout, document};
use super::pods::{Pod, PodDirectory};
use super::standing::Standing;
use super::state::{Action, Board, Rules, Slot};
use crate::error::WorkerError;
use crate::saving;

/// Time between two progress documents.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Time between two questions to models that answer.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Time between two questions while one does not.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
/// Time between two searches for records that others wrote; the next round waits about as long for a silent pod to end.
const SEARCH_EVERY: Duration = Duration::from_secs(30);
/// Longest wait for a change of the pods; every event ends it sooner.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What a finished task tells.
enum Event {
    Rollout(Slot, Outcome<Rollout>),
    Graded(Slot, Outcome<Graded>),
    TryWritten(Slot, TryRecord),
    /// Nothing was found where a record might have come from elsewhere.
    StillOpen(Slot),
    Closed(String, Stage, Closing),
    Checked(BTreeMap<String, Result<(), String>>),
    /// Nothing that anybody waits for.
    Done,
}

/// What is known of a group beyond the board.
pub(super) struct GroupFacts {
    pub(super) items: BTreeMap<ItemKey, RolloutItem>,
    pub(super) rollouts: BTreeMap<ItemKey, Rollout>,
    pub(super) gradings: BTreeMap<ItemKey, GradingItem>,
    pub(super) verdicts: BTreeMap<ItemKey, Graded>,
    pub(super) manifests: BTreeMap<Stage, GroupManifest>,
}

/// A run in progress.
pub struct Driver {
    context: Arc<Context>,
    board: Board,
    pub(super) groups: BTreeMap<String, GroupFacts>,
    directory: Arc<dyn PodDirectory>,
    seen: watch::Sender<Seen>,
    tasks: JoinSet<Result<Event, WorkerError>>,
    /// Policies whose model answers, or why not.
    ready: BTreeMap<String, Result<(), String>>,
    /// Policies whose model has answered at least once.
    answered: BTreeSet<String>,
    standing: watch::Sender<Standing>,
    is_checking: bool,
    next_check: Instant,
    next_progress: Instant,
    next_search: Instant,
    blocked: String,
    /// Tokens of failed tries are not split, so only recorded ones are reported apart.
    tokens: (u64, u64),
}

impl Driver {
    /// A driver of `work`, as far as it is recorded. `seen` is the sender that [`Context::ends`] listens to.
    pub fn new(
        context: Arc<Context>,
        directory: Arc<dyn PodDirectory>,
        seen: watch::Sender<Seen>,
        rules: Rules,
        work: PlanWork,
    ) -> Self {
        let now = Instant::now();
        let mut driver = Self {
            context,
            board: Board::new(rules),
            groups: BTreeMap::new(),
            directory,
            seen,
            tasks: JoinSet::new(),
            ready: BTreeMap::new(),
            answered: BTreeSet::new(),
            standing: watch::Sender::default(),
            is_checking: false,
            next_check: now,
            next_progress: now,
            next_search: now + SEARCH_EVERY,
            blocked: String::new(),
            tokens: (0, 0),
        };
        let mut rounds = Vec::new();
        for group in work.groups {
            rounds.extend(group.rounds.iter().cloned());
            driver.add_group(group);
        }
        driver.add_tries(&work.tries);
        // After the tries: what has one is not written off as unseen.
        for map in &rounds {
            driver.board.see_round(map);
        }
        driver
    }

    /// Shows where the work stands to those who hold receivers of `standing`.
    #[must_use]
    pub fn showing(mut self, standing: watch::Sender<Standing>) -> Self {
        self.standing = standing;
        self
    }

    /// Works until every stage of every group is closed.
    ///
    /// # Errors
    /// [`WorkerError`] when the store fails for good; what is recorded stays, another runner goes on.
    pub async fn run(&mut self) -> Result<(), WorkerError> {
        while !self.board.is_done() || !self.tasks.is_empty() {
            let pods = self.look().await;
            self.check_models(&pods);
            self.show(&pods);
            if Instant::now() >= self.next_search {
                self.next_search = Instant::now() + SEARCH_EVERY;
                self.board.look_for_others(&pods);
            }
            let ready = std::mem::take(&mut self.ready);
            let actions = self.board.act(&pods, &|policy| matches!(ready.get(policy), Some(Ok(()))));
            self.ready = ready;
            for action in actions {
                self.carry_out(action)?;
            }
            if Instant::now() >= self.next_progress {
                self.next_progress = Instant::now() + PROGRESS_EVERY;
                self.write_progress();
            }
            if self.board.is_done() && self.tasks.is_empty() {
                break;
            }
            self.wait().await?;
        }
        Ok(())
    }

    /// Waits for a task to end, for the pods to change, or for something that is due.
    async fn wait(&mut self) -> Result<(), WorkerError> {
        let checks = if self.context.rollouts.is_some() { self.next_check } else { self.next_progress };
        let due = checks.min(self.next_progress).saturating_duration_since(Instant::now());
        let limit = due.clamp(Duration::from_millis(1), WAIT_MAX);
        let joined = tokio::select! {
            biased;
            Some(joined) = self.tasks.join_next() => Some(joined),
            () = self.directory.changed(limit) => None,
        };
        let mut next = joined;
        while let Some(joined) = next {
            match joined {
                Ok(event) => self.apply(event?),
                Err(stopped) => {
                    return Err(WorkerError::Premise(format!("a task of the runner ended: {stopped}")));
                }
            }
            next = self.tasks.try_join_next();
        }
        Ok(())
    }

    async fn look(&mut self) -> Vec<Arc<Pod>> {
        match self.directory.list().await {
            Ok(pods) => {
                self.blocked.clear();
                if **self.seen.borrow() != pods {
                    self.seen.send_replace(Arc::new(pods.clone()));
                }
                pods
            }
            Err(error) => {
                self.blocked = error.to_string();
                Vec::new()
            }
        }
    }

    fn check_models(&mut self, pods: &[Arc<Pod>]) {
        let Some(rollouts) = self.context.rollouts.as_ref() else { return };
        if self.is_checking || Instant::now() < self.next_check {
            return;
        }
        self.is_checking = true;
        self.next_check = Instant::now() + CHECK_EVERY;
        let (models, pods) = (rollouts.models.clone(), Arc::new(pods.to_vec()));
        self.tasks.spawn(async move { Ok(Event::Checked(models.check(pods).await)) });
    }

    fn add_group(&mut self, group: GroupWork) {
        let gradings = match &group.rollout_manifest {
            // Health and predictions ask for gradings that no rollout of theirs made.
            Some(manifest) if group.items.is_empty() => {
                manifest.gradings.iter().map(|item| (item.key(), item.clone())).collect()
            }
            _ => super::plan::gradings(&group.rollouts, &self.context.tasks),
        };
        let id = group.id;
        let items = group.items.iter().map(|item| (item.key(), item.policy.clone()));
        self.board.add_group(&id, &group.image, items);
        let mut manifests = BTreeMap::new();
        if let Some(manifest) = group.grade_manifest {
            self.board.gradings_closed(&id);
            manifests.insert(Stage::Grade, manifest);
        }
        let is_closed = group.rollout_manifest.is_some();
        if let Some(manifest) = group.rollout_manifest {
            self.board.rollouts_closed(&id, gradings.keys().cloned());
            manifests.insert(Stage::Rollout, manifest);
        }
        for (item, rollout) in &group.rollouts {
            let slot = Slot { group: id.clone(), stage: Stage::Rollout, item: item.clone() };
            self.count(rollout);
            self.board.recorded(&slot, rollout.tokens.0 + rollout.tokens.1);
        }
        for item in group.verdicts.keys().filter(|_| is_closed) {
            let slot = Slot { group: id.clone(), stage: Stage::Grade, item: item.clone() };
            self.board.recorded(&slot, 0);
        }
        let facts = GroupFacts {
            items: group.items.into_iter().map(|item| (item.key(), item)).collect(),
            rollouts: group.rollouts,
            gradings,
            verdicts: group.verdicts,
            manifests,
        };
        self.groups.insert(id, facts);
    }

    fn add_tries(&mut self, tries: &[TryRecord]) {
        for failed in tries {
            for (group, facts) in &self.groups {
                let stage = if facts.items.contains_key(&failed.item) {
                    Stage::Rollout
                } else if facts.gradings.contains_key(&failed.item) {
                    Stage::Grade
                } else {
                    continue;
                };
                let slot = Slot { group: group.clone(), stage, item: failed.item.clone() };
                self.board.failed(&slot, failed);
            }
        }
    }

    fn count(&mut self, rollout: &Rollout) {
        self.tokens.0 += rollout.tokens.0;
        self.tokens.1 += rollout.tokens.1;
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Rollout(slot, Outcome::Recorded(rollout)) => {
                self.count(&rollout);
                self.board.recorded(&slot, rollout.tokens.0 + rollout.tokens.1);
                if let Some(facts) = self.groups.get_mut(&slot.group) {
                    facts.rollouts.insert(slot.item, rollout);
                }
            }
            Event::Graded(slot, Outcome::Recorded(graded)) => {
                self.board.recorded(&slot, 0);
                if let Some(facts) = self.groups.get_mut(&slot.group) {
                    facts.verdicts.insert(slot.item, graded);
                }
            }
            Event::Rollout(slot, Outcome::Failed(failed)) | Event::Graded(slot, Outcome::Failed(failed)) => {
                tracing::info!(item = %slot.item, cause = ?failed.cause, detail = failed.detail, "a try failed");
                self.spawn_try(slot, failed);
            }
            Event::TryWritten(slot, failed) => self.board.failed(&slot, &failed),
            Event::StillOpen(slot) => self.board.open(&slot),
            Event::Closed(group, stage, closing) => self.stage_closed(&group, stage, closing),
            Event::Checked(ready) => {
                let all = ready.values().all(Result::is_ok);
                self.is_checking = false;
                self.next_check = Instant::now() + if all { CHECK_EVERY } else { CHECK_AGAIN };
                let answering = ready.iter().filter(|(_, answer)| answer.is_ok());
                self.answered.extend(answering.map(|(policy, _)| policy.clone()));
                self.ready = ready;
            }
            Event::Done => {}
        }
    }

    fn stage_closed(&mut self, group: &str, stage: Stage, closing: Closing) {
        let Some(facts) = self.groups.get_mut(group) else { return };
        facts.manifests.insert(stage, closing.manifest);
        match stage {
            Stage::Rollout => {
                let linked: Vec<ItemKey> = closing.linked.keys().cloned().collect();
                facts.gradings = closing.gradings;
                facts.verdicts.extend(closing.linked);
                let keys: Vec<ItemKey> = facts.gradings.keys().cloned().collect();
                self.board.rollouts_closed(group, keys);
                for item in linked {
                    let slot = Slot { group: group.to_owned(), stage: Stage::Grade, item };
                    self.board.recorded(&slot, 0);
                }
            }
            Stage::Grade => self.board.gradings_closed(group),
        }
    }

    fn carry_out(&mut self, action: Action) -> Result<(), WorkerError> {
        match action {
            Action::Start { slot, pod, round } => self.start(slot, pod, round)?,
            Action::Dismiss(pod) => {
                let context = self.context.clone();
                self.tasks.spawn(async move {
                    close::dismiss(&context, &pod).await;
                    Ok(Event::Done)
                });
            }
            Action::Fail(slot, failed) => self.spawn_try(slot, failed),
            Action::Look(slot) => self.spawn_look(slot),
            Action::Exhaust(slot, detail) => self.close_out(slot, StopReason::Infra, detail)?,
            Action::NotRun(slot) => {
                self.close_out(slot, StopReason::NotRun, "the budget was spent".to_owned())?;
            }
            Action::MarkBudget(tokens) => {
                let context = self.context.clone();
                self.tasks.spawn(async move {
                    let key = context.keys.budget(tokens);
                    let mark = serde_json::json!({ "tokens": tokens });
                    saving::settle(&*context.store, &key, serde_json::to_vec(&mark)?).await?;
                    Ok(Event::Done)
                });
            }
            Action::Close(group, stage) => self.close(group, stage),
        }
        Ok(())
    }

    fn start(&mut self, slot: Slot, pod: Option<Arc<Pod>>, round: u32) -> Result<(), WorkerError> {
        let context = self.context.clone();
        match (slot.stage, pod) {
            (Stage::Rollout, pod) => {
                let item = self.rollout_item(&slot)?;
                self.tasks.spawn(async move {
                    let outcome = attempt::rollout(&context, &slot, &item, pod, round).await?;
                    Ok(Event::Rollout(slot, outcome))
                });
            }
            (Stage::Grade, Some(pod)) => {
                let item = self.grading_item(&slot)?;
                self.tasks.spawn(async move {
                    let outcome = grading::grade(&context, &slot, &item, &pod, round).await?;
                    Ok(Event::Graded(slot, outcome))
                });
            }
            (Stage::Grade, None) => {
                return Err(WorkerError::Premise("a grading was started without a pod".into()));
            }
        }
        Ok(())
    }

    fn spawn_try(&mut self, slot: Slot, failed: TryRecord) {
        let context = self.context.clone();
        self.tasks.spawn(async move {
            let key = context.keys.failed_try(&failed.item, failed.round);
            let (counting, _) = saving::settle_json(&*context.store, &key, &failed).await?;
            Ok(Event::TryWritten(slot, counting))
        });
    }

    fn spawn_look(&mut self, slot: Slot) {
        let context = self.context.clone();
        self.tasks.spawn(async move {
            let key = context.keys.record(&slot.group, slot.stage, &slot.item);
            let store = &*context.store;
            Ok(match slot.stage {
                Stage::Rollout => match document::<RolloutRecord>(store, &key).await? {
                    Some((record, digest)) => {
                        Event::Rollout(slot, Outcome::Recorded(Rollout::of(&record, digest)))
                    }
                    None => Event::StillOpen(slot),
                },
                Stage::Grade => match document::<VerdictRecord>(store, &key).await? {
                    Some((record, digest)) => {
                        let graded = Graded { verdict: record.verdict, digest };
                        Event::Graded(slot, Outcome::Recorded(graded))
                    }
                    None => Event::StillOpen(slot),
                },
            })
        });
    }

    fn close_out(&mut self, slot: Slot, stop: StopReason, detail: String) -> Result<(), WorkerError> {
        let context = self.context.clone();
        match slot.stage {
            Stage::Rollout => {
                let record = attempt::closed_out(&context, &self.rollout_item(&slot)?, stop, detail)?;
                self.tasks.spawn(async move {
                    let rollout = attempt::write(&context, &slot, &record).await?;
                    Ok(Event::Rollout(slot, Outcome::Recorded(rollout)))
                });
            }
            Stage::Grade => {
                let record = grading::closed_out(&self.grading_item(&slot)?, detail);
                self.tasks.spawn(async move {
                    let graded = grading::save(&context, &slot, &record).await?;
                    Ok(Event::Graded(slot, Outcome::Recorded(graded)))
                });
            }
        }
        Ok(())
    }

    fn close(&mut self, group: String, stage: Stage) {
        let context = self.context.clone();
        let Some(facts) = self.groups.get(&group) else { return };
        let rollouts = facts.rollouts.clone();
        let verdicts: BTreeMap<ItemKey, Digest> =
            facts.verdicts.iter().map(|(item, graded)| (item.clone(), graded.digest.clone())).collect();
        let is_graded = self.board.is_graded();
        self.tasks.spawn(async move {
            let closing = match stage {
                Stage::Rollout => close::rollouts(&context, &group, &rollouts, is_graded).await?,
                Stage::Grade => close::gradings(&context, &group, verdicts).await?,
            };
            Ok(Event::Closed(group, stage, closing))
        });
    }

    fn rollout_item(&self, slot: &Slot) -> Result<RolloutItem, WorkerError> {
        let found = self.groups.get(&slot.group).and_then(|facts| facts.items.get(&slot.item));
        found.cloned().ok_or_else(|| WorkerError::Premise(format!("the plan has no rollout {}", slot.item)))
    }

    fn grading_item(&self, slot: &Slot) -> Result<GradingItem, WorkerError> {
        let found = self.groups.get(&slot.group).and_then(|facts| facts.gradings.get(&slot.item));
        found.cloned().ok_or_else(|| WorkerError::Premise(format!("the plan has no grading {}", slot.item)))
    }
}

pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
