//! What a runner knows of its items, and what it does next: the item state machine. No I/O, no clock.
//!
//! An item is open, in hand or recorded, and nothing else; its failed tries stand beside it. The driver tells the board
//! what it saw and what it has made durable, and carries out the [`Action`]s that [`Board::act`] returns. So a board can
//! be rebuilt from the store at any moment, and a crash between two actions costs at most the attempts in hand.
//!
//! Rules (DESIGN 3.1 to 3.4): a pod serves at most one item and an item is in one hand at a time; a recorded item is
//! never started again; every failed try is written with its cause; tries whose cause counts exhaust an item; only here is
//! an item closed without a result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealign_manifest::ItemKey;
use sealign_manifest::group::{RoundMap, TryCause, TryRecord};
use sealign_manifest::key::Stage;

use super::pods::{Fate, Phase, Pod, fate};
use super::stage::{Group, Item, StageBoard, StageProgress, State, describe};

/// Pods that are remembered beyond those that exist: pods that are gone never come back.
const SETTLED_MAX: usize = 4096;

/// Which record an item's result goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Group id.
    pub group: String,
    /// Stage of the group.
    pub stage: Stage,
    /// The item.
    pub item: ItemKey,
}

/// What the driver is to do. Every action takes its item in hand until the driver reports the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Claim the pod and work the item; without a pod for harnesses that need none.
    Start {
        /// The item.
        slot: Slot,
        /// The sandbox.
        pod: Option<Arc<Pod>>,
        /// Round of the try.
        round: u32,
    },
    /// Let a pod go whose item needs it no more.
    Dismiss(Arc<Pod>),
    /// Write that a try failed.
    Fail(Slot, TryRecord),
    /// Read whether a record came from elsewhere.
    Look(Slot),
    /// Write the terminal record: infrastructure failed every try.
    Exhaust(Slot, String),
    /// Write the terminal record: the budget is spent.
    NotRun(Slot),
    /// Write the mark that this budget is spent.
    MarkBudget(u64),
    /// Write the manifest of a stage whose items all have records.
    Close(String, Stage),
}

/// What holds for every item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Counted tries that exhaust an item.
    pub infra_tries: u32,
    /// Tokens that a try costs when nobody knows.
    pub attempt_tokens: u64,
    /// Tokens that may be spent.
    pub budget_tokens: Option<u64>,
    /// Whether a spent budget closes what is open.
    pub budget_finishes: bool,
    /// Whether rollouts have a pod each; without, so many are in hand at once.
    pub sandboxed: bool,
    /// Attempts in hand at most where there are no pods.
    pub parallelism: usize,
    /// Whether patches are graded.
    pub graded: bool,
}

/// The items of one plan.
#[derive(Debug)]
pub struct Board {
    rules: Rules,
    groups: BTreeMap<String, Group>,
    /// Pods that need no further thought: started, dismissed or ended.
    settled: BTreeSet<String>,
    /// Images of which a pod has run: proof that images can be pulled.
    images_run: BTreeSet<String>,
    /// Items that only wait for such a proof.
    waiting_for_image: BTreeSet<Slot>,
    queue: Vec<Action>,
    tokens: u64,
    is_budget_marked: bool,
    in_hand: usize,
}

