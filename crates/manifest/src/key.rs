//! The keys that objects of the store lie under.
//!
//! Everything of one custom resource lies under one prefix, `<root>/<plural>/<name>-<8 hex of its UID>`, so that a
//! re-created resource of the same name never reads its predecessor's results. Blobs and definite verdicts are shared
//! by all resources of a store.

use crate::{Digest, ItemKey};

/// A stage of a group's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Agents work.
    Rollout,
    /// Tests judge.
    Grade,
}

impl Stage {
    /// The name used in keys, labels and Job names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Grade => "grade",
        }
    }
}

/// The keys of one custom resource's artifacts.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ObjectKeys(String);

impl ObjectKeys {
    /// The keys below `prefix`, for example `demo/rolloutcampaigns/first-1a2b3c4d`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self(prefix.into())
    }

    /// The prefix itself, without a trailing slash.
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// The keys of the resource (or training step) that has `key` right below its prefix.
    pub fn beside(key: &str) -> Self {
        Self(key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned())
    }

    /// The resource's name: the last part of the prefix without the digits of the UID.
    pub fn name(&self) -> &str {
        let last = self.0.rsplit('/').next().unwrap_or_default();
        last.rsplit_once('-').map_or(last, |(name, _)| name)
    }

    /// Any key below the prefix.
    pub fn join(&self, rest: &str) -> String {
        format!("{}/{rest}", self.0)
    }

    /// [`TaskListManifest`](crate::group::TaskListManifest) of a TaskSet.
    pub fn tasks(&self) -> String {
        self.join("tasks.json")
    }

    /// The tasks themselves, one [`Task`](crate::Task) a line, in the order of the manifest.
    pub fn task_rows(&self) -> String {
        self.join("tasks.jsonl")
    }

    /// [`HealthManifest`](crate::group::HealthManifest) of a TaskSet.
    pub fn health(&self) -> String {
        self.join("health.json")
    }

    /// [`PlanManifest`](crate::group::PlanManifest).
    pub fn plan(&self) -> String {
        self.join("plan.json")
    }

    /// [`GroupItems`](crate::group::GroupItems) of one group.
    pub fn group_items(&self, group: &str) -> String {
        self.join(&format!("groups/{group}/items.json"))
    }

    /// Where the records of a group's stage lie; the operator lists names under it.
    pub fn records(&self, group: &str, stage: Stage) -> String {
        self.join(&format!("groups/{group}/{}", stage.name()))
    }

    /// One record.
    pub fn record(&self, group: &str, stage: Stage, item: &ItemKey) -> String {
        self.join(&format!("groups/{group}/{}/{item}.json", stage.name()))
    }

    /// [`GroupManifest`](crate::group::GroupManifest) of a stage: written when every item has its record.
    pub fn group_manifest(&self, group: &str, stage: Stage) -> String {
        self.join(&format!("groups/{group}/{}.json", stage.name()))
    }

    /// Where the round maps of a group's stage lie.
    pub fn rounds(&self, group: &str, stage: Stage) -> String {
        self.join(&format!("rounds/{group}/{}", stage.name()))
    }

    /// [`RoundMap`](crate::group::RoundMap) number `round`.
    pub fn round(&self, group: &str, stage: Stage, round: u32) -> String {
        self.join(&format!("rounds/{group}/{}/{round}.json", stage.name()))
    }

    /// [`TryRecord`](crate::group::TryRecord) of a failed try.
    pub fn failed_try(&self, item: &ItemKey, round: u32) -> String {
        self.join(&format!("tries/{item}/r{round}.json"))
    }

    /// Where the failed tries of an item lie.
    pub fn failed_tries(&self, item: &ItemKey) -> String {
        self.join(&format!("tries/{item}"))
    }

    /// Marks a spent budget of `tokens`.
    pub fn budget(&self, tokens: u64) -> String {
        self.join(&format!("budget/{tokens}.json"))
    }

    /// [`Progress`](crate::group::Progress): overwritten, a hint.
    pub fn progress(&self) -> String {
        self.join("progress.json")
    }

    /// [`ClosedSet`](crate::group::ClosedSet): every item of the campaign has its record.
    pub fn closed(&self) -> String {
        self.join("closed.json")
    }

    /// [`Rejection`](crate::group::Rejection) of a worker that cannot use its input; create-only and final.
    pub fn rejection(&self, worker: &str) -> String {
        self.join(&format!("rejected/{worker}.json"))
    }

    /// Manifest of a TrajectoryForest.
    pub fn forest(&self) -> String {
        self.join("forest.json")
    }

    /// Keys of a training step of an AlignmentRun.
    #[must_use]
    pub fn step(&self, step: &str) -> Self {
        Self(self.join(&format!("steps/{step}")))
    }

    /// [`ModelManifest`](crate::train::ModelManifest) of a training step: its result.
    pub fn model(&self) -> String {
        self.join("model/manifest.json")
    }

    /// [`AdapterManifest`](crate::train::AdapterManifest) of a training step that trained an adapter.
    pub fn adapter(&self) -> String {
        self.join("adapter/manifest.json")
    }

    /// The report manifest of a Benchmark or an AlignmentRun, written after its pages.
    pub fn report(&self) -> String {
        self.join("report.json")
    }

    /// [`Lineage`](crate::group::Lineage) of one of the resource's manifests: `plan`, `forest`, `model` or `report`.
    pub fn lineage(&self, manifest: &str) -> String {
        self.join(&format!("lineage/{manifest}.json"))
    }

    /// Create-only mark that the promotion gate was passed.
    pub fn promoted(&self) -> String {
        self.join("promoted.json")
    }
}

/// Key of a blob, below the store's root.
pub fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{digest}", digest.short(2))
}

/// Key of a definite verdict, below the store's root: the same for every campaign.
pub fn verdict(item: &ItemKey) -> String {
    format!("verdicts/{item}.json")
}

/// The item key in a record's object key or name; `None` for names that are not records.
pub fn record_item(name: &str) -> Option<ItemKey> {
    ItemKey::parse(name.rsplit('/').next()?.strip_suffix(".json")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GradingItem, Start};

    #[test]
    fn a_record_key_gives_back_its_item() {
        let task = Digest::of_bytes(b"t");
        let item =
            crate::RolloutItem { task, start: Start::Root, policy: "p".into(), sample: 0, seed: 1 }.key();
        let keys = ObjectKeys::new("demo/rolloutcampaigns/first-1a2b3c4d");
        let key = keys.record("g0001", Stage::Rollout, &item);
        assert_eq!(key, format!("demo/rolloutcampaigns/first-1a2b3c4d/groups/g0001/rollout/{item}.json"));
        assert_eq!(record_item(&key), Some(item));
        assert_eq!(record_item("groups/g0001/rollout.json"), None);
    }

    #[test]
    fn a_manifests_key_gives_back_its_resource() {
        let keys = ObjectKeys::new("demo/tasksets/my-set-1a2b3c4d");
        assert_eq!(ObjectKeys::beside(&keys.tasks()), keys);
        assert_eq!(keys.name(), "my-set");
    }

    #[test]
    fn a_verdict_lies_outside_every_campaign() {
        let digest = Digest::of_bytes(b"x");
        let item = GradingItem {
            task: digest.clone(),
            patch: digest.clone(),
            environment: digest,
            grader: 1,
            repeat: 0,
        };
        assert_eq!(verdict(&item.key()), format!("verdicts/{}.json", item.key()));
    }
}
