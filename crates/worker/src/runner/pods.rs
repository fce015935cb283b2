//! The pods that a runner may see, and what their ends mean.
//!
//! A directory of pods is a port with two adapters: a folder (embedded runs, [`super::folder`]) and a pod watch (in a
//! cluster). Nothing here writes a pod; what a pod's end means for its item is decided by [`fate`], which is pure.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::ItemKey;
use sealign_manifest::group::{RoundMap, TryCause, WaitingPods};

/// Exit code of a sandbox server whose runner fell silent.
const EXIT_RUNNER_SILENT: i32 = 10;
/// Exit code of a process that SIGTERM ended: its Job was deleted.
const EXIT_TERMINATED: i32 = 143;

/// What a pod is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodRole {
    /// A sandbox, with the map that its index points into.
    Sandbox {
        /// The round's open items.
        map: Arc<RoundMap>,
        /// Completion index.
        index: u32,
    },
    /// A model server of this policy.
    Server {
        /// Name of the policy within the campaign.
        policy: String,
    },
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started: no node yet, or its image is being pulled.
    Pending,
    /// Started.
    Running,
    /// Every container ended with 0.
    Succeeded,
    /// It ended otherwise.
    Failed,
}

impl Phase {
    /// Whether nothing more will happen to the pod.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// One pod of the runner's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name, for people.
    pub name: String,
    /// UID: another pod of the same name is another pod.
    pub uid: String,
    /// What it is for.
    pub role: PodRole,
    /// `unix:/path`, `host:port` or `http://host:port`; empty before it has one.
    pub address: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Exit code of its main container, once there is one.
    pub exit_code: Option<i32>,
    /// Why it waits or ended, as the kubelet says it; may hold more words behind the reason.
    pub reason: String,
}

impl Pod {
    /// The item that a sandbox pod serves; `None` for other pods and for an index outside its map.
    pub fn item(&self) -> Option<(&RoundMap, &ItemKey)> {
        match &self.role {
            PodRole::Sandbox { map, index } => Some((map, map.items.get(usize::try_from(*index).ok()?)?)),
            PodRole::Server { .. } => None,
        }
    }
}

/// Why a directory gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("the pods cannot be listed: {0}")]
pub struct DirectoryError(pub String);

/// The pods of one owner.
#[async_trait]
pub trait PodDirectory: Send + Sync {
    /// Every pod that carries the owner's UID, in order of name.
    async fn list(&self) -> Result<Vec<Arc<Pod>>, DirectoryError>;

    /// Waits until something may have changed, at most `limit`.
    async fn changed(&self, limit: Duration);
}

/// What the end of a pod means for the item that it served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The task ran into its own limit: the model's doing, a result.
    OwnLimit(OwnLimit),
    /// Infrastructure: a failed try.
    Failed(TryCause, String),
}

/// A limit of the pod itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnLimit {
    /// Memory.
    Memory,
    /// Ephemeral storage.
    Disk,
}

/// Reads a pod's end (`None`: it vanished without a word). `was_claimed` says whether task code may have run in it:
/// what never ran cannot have passed a limit.
pub fn fate(pod: Option<&Pod>, was_claimed: bool) -> Fate {
    let Some(pod) = pod else {
        return Fate::Failed(TryCause::NodeLost, "the pod vanished".to_owned());
    };
    let detail = || {
        let code = pod.exit_code.map_or_else(String::new, |code| format!(" (exit code {code})"));
        format!("{}{code}", pod.reason.chars().take(200).collect::<String>())
    };
    let word = pod.reason.split([':', ' ']).next().unwrap_or_default();
    let names_own_storage = pod.reason.contains("ephemeral") && pod.reason.contains("limit");
    let cause = match word {
        "OOMKilled" if was_claimed => return Fate::OwnLimit(OwnLimit::Memory),
        "Evicted" if was_claimed && names_own_storage => return Fate::OwnLimit(OwnLimit::Disk),
        "Evicted" | "Preempted" | "Preempting" | "PreemptionByScheduler" => TryCause::Preempted,
        "NodeLost" | "NodeShutdown" | "Terminated" | "DeletionByTaintManager" | "DeletionByPodGC" => {
            TryCause::NodeLost
        }
        "Unschedulable" => TryCause::Unschedulable,
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => TryCause::Image,
        _ => match pod.exit_code {
            Some(EXIT_RUNNER_SILENT) => TryCause::RunnerLost,
            Some(EXIT_TERMINATED) => TryCause::Suspended,
            _ => TryCause::Sandbox,
        },
    };
    Fate::Failed(cause, detail())
}

