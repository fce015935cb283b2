//! What the driver tells others: its standing over HTTP, and the progress document.

use std::sync::Arc;

use sealign_manifest::group::{Progress, TryCause, WaitingPods};
use sealign_manifest::key::Stage;
use sealign_storage::ArtifactStoreExt as _;

use super::{Driver, Event, GroupFacts, count};
use crate::runner::close;
use crate::runner::pods::{Phase, Pod, waiting};

impl Driver {
    /// Says over HTTP what has changed; figures follow with the progress document.
    pub(super) fn show(&self, pods: &[Arc<Pod>]) {
        let is_open = |group: &GroupFacts| !group.manifests.contains_key(&Stage::Rollout);
        let has_rollouts = self.context.rollouts.is_some() && self.groups.values().any(is_open);
        let silent = has_rollouts.then(|| self.silent_policy()).flatten();
        let blind = Some(self.blocked.clone()).filter(|reason| !reason.is_empty());
        let mut counts = [0; 3];
        for pod in pods {
            let [waiting, running, ended] = &mut counts;
            let counted = match pod.phase {
                Phase::Pending => waiting,
                Phase::Running => running,
                Phase::Succeeded | Phase::Failed => ended,
            };
            *counted += 1;
        }
        self.standing.send_modify(|standing| {
            standing.has_read_plan = true;
            (standing.blind, standing.silent, standing.pods) = (blind, silent, counts);
            standing.progress.live = count(self.board.in_hand());
        });
    }

    /// A policy whose model has never answered, and why.
    fn silent_policy(&self) -> Option<String> {
        let policies = &self.context.rollouts.as_ref()?.policies;
        let policy = policies.keys().find(|policy| !self.answered.contains(*policy))?;
        let reason = match self.ready.get(policy) {
            Some(Err(reason)) => reason.as_str(),
            _ => "its model was not asked yet",
        };
        Some(format!("policy `{policy}`: {reason}"))
    }

    /// Where the run stands.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress {
            prompt_tokens: self.tokens.0,
            completion_tokens: self.tokens.1,
            live: u64::try_from(self.board.in_hand()).unwrap_or(u64::MAX),
            ..Progress::default()
        };
        for facts in self.groups.values() {
            progress.rollouts += count(facts.rollouts.len());
            progress.gradings += count(facts.verdicts.len());
            progress.gradings_known += count(facts.gradings.len());
            for outcome in close::outcomes(facts, &self.context.tasks, self.board.is_graded()) {
                *progress.outcomes.entry(outcome).or_default() += 1;
            }
        }
        let silent = self.ready.iter().find_map(|(policy, answer)| {
            answer.as_ref().err().map(|error| format!("policy `{policy}`: {error}"))
        });
        progress.blocked =
            if self.blocked.is_empty() { silent.unwrap_or_default() } else { self.blocked.clone() };
        progress.ready = progress.blocked.is_empty();
        let pods = self.seen.borrow();
        progress.unschedulable = waiting(&pods, TryCause::Unschedulable);
        progress.image_pull_failing = waiting(&pods, TryCause::Image);
        if progress.ready
            && let Some(WaitingPods { pods, detail }) = waiting(&pods, TryCause::Sandbox)
        {
            // No reason to hold anything back, but one to tell.
            progress.blocked = format!("{pods} pods do not start: {detail}");
        }
        progress
    }

    /// A hint: what cannot be written is written ten seconds later.
    pub(super) fn write_progress(&mut self) {
        let (context, progress) = (self.context.clone(), self.progress());
        self.standing.send_modify(|standing| standing.progress = progress.clone());
        self.tasks.spawn(async move {
            match context.store.overwrite_json(&context.keys.progress(), &progress).await {
                Err(error) if error.is_crash() => Err(error.into()),
                Err(error) => {
                    tracing::debug!(%error, "progress could not be written");
                    Ok(Event::Done)
                }
                Ok(()) => Ok(Event::Done),
            }
        });
    }
}
