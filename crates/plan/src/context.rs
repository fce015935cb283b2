//! What every decision has at hand, and what it gathers.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use kube::core::DynamicObject;
use sealign_crds::condition::{Claim, kind, reason};
use serde::Serialize;

use crate::Kind;
use crate::command::Command;
use crate::installation::Installation;
use crate::job::JobView;
use crate::owner::Owner;
use crate::snapshot::{NoDecision, Snapshot, Unread};

/// What every decision has at hand.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What is known.
    pub snapshot: &'a Snapshot,
    /// What the installation decides.
    pub installation: &'a Installation,
    /// The time.
    pub now: Timestamp,
    /// The object.
    pub owner: &'a Owner,
}

impl Context<'_> {
    /// The Jobs of the object.
    pub fn jobs(&self) -> Result<Vec<JobView>, Unread> {
        Ok(self.snapshot.children(Kind::Job)?.iter().map(JobView::read).collect())
    }
}

/// What a decision gathers.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Writes, in order.
    pub commands: Vec<Command>,
    /// What the conditions are to say.
    pub claims: Vec<Claim>,
    /// When to look again at the latest.
    pub wake: Option<Timestamp>,
}

impl Draft {
    /// Writes a document.
    pub fn write<T: Serialize>(&mut self, key: String, document: &T) -> Result<(), NoDecision> {
        let bytes = serde_json::to_vec(document)
            .map_err(|source| NoDecision::Encode { what: "a document of the store", source })?;
        self.commands.push(Command::WriteArtifact { key, bytes: Bytes::from(bytes) });
        Ok(())
    }

    /// Creates an object.
    pub fn create(&mut self, kind: Kind, object: DynamicObject) {
        self.commands.push(Command::Create { kind, object: Box::new(object) });
    }

    /// Deletes a Job, unless it is on its way already.
    pub fn delete_job(&mut self, job: &JobView) {
        if !job.is_leaving {
            self.commands.push(Command::Delete {
                kind: Kind::Job,
                name: job.name.clone(),
                uid: job.uid.clone(),
            });
        }
    }

    /// Looks again at `time`, or sooner.
    pub fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |earlier| earlier.min(time)));
    }

    /// Claims a condition.
    pub fn claim(
        &mut self,
        kind: &'static str,
        status: Option<bool>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.claims.push(Claim::new(kind, status, reason, message));
    }

    /// Claims how bounded work stands: `Succeeded` and `Finished`, which follow from each other.
    pub fn claim_work(&mut self, succeeded: Option<bool>, reason: &'static str, message: impl Into<String>) {
        let message = message.into();
        let (is_finished, finished_reason) = match succeeded {
            Some(_) => (true, reason),
            None => (false, reason::RUNNING),
        };
        self.claim(kind::SUCCEEDED, succeeded, reason, message.clone());
        self.claim(
            kind::FINISHED,
            Some(is_finished),
            finished_reason,
            if is_finished { message } else { String::new() },
        );
    }

    /// Time from `now` until the next look, where one is due.
    pub fn requeue(&self, now: Timestamp) -> Option<Duration> {
        self.wake.map(|time| Duration::try_from(time.duration_since(now)).unwrap_or_default())
    }
}
