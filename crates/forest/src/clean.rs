//! Cleaning (specs 5.2; rules C1, C4, C9 to C14): which rollouts take part, and why the others do not.
//!
//! The steps run in a fixed order and each sees what the one before left. A rollout is dropped for the first reason that
//! applies. De-duplication and overlap compare within a tree.

use std::collections::{BTreeMap, BTreeSet};

use sealign_trajectory::observe::Normaliser;
use sealign_trajectory::{Outcome, UnknownCause};
use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, Edge};
use crate::exclude::Excluder;
use crate::options::{Filters, Options, Overlap};

/// Why a rollout takes no part, in the order in which reasons apply (rule C14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The sandbox, the model endpoint or the grader failed.
    Infrastructure,
    /// No verdict is recorded.
    NoVerdict,
    /// Its task, repository or problem statement is excluded.
    Excluded,
    /// An equal rollout with a smaller id is kept.
    Duplicate,
    /// It repeats one action without anything new.
    Loop,
    /// It shares no beginning with another rollout.
    Overlap,
}

impl DropReason {
    /// All reasons in order.
    pub const ALL: [Self; 6] =
        [Self::Infrastructure, Self::NoVerdict, Self::Excluded, Self::Duplicate, Self::Loop, Self::Overlap];
}

/// A rollout that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dropped {
    /// The set it is from.
    pub source: String,
    /// Its id within the set.
    pub id: String,
    /// Its task.
    pub task: String,
    /// Why it was dropped.
    pub reason: DropReason,
}

/// Splits attempts, which are in order of source and id, into kept ones and dropped ones.
pub(crate) fn clean<'a>(
    attempts: Vec<Attempt<'a>>,
    options: &Options,
    normaliser: &Normaliser,
) -> (Vec<Attempt<'a>>, Vec<Dropped>) {
    let excluder = Excluder::new(&options.exclusion);
    let mut dropped = Vec::new();
    let kept = retain(attempts, &mut dropped, |attempt| match attempt.trajectory.outcome {
        Outcome::Unknown(UnknownCause::Infrastructure) => Some(DropReason::Infrastructure),
        Outcome::Unknown(UnknownCause::NoVerdict) => Some(DropReason::NoVerdict),
        Outcome::Success | Outcome::Failure => {
            excluder.excludes(attempt.trajectory).then_some(DropReason::Excluded)
        }
    });
    let duplicates =
        if options.filters.deduplicate { duplicates(&kept, normaliser) } else { BTreeSet::new() };
    let mut index = 0;
    let kept = retain(kept, &mut dropped, |_| {
        index += 1;
        duplicates.contains(&(index - 1)).then_some(DropReason::Duplicate)
    });
    let kept = retain(kept, &mut dropped, |attempt| {
        repeats_itself(attempt, &options.filters, normaliser).then_some(DropReason::Loop)
    });
    let shared = sharing(&kept, &options.filters);
    let mut index = 0;
    let kept = retain(kept, &mut dropped, |_| {
        index += 1;
        (!shared.contains(&(index - 1))).then_some(DropReason::Overlap)
    });
    dropped.sort_by(|a, b| (&a.source, &a.id).cmp(&(&b.source, &b.id)));
    (kept, dropped)
}

fn retain<'a>(
    attempts: Vec<Attempt<'a>>,
    dropped: &mut Vec<Dropped>,
    mut reason: impl FnMut(&Attempt<'a>) -> Option<DropReason>,
) -> Vec<Attempt<'a>> {
    let mut kept = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        match reason(&attempt) {
            None => kept.push(attempt),
            Some(reason) => {
                let trajectory = attempt.trajectory;
                dropped.push(Dropped {
                    source: trajectory.source.clone(),
                    id: trajectory.id.clone(),
                    task: trajectory.task.clone(),
                    reason,
                });
            }
        }
    }
    kept
}

/// Positions of rollouts that equal an earlier one: same tree, result, keys and observations (specs 5.2 step 2).
fn duplicates(attempts: &[Attempt<'_>], normaliser: &Normaliser) -> BTreeSet<usize> {
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, attempt) in attempts.iter().enumerate() {
        let keys: Vec<&str> = attempt.edges.iter().map(|edge| edge.key.as_str()).collect();
        let group = (&attempt.trajectory.task, &attempt.prompt, attempt.is_success(), keys);
        groups.entry(group).or_default().push(index);
    }
    let mut found = BTreeSet::new();
    for members in groups.into_values() {
        let mut firsts: Vec<&Attempt<'_>> = Vec::new();
        for index in members {
            let Some(attempt) = attempts.get(index) else { continue };
            if firsts.iter().any(|first| same_observations(first, attempt, normaliser)) {
                found.insert(index);
            } else {
                firsts.push(attempt);
            }
        }
    }
    found
}

/// Whether two rollouts with equal keys saw the same. After the last action nothing comes back because the attempt is
/// over; a missing observation before that is unequal to everything (rule C11).
fn same_observations(left: &Attempt<'_>, right: &Attempt<'_>, normaliser: &Normaliser) -> bool {
    let opening =
        |attempt: &Attempt<'_>| normaliser.observation(attempt.trajectory.first_observation.as_deref());
    if opening(left) != opening(right) {
        return false;
    }
    let last = left.edges.len().saturating_sub(1);
    let pairs = left.observations(normaliser).iter().zip(right.observations(normaliser));
    pairs.enumerate().all(|(index, (l, r))| l == r && (l.is_some() || index == last))
}

/// Specs 5.2 step 3: the same action with the same observation several times running.
fn repeats_itself(attempt: &Attempt<'_>, filters: &Filters, normaliser: &Normaliser) -> bool {
    let needed = filters.loop_min_repeats;
    if needed < 2 {
        return false;
    }
    let mut run: u32 = 1;
    for index in 1..attempt.loop_keys.len() {
        let key = |at: usize| attempt.loop_keys.get(at).and_then(Option::as_ref);
        let is_equal = key(index).is_some()
            && key(index) == key(index - 1)
            && (!filters.loop_require_same_observation || same_result(attempt, index, normaliser));
        run = if is_equal { run + 1 } else { 1 };
        if run >= needed {
            return true;
        }
    }
    false
}

/// Whether a turn got back what the turn before it got; a missing observation equals nothing (rule C11).
fn same_result(attempt: &Attempt<'_>, index: usize, normaliser: &Normaliser) -> bool {
    let observations = attempt.observations(normaliser);
    let at = |index: usize| observations.get(index).and_then(Option::as_ref);
    at(index).is_some() && at(index) == at(index - 1)
}

/// Positions of rollouts that share enough with another one of their tree (specs 5.2 step 4, rule C13).
fn sharing(attempts: &[Attempt<'_>], filters: &Filters) -> BTreeSet<usize> {
    let mut by_part: BTreeMap<(&str, &str, &[Edge]), BTreeSet<usize>> = BTreeMap::new();
    for (index, attempt) in attempts.iter().enumerate() {
        let parts: Vec<&[Edge]> = match filters.overlap {
            Overlap::Off => return (0..attempts.len()).collect(),
            Overlap::AnyAction => attempt.edges.chunks(1).collect(),
            Overlap::Prefix => {
                let length = usize::try_from(filters.overlap_min_prefix).unwrap_or(usize::MAX);
                attempt.edges.get(..length).into_iter().collect()
            }
        };
        for part in parts {
            by_part.entry((&attempt.trajectory.task, &attempt.prompt, part)).or_default().insert(index);
        }
    }
    by_part.into_values().filter(|members| members.len() > 1).flatten().collect()
}