/// The pods that wait for what `cause` names, with the words of one; `None` where there are none.
pub fn waiting(pods: &[Arc<Pod>], cause: TryCause) -> Option<WaitingPods> {
    let waits = |pod: &&Arc<Pod>| {
        let is_waiting = pod.phase == Phase::Pending && !pod.reason.is_empty();
        is_waiting && matches!(fate(Some(pod), false), Fate::Failed(found, _) if found == cause)
    };
    let mut found = pods.iter().filter(waits);
    let first = found.next()?;
    let others = u64::try_from(found.count()).unwrap_or(u64::MAX);
    Some(WaitingPods { pods: others.saturating_add(1), detail: first.reason.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_wait_for_a_node_or_an_image_are_counted_and_others_are_not() {
        let waits = |reason: &str| Arc::new(Pod { phase: Phase::Pending, ..ended(reason, None) });
        let started = Arc::new(ended("Unschedulable: x", None));
        let pods = [
            waits(""),
            started,
            waits("Unschedulable: 0/2"),
            waits("Unschedulable: 0/3"),
            waits("ErrImagePull: no"),
        ];
        let told = |pods: u64, detail: &str| Some(WaitingPods { pods, detail: detail.into() });
        assert_eq!(waiting(&pods, TryCause::Unschedulable), told(2, "Unschedulable: 0/2"));
        assert_eq!(waiting(&pods, TryCause::Image), told(1, "ErrImagePull: no"));
        assert_eq!(waiting(&pods, TryCause::Sandbox), None);
    }

    fn ended(reason: &str, exit_code: Option<i32>) -> Pod {
        Pod {
            name: "p".into(),
            uid: "u".into(),
            role: PodRole::Server { policy: "m".into() },
            address: String::new(),
            phase: Phase::Failed,
            exit_code,
            reason: reason.into(),
        }
    }

    #[track_caller]
    fn check(reason: &str, exit_code: Option<i32>, expected: TryCause) {
        match fate(Some(&ended(reason, exit_code)), true) {
            Fate::Failed(cause, _) => assert_eq!(cause, expected, "{reason}"),
            Fate::OwnLimit(limit) => panic!("{reason} was read as {limit:?}"),
        }
    }

    #[test]
    fn a_pod_that_passes_its_own_limit_is_the_models_doing() {
        let storage = "Evicted: Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.";
        assert_eq!(fate(Some(&ended("OOMKilled", Some(137))), true), Fate::OwnLimit(OwnLimit::Memory));
        assert_eq!(fate(Some(&ended(storage, None)), true), Fate::OwnLimit(OwnLimit::Disk));
    }

    #[test]
    fn a_pod_that_never_ran_task_code_has_passed_no_limit() {
        assert!(matches!(
            fate(Some(&ended("OOMKilled", Some(137))), false),
            Fate::Failed(TryCause::Sandbox, _)
        ));
    }

    #[test]
    fn ends_that_are_nobodys_doing_have_causes_that_do_not_count() {
        check("Evicted: The node was low on resource: memory.", None, TryCause::Preempted);
        check("NodeLost", None, TryCause::NodeLost);
        check("", Some(10), TryCause::RunnerLost);
        check("", Some(143), TryCause::Suspended);
    }

    #[test]
    fn other_ends_count_against_the_tries() {
        check("ErrImagePull: not found", None, TryCause::Image);
        check("Error", Some(1), TryCause::Sandbox);
        check("", None, TryCause::Sandbox);
    }
}
