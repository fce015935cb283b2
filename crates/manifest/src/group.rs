//! Manifests of work: task lists, plans, groups, round maps, closed sets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::key::Stage;
use crate::record::Outcome;
use crate::{Digest, GradingItem, ItemKey, RolloutItem, Suite};

/// Items of a group at most: one Job each, and its map has to fit an annotation (64 keys are 2.3 KiB).
pub const GROUP_ITEMS_MAX: usize = 64;

/// What a TaskSet holds, frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskListManifest {
    /// Suite of every task.
    pub suite: Suite,
    /// Digest of the rows object.
    pub rows: Digest,
    /// Tasks in order of their rows.
    pub tasks: Vec<TaskRef>,
}

impl TaskListManifest {
    /// The digest that campaigns, forests and reports name: over the tasks' ids, digests and environments. Where images are
    /// pulled from is a matter of the installation, and so are the bytes of the rows, which hold it.
    ///
    /// # Errors
    /// When the manifest cannot be written as JSON.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        let tasks: Vec<_> =
            self.tasks.iter().map(|task| (&task.id, &task.digest, &task.environment)).collect();
        Digest::of_json(&(self.suite, tasks))
    }
}

/// One task of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskRef {
    /// Identifier within the suite.
    pub id: String,
    /// Digest of the task.
    pub digest: Digest,
    /// Digest of its environment.
    pub environment: Digest,
    /// Image reference.
    pub image: String,
}

/// The verdicts on gold and empty patches, and the tasks that they put aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthManifest {
    /// Digest of the task list that was checked.
    pub tasks: Digest,
    /// Repeats of each grading.
    pub repeats: u32,
    /// Gradings made.
    pub gradings: u64,
    /// Gradings that disagreed with another repeat of theirs.
    pub flaky: u64,
    /// Task ids put aside, each with the reason.
    pub quarantined: BTreeMap<String, String>,
}

/// The work of a campaign (or of a health run, whose groups hold gradings only), frozen before any of it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanManifest {
    /// Digest of the task list.
    pub tasks: Digest,
    /// Digest of everything in the campaign's spec that decides a record.
    pub spec: Digest,
    /// Tasks that take part.
    pub task_count: u64,
    /// Rollout items in all groups.
    pub item_count: u64,
    /// Whether rollouts need a sandbox pod each.
    pub sandboxed: bool,
    /// Whether patches are graded.
    pub graded: bool,
    /// Groups in plan order.
    pub groups: Vec<GroupRef>,
}

impl PlanManifest {
    /// The digest that closed sets name. References of images, which only say where they are pulled from, are left out.
    ///
    /// # Errors
    /// When the manifest cannot be written as JSON.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        let mut content = self.clone();
        content.groups.iter_mut().for_each(|group| group.image.clear());
        Digest::of_json(&content)
    }
}

/// One group of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupRef {
    /// `g` and four or more digits: the ordinal.
    pub id: String,
    /// The image that its items share.
    pub image: String,
    /// Rollout items; 0 in a health run, whose grading list stands in the rollout manifest from the start.
    pub items: u32,
}

/// The rollout items of one group, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupItems {
    /// Group id.
    pub group: String,
    /// At most [`GROUP_ITEMS_MAX`].
    pub items: Vec<RolloutItem>,
}

/// Closes a stage of a group: every item has its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupManifest {
    /// Group id.
    pub group: String,
    /// Which stage.
    pub stage: Stage,
    /// Digest of each record's bytes, by item.
    pub records: BTreeMap<ItemKey, Digest>,
    /// For the rollout stage: the distinct non-empty patches to grade, those with a definite verdict left out. Sorted by
    /// item key, at most [`GROUP_ITEMS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gradings: Vec<GradingItem>,
}

/// What a round of a group's stage runs: the items still open, by completion index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoundMap {
    /// Group id.
    pub group: String,
    /// Which stage.
    pub stage: Stage,
    /// Round number, from 0.
    pub round: u32,
    /// Rounds in a row, this one excluded, that brought no record.
    #[serde(default)]
    pub barren: u32,
    /// Open items; the position is the completion index.
    pub items: Vec<ItemKey>,
}

/// A try that brought no record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TryRecord {
    /// What was tried.
    pub item: ItemKey,
    /// In which round.
    pub round: u32,
    /// Why it failed.
    pub cause: TryCause,
    /// Tokens spent; `None` when nobody knows, which is charged as the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// One bounded line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TryCause {
    /// The runner itself went away.
    RunnerLost,
    /// The round ended without the item having been started.
    Unseen,
    /// The object was suspended.
    Suspended,
    /// The pod was preempted.
    Preempted,
    /// The pod's node went away.
    NodeLost,
    /// The pod found no node.
    Unschedulable,
    /// The sandbox failed or went away.
    Sandbox,
    /// The image could not be pulled.
    Image,
    /// The model endpoint failed beyond its bound.
    Model,
    /// The store failed beyond its bound.
    Store,
}