impl Board {
    /// A board without groups.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            groups: BTreeMap::new(),
            settled: BTreeSet::new(),
            images_run: BTreeSet::new(),
            waiting_for_image: BTreeSet::new(),
            queue: Vec::new(),
            tokens: 0,
            is_budget_marked: false,
            in_hand: 0,
        }
    }

    /// Adds a group with its rollout items, each with its policy. Say then which of its stages are closed, and after that
    /// which records exist.
    pub fn add_group(
        &mut self,
        id: &str,
        image: &str,
        rollouts: impl IntoIterator<Item = (ItemKey, String)>,
    ) {
        let mut group = Group::of_image(image);
        group.rollout.begin(rollouts);
        self.groups.insert(id.to_owned(), group);
    }

    /// Says that a rollout stage is closed and which gradings it asks for.
    pub fn rollouts_closed(&mut self, id: &str, gradings: impl IntoIterator<Item = ItemKey>) {
        let graded = self.rules.graded;
        let Some(group) = self.groups.get_mut(id) else { return };
        group.rollout.progress = StageProgress::Closed;
        if graded {
            let before = group.grade.progress;
            group.grade.begin(gradings.into_iter().map(|key| (key, String::new())));
            if before == StageProgress::Closed {
                group.grade.progress = before;
            }
            self.close_if_due(id, Stage::Grade);
        } else {
            group.grade.progress = StageProgress::Closed;
        }
    }

    /// Says that a grade stage is closed.
    pub fn gradings_closed(&mut self, id: &str) {
        if let Some(group) = self.groups.get_mut(id) {
            group.grade.progress = StageProgress::Closed;
        }
    }

    /// Says that an item has its record, ours or another's; `tokens` of the try that is recorded.
    pub fn recorded(&mut self, slot: &Slot, tokens: u64) {
        let Some(stage) = self.groups.get_mut(&slot.group).map(|group| group.stage(slot.stage)) else {
            return;
        };
        let Some(item) = stage.items.get_mut(&slot.item) else { return };
        let before = std::mem::replace(&mut item.state, State::Recorded);
        self.in_hand -= usize::from(before == State::InHand);
        self.waiting_for_image.remove(slot);
        if before != State::Recorded {
            stage.unrecorded -= 1;
            self.spend(tokens);
            self.close_if_due(&slot.group, slot.stage);
        }
    }

    /// Says that a failed try is durable: its item is open again, or exhausted.
    pub fn failed(&mut self, slot: &Slot, failed: &TryRecord) {
        let charged = match slot.stage {
            Stage::Rollout => failed.tokens.unwrap_or(self.rules.attempt_tokens),
            Stage::Grade => 0,
        };
        let is_new = self.note_try(slot, failed.round, failed.cause);
        if is_new {
            self.spend(charged);
        }
        self.open(slot);
    }

    /// Says that the driver is done with an item that has no record yet.
    pub fn open(&mut self, slot: &Slot) {
        let Some(item) = self.item(slot) else { return };
        let was_in_hand = item.state == State::InHand;
        if was_in_hand {
            item.state = State::Open;
            self.in_hand -= 1;
        }
        self.close_out(slot);
    }

    /// Whether the budget is spent.
    pub fn is_budget_spent(&self) -> bool {
        self.rules.budget_tokens.is_some_and(|budget| self.tokens >= budget)
    }

    /// Whether every stage of every group is closed.
    pub fn is_done(&self) -> bool {
        let is_closed = |stage: &StageBoard| stage.progress == StageProgress::Closed;
        self.groups.values().all(|group| is_closed(&group.rollout) && is_closed(&group.grade))
    }

    /// Whether patches are graded.
    pub fn is_graded(&self) -> bool {
        self.rules.graded
    }

    /// Items that are being worked on now.
    pub fn in_hand(&self) -> usize {
        self.in_hand
    }

    /// Tokens of all tries.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// What to do now, given the pods there are. `is_ready` says whether a policy's model answers.
    pub fn act(&mut self, pods: &[Arc<Pod>], is_ready: &dyn Fn(&str) -> bool) -> Vec<Action> {
        if self.is_budget_spent() && !self.is_budget_marked {
            self.is_budget_marked = true;
            self.queue.extend(self.rules.budget_tokens.map(Action::MarkBudget));
            self.close_out_all();
        }
        if self.settled.len() > SETTLED_MAX + pods.len() {
            let present: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
            self.settled.retain(|uid| present.contains(uid));
        }
        for pod in pods {
            self.consider(pod, is_ready);
        }
        if !self.rules.sandboxed {
            self.start_without_pods(is_ready);
        }
        std::mem::take(&mut self.queue)
    }

    /// Looks for records of open items that no pod serves. A runner before this one, or one beside it that was given up too
    /// early, may write them after this one has read what there was; then no further round comes that would tell.
    pub fn look_for_others(&mut self, pods: &[Arc<Pod>]) {
        let live = pods.iter().filter(|pod| !pod.phase.is_terminal());
        let served: BTreeSet<Slot> = live
            .filter_map(|pod| pod.item())
            .map(|(map, item)| Slot { group: map.group.clone(), stage: map.stage, item: item.clone() })
            .collect();
        let mut slots = Vec::new();
        for (group, board) in &mut self.groups {
            for stage in [Stage::Rollout, Stage::Grade] {
                let stage_board = board.stage(stage);
                if stage_board.round.is_none() || stage_board.progress != StageProgress::Running {
                    continue;
                }
                let open = stage_board.items.iter().filter(|(_, item)| item.state == State::Open);
                slots.extend(open.map(|(item, _)| Slot { group: group.clone(), stage, item: item.clone() }));
            }
        }
        for slot in slots {
            if !served.contains(&slot) && self.take(&slot) {
                self.queue.push(Action::Look(slot));
            }
        }
    }

    fn spend(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }

    fn item(&mut self, slot: &Slot) -> Option<&mut Item> {
        self.groups.get_mut(&slot.group)?.stage(slot.stage).items.get_mut(&slot.item)
    }

    fn note_try(&mut self, slot: &Slot, round: u32, cause: TryCause) -> bool {
        self.item(slot).is_some_and(|item| item.tries.insert(round, cause).is_none())
    }

    /// Takes an open item in hand; false when it is not open.
    fn take(&mut self, slot: &Slot) -> bool {
        let Some(item) = self.item(slot).filter(|item| item.state == State::Open) else { return false };
        item.state = State::InHand;
        self.in_hand += 1;
        true
    }

    fn close_if_due(&mut self, id: &str, stage: Stage) {
        let Some(board) = self.groups.get_mut(id).map(|group| group.stage(stage)) else { return };
        if board.progress == StageProgress::Running && board.unrecorded == 0 {
            board.progress = StageProgress::Closing;
            self.queue.push(Action::Close(id.to_owned(), stage));
        }
    }

    /// Closes an open item without a result, where a rule says so.
    fn close_out(&mut self, slot: &Slot) {
        let spent = self.is_budget_spent() && self.rules.budget_finishes && slot.stage == Stage::Rollout;
        let tries_max = usize::try_from(self.rules.infra_tries).unwrap_or(usize::MAX);
        let other_image_ran = |board: &Self| {
            let image = board.groups.get(&slot.group).map(|group| &group.image);
            board.images_run.iter().any(|ran| Some(ran) != image)
        };
        let Some(item) = self.item(slot).filter(|item| item.state == State::Open) else { return };
        let counted: Vec<TryCause> = item.tries.values().copied().filter(|cause| cause.counts()).collect();
        if counted.len() >= tries_max {
            // An image that no pod can pull may be the registry's fault: then it is a condition, not a result.
            if counted.iter().all(|cause| *cause == TryCause::Image) && !other_image_ran(self) {
                self.waiting_for_image.insert(slot.clone());
                return;
            }
            if self.take(slot) {
                self.queue.push(Action::Exhaust(slot.clone(), describe(&counted)));
            }
        } else if spent && self.take(slot) {
            self.queue.push(Action::NotRun(slot.clone()));
        }
    }

    fn close_out_all(&mut self) {
        let mut open = Vec::new();
        for (group, board) in &self.groups {
            let items = board.rollout.items.iter().filter(|(_, item)| item.state == State::Open);
            open.extend(items.map(|(item, _)| Slot {
                group: group.clone(),
                stage: Stage::Rollout,
                item: item.clone(),
            }));
        }
        for slot in open {
            self.close_out(&slot);
        }
    }

    fn consider(&mut self, pod: &Arc<Pod>, is_ready: &dyn Fn(&str) -> bool) {
        if self.settled.contains(&pod.uid) {
            return;
        }
        let Some((map, item)) = pod.item() else { return };
        self.see_round(map);
        let slot = Slot { group: map.group.clone(), stage: map.stage, item: item.clone() };
        if pod.phase == Phase::Running || pod.exit_code.is_some() {
            self.see_image(&map.group);
        }
        let is_current =
            self.groups.get_mut(&map.group).and_then(|group| group.stage(map.stage).round) == Some(map.round);
        let Some(found) = self.item(&slot) else { return };
        let (state, policy) = (found.state, found.policy.clone());
        match (pod.phase, state) {
            // A second pod of an item in hand waits: it is let go, or used, when the first one is through. And the end of
            // the pod in hand is read by the try itself.
            (Phase::Pending, _) | (_, State::InHand) => {}
            (Phase::Running, State::Recorded) => self.settle(pod, Action::Dismiss(pod.clone())),
            (Phase::Running, State::Open) => {
                if !is_current || pod.address.is_empty() {
                    return;
                }
                if map.stage == Stage::Rollout && self.is_budget_spent() {
                    self.give_up(
                        &slot,
                        pod,
                        map.round,
                        (TryCause::Suspended, "the budget is spent".to_owned()),
                    );
                } else if (map.stage == Stage::Grade || is_ready(&policy)) && self.take(&slot) {
                    let start = Action::Start { slot, pod: Some(pod.clone()), round: map.round };
                    self.settle(pod, start);
                }
            }
            (Phase::Succeeded | Phase::Failed, State::Recorded) => {
                self.settled.insert(pod.uid.clone());
            }
            (Phase::Succeeded, State::Open) => {
                if self.take(&slot) {
                    self.settle(pod, Action::Look(slot));
                }
            }
            (Phase::Failed, State::Open) => self.ended_unseen(&slot, pod, map.round),
        }
    }

    fn settle(&mut self, pod: &Pod, action: Action) {
        self.settled.insert(pod.uid.clone());
        self.queue.push(action);
    }

    /// A pod that ended without this runner: it never served, or served a runner before this one.
    fn ended_unseen(&mut self, slot: &Slot, pod: &Arc<Pod>, round: u32) {
        let Fate::Failed(cause, detail) = fate(Some(pod), false) else { return };
        self.settled.insert(pod.uid.clone());
        self.queue_try(slot, round, (cause, detail), None);
    }

    /// Lets a pod go whose item stays open.
    fn give_up(&mut self, slot: &Slot, pod: &Arc<Pod>, round: u32, why: (TryCause, String)) {
        self.settle(pod, Action::Dismiss(pod.clone()));
        self.queue_try(slot, round, why, Some(0));
    }

    fn queue_try(&mut self, slot: &Slot, round: u32, why: (TryCause, String), tokens: Option<u64>) {
        let is_known = self.item(slot).is_none_or(|item| item.tries.contains_key(&round));
        if is_known || !self.take(slot) {
            return;
        }
        let (cause, detail) = why;
        let failed = TryRecord { item: slot.item.clone(), round, cause, tokens, detail };
        self.queue.push(Action::Fail(slot.clone(), failed));
    }

    fn see_image(&mut self, group: &str) {
        let Some(image) = self.groups.get(group).map(|group| group.image.clone()) else { return };
        if self.images_run.insert(image) {
            for slot in std::mem::take(&mut self.waiting_for_image) {
                self.close_out(&slot);
            }
        }
    }

    /// Takes note of a round. Its map lists what was open when the round before it ended: what is open still and has no
    /// word of that round was not seen to have been started.
    pub fn see_round(&mut self, map: &RoundMap) {
        let Some(board) = self.groups.get_mut(&map.group).map(|group| group.stage(map.stage)) else { return };
        if board.round.is_some_and(|known| known >= map.round) {
            return;
        }
        board.round = Some(map.round);
        let Some(before) = map.round.checked_sub(1) else { return };
        for item in &map.items {
            let slot = Slot { group: map.group.clone(), stage: map.stage, item: item.clone() };
            self.queue_try(&slot, before, (TryCause::Unseen, String::new()), Some(0));
        }
    }

    fn start_without_pods(&mut self, is_ready: &dyn Fn(&str) -> bool) {
        if self.is_budget_spent() {
            return;
        }
        let mut free = self.rules.parallelism.saturating_sub(self.in_hand);
        let mut starts = Vec::new();
        for (id, group) in &self.groups {
            if free == 0 {
                break;
            }
            let open = group.rollout.items.iter().filter(|(_, item)| item.state == State::Open);
            for (key, item) in open.filter(|(_, item)| is_ready(&item.policy)).take(free) {
                let round = item.tries.keys().next_back().map_or(0, |last| last + 1);
                starts.push((Slot { group: id.clone(), stage: Stage::Rollout, item: key.clone() }, round));
            }
            free = self.rules.parallelism.saturating_sub(self.in_hand + starts.len());
        }
        for (slot, round) in starts {
            if self.take(&slot) {
                self.queue.push(Action::Start { slot, pod: None, round });
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
