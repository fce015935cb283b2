//! What is trained on: the successes for supervised fine-tuning, and the share of the tasks (specs 5.5, 5.8).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::attempt::Attempt;
use crate::draw::rank;
use crate::options::{DataRatio, SftOptions};

/// A rollout by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutName {
    /// The set it is from.
    pub source: String,
    /// Its id within the set.
    pub id: String,
}

/// The tasks that training may use: a prefix of one seeded order, rounded up.
pub(crate) fn tasks_in_use<'a>(tasks: &BTreeSet<&'a str>, ratio: &DataRatio) -> BTreeSet<&'a str> {
    let mut order: Vec<&str> = tasks.iter().copied().collect();
    order.sort_by_cached_key(|task| rank(ratio.seed, "data-ratio", task));
    let percent = usize::try_from(ratio.percent.min(100)).unwrap_or(100);
    let count = (order.len() * percent).div_ceil(100);
    order.into_iter().take(count).collect()
}

/// The successes to train on, in order of source and id.
pub(crate) fn sft_set(
    attempts: &[Attempt<'_>],
    options: &SftOptions,
    tasks: Option<&BTreeSet<&str>>,
) -> Vec<RolloutName> {
    let mut seen = BTreeSet::new();
    let mut by_task: BTreeMap<&str, Vec<&Attempt<'_>>> = BTreeMap::new();
    for attempt in attempts.iter().filter(|attempt| attempt.is_success()) {
        let task = attempt.trajectory.task.as_str();
        let keys: Vec<&str> = attempt.edges.iter().map(|edge| edge.key.as_str()).collect();
        let is_new = !options.deduplicate || seen.insert((task, &attempt.prompt, keys));
        if is_new && tasks.is_none_or(|tasks| tasks.contains(task)) {
            by_task.entry(task).or_default().push(attempt);
        }
    }
    let limit = options.max_per_task.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut names = Vec::new();
    for mut successes in by_task.into_values() {
        if successes.len() > limit {
            let name = |attempt: &&Attempt<'_>| sealign_trajectory::export::full_id(attempt.trajectory);
            successes.sort_by_cached_key(|attempt| rank(options.seed, "sft", &name(attempt)));
        }
        names.extend(successes.into_iter().take(limit).map(|attempt| RolloutName {
            source: attempt.trajectory.source.clone(),
            id: attempt.trajectory.id.clone(),
        }));
    }
    names.sort();
    names
}