impl TryCause {
    /// Whether the try counts against the infrastructure tries of its item: those that are nobody's doing do not.
    pub fn counts(self) -> bool {
        match self {
            Self::RunnerLost
            | Self::Unseen
            | Self::Suspended
            | Self::Preempted
            | Self::NodeLost
            | Self::Unschedulable => false,
            Self::Sandbox | Self::Image | Self::Model | Self::Store => true,
        }
    }
}

/// A worker's word that its input cannot be used: the object fails, and no further round is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rejection {
    /// One sentence of cause and one of remedy, naming the field or the file.
    pub message: String,
}

/// Where a campaign stands; overwritten every ten seconds, a hint for status and metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Rollout records.
    pub rollouts: u64,
    /// Grading records.
    pub gradings: u64,
    /// Gradings known to be needed so far.
    pub gradings_known: u64,
    /// Rollouts by outcome, where it is known.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Tokens of all tries.
    pub prompt_tokens: u64,
    /// Tokens of all tries.
    pub completion_tokens: u64,
    /// Sandboxes driven now.
    pub live: u64,
    /// Whether store, pod directory and model answer.
    pub ready: bool,
    /// Why not, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub blocked: String,
    /// Pods that find no node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unschedulable: Option<WaitingPods>,
    /// Pods that cannot pull their image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_failing: Option<WaitingPods>,
}

/// Pods that do not start for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingPods {
    /// How many.
    pub pods: u64,
    /// What is said of one of them: the scheduler's or the kubelet's words, bounded.
    pub detail: String,
}

/// The closed set of a campaign: the end of its work and what everything downstream names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClosedSet {
    /// Digest of the plan manifest.
    pub plan: Digest,
    /// Digest over group manifests in plan order: equal sets of records have equal digests.
    pub records: Digest,
    /// Rollouts by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Distinct patches graded.
    pub gradings: u64,
    /// Rollouts with an empty patch.
    pub empty: u64,
    /// Rollouts with three equal actions in a row.
    pub stuck: u64,
    /// Tokens of the recorded tries.
    pub prompt_tokens: u64,
    /// Tokens of the recorded tries.
    pub completion_tokens: u64,
}

/// What a TrajectoryForest produced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForestManifest {
    /// Digests of what went in: closed sets and imported files, by name.
    pub inputs: BTreeMap<String, Digest>,
    /// Digest of the options.
    pub options: Digest,
    /// Names and digests of what came out: `trees`, `pairs`, `sft`, `dpo`, `statistics`, `viewer`.
    pub outputs: BTreeMap<String, OutputRef>,
    /// The paper's Table 1 and more, as `sealign forest --output json` prints it, without its pairs.
    pub statistics: serde_json::Value,
    /// SFT examples.
    pub sft_examples: u64,
    /// Preference pairs.
    pub pairs: u64,
}

/// Where the inputs of a manifest lie: keys by the names that the manifest has for their digests. Places hold UIDs and say
/// nothing of content, so this document stands beside the manifest, and no digest covers it.
pub type Lineage = BTreeMap<String, String>;

/// One object that a worker wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutputRef {
    /// Its name relative to the folder of the manifest that lists it.
    pub file: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_are_nobodys_doing_do_not_count() {
        assert!(!TryCause::Preempted.counts());
        assert!(TryCause::Model.counts());
    }

    #[test]
    fn places_are_in_no_digest() -> Result<(), serde_json::Error> {
        let digest = Digest::of_bytes(b"t");
        let list = |image: &str| TaskListManifest {
            suite: Suite::Mini,
            rows: Digest::of_bytes(image.as_bytes()),
            tasks: vec![TaskRef {
                id: "a".into(),
                digest: digest.clone(),
                environment: digest.clone(),
                image: image.into(),
            }],
        };
        assert_eq!(list("here/python").digest()?, list("there/python").digest()?);
        let plan = |image: &str, spec: &str| PlanManifest {
            tasks: digest.clone(),
            spec: Digest::of_bytes(spec.as_bytes()),
            task_count: 1,
            item_count: 1,
            sandboxed: true,
            graded: true,
            groups: vec![GroupRef { id: "g0001".into(), image: image.into(), items: 1 }],
        };
        assert_eq!(plan("here/python", "a").digest()?, plan("there/python", "a").digest()?);
        assert_ne!(plan("here/python", "a").digest()?, plan("here/python", "b").digest()?);
        Ok(())
    }

    #[test]
    fn a_full_round_map_fits_an_annotation() -> Result<(), serde_json::Error> {
        let digest = Digest::of_bytes(b"t");
        let key = GradingItem {
            task: digest.clone(),
            patch: digest.clone(),
            environment: digest,
            grader: 1,
            repeat: 0,
        }
        .key();
        let items = vec![key; GROUP_ITEMS_MAX];
        let map = RoundMap { group: "g0001".into(), stage: Stage::Grade, round: 3, barren: 0, items };
        assert!(serde_json::to_vec(&map)?.len() < 4096);
        Ok(())
    }
}
