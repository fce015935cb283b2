//! Frozen work: which policy attempts which task with which seed, in which group.

use sealign_manifest::group::{GROUP_ITEMS_MAX, GroupItems};
use sealign_manifest::{Digest, RolloutItem, Start, Task};

use crate::draw::Draw;

/// A policy's share of the samples of each task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyShare {
    /// Name within the campaign.
    pub name: String,
    /// Weight beside the others'.
    pub weight: u32,
}

/// A plan that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No policy would act.
    #[error("`policies`: every weight is 0; give at least one policy a weight of 1 or more")]
    NoPolicy,
    /// Nothing would be done.
    #[error("`samplesPerTask` is 0: give 1 or more")]
    NoSamples,
    /// A task's items would not fit a group.
    #[error(
        "`samplesPerTask` is {0}: at most {GROUP_ITEMS_MAX}, because the attempts at a task stay in one group"
    )]
    TooManySamples(u32),
    /// A task could not be written as JSON.
    #[error("cannot write a task as JSON")]
    Json(#[from] serde_json::Error),
}

/// The rollout items of a campaign in groups: tasks in their order, a task's samples together, one image a group, at
/// most [`GROUP_ITEMS_MAX`] items. The result follows from the arguments alone, so a second resolver writes the same.
///
/// Policies: each task's samples are shared out by largest remainder (so 12 samples at weights 1 : 5 : 6 are exactly 1, 5
/// and 6) and put in an order that the seed and the task decide. Seeds follow from campaign seed, task and ordinal.
///
/// # Errors
/// [`PlanError`] when no item could be made or a task's items would not fit a group.
pub fn group_items(
    tasks: &[Task],
    samples: u32,
    policies: &[PolicyShare],
    seed: u64,
) -> Result<Vec<(String, GroupItems)>, PlanError> {
    let per_task = usize::try_from(samples).unwrap_or(usize::MAX);
    if samples == 0 {
        return Err(PlanError::NoSamples);
    }
    if per_task > GROUP_ITEMS_MAX {
        return Err(PlanError::TooManySamples(samples));
    }
    let shares = share_out(per_task, policies)?;
    let mut groups: Vec<(String, GroupItems)> = Vec::new();
    for task in tasks {
        let items = task_items(&task.digest()?, &shares, policies, seed);
        let image = &task.environment.image;
        // Only the newest group of an image has room; groups of other images in between stay as they are.
        let open = groups.iter_mut().rev().find(|(other, _)| other == image);
        match open {
            Some((_, group)) if group.items.len() + items.len() <= GROUP_ITEMS_MAX => {
                group.items.extend(items);
            }
            _ => {
                let group = format!("g{:04}", groups.len() + 1);
                groups.push((image.clone(), GroupItems { group, items }));
            }
        }
    }
    Ok(groups)
}

fn task_items(task: &Digest, shares: &[usize], policies: &[PolicyShare], seed: u64) -> Vec<RolloutItem> {
    let seed = seed.to_string();
    let mut names: Vec<&str> = policies
        .iter()
        .zip(shares)
        .flat_map(|(policy, count)| std::iter::repeat_n(policy.name.as_str(), *count))
        .collect();
    Draw::new("policies", &[&seed, task.as_str()]).shuffle(&mut names);
    (0..)
        .zip(names)
        .map(|(sample, policy): (u32, &str)| RolloutItem {
            task: task.clone(),
            start: Start::Root,
            policy: policy.to_owned(),
            sample,
            seed: Digest::of_bytes(format!("{seed}/{task}/{sample}").as_bytes()).seed(),
        })
        .collect()
}

/// Shares `count` out by weight: whole parts first, then one each to the largest remainders, earlier policies first.
fn share_out(count: usize, policies: &[PolicyShare]) -> Result<Vec<usize>, PlanError> {
    let total: u64 = policies.iter().map(|policy| u64::from(policy.weight)).sum();
    if total == 0 {
        return Err(PlanError::NoPolicy);
    }
    let wanted = u64::try_from(count).unwrap_or(u64::MAX);
    let exact: Vec<u64> = policies.iter().map(|policy| u64::from(policy.weight) * wanted).collect();
    let mut shares: Vec<u64> = exact.iter().map(|product| product / total).collect();
    let open = wanted - shares.iter().sum::<u64>();
    let mut by_remainder: Vec<usize> = (0..exact.len()).collect();
    by_remainder.sort_by_key(|index| std::cmp::Reverse(exact.get(*index).map(|product| product % total)));
    for index in by_remainder.into_iter().take(usize::try_from(open).unwrap_or(0)) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    Ok(shares.into_iter().map(|share| usize::try_from(share).unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::suites::mini::{MiniOptions, Split, generate};

    fn policies(weights: &[(&str, u32)]) -> Vec<PolicyShare> {
        weights.iter().map(|(name, weight)| PolicyShare { name: (*name).into(), weight: *weight }).collect()
    }

    fn tasks(count: usize) -> Vec<Task> {
        generate(&MiniOptions::standard(Split::Train, 1, count)).unwrap()
    }

    #[test]
    fn every_task_gets_every_policys_share_and_its_items_stay_together() {
        let tasks = tasks(11);
        let mix = policies(&[("strong", 1), ("medium", 5), ("weak", 6)]);
        let groups = group_items(&tasks, 12, &mix, 3).unwrap();
        let sizes: Vec<usize> = groups.iter().map(|(_, group)| group.items.len()).collect();
        assert_eq!(sizes, [60, 60, 12]);
        for task in &tasks {
            let digest = task.digest().unwrap();
            let holders: BTreeSet<&str> = groups
                .iter()
                .filter(|(_, g)| g.items.iter().any(|item| item.task == digest))
                .map(|(_, g)| g.group.as_str())
                .collect();
            assert_eq!(holders.len(), 1);
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for item in groups.iter().flat_map(|(_, group)| &group.items).filter(|item| item.task == digest) {
                *counts.entry(&item.policy).or_default() += 1;
            }
            assert_eq!(counts, BTreeMap::from([("medium", 5), ("strong", 1), ("weak", 6)]));
        }
    }

    #[test]
    fn items_differ_in_key_and_seed_and_follow_from_the_arguments() {
        let tasks = tasks(5);
        let mix = policies(&[("a", 1), ("b", 1)]);
        let groups = group_items(&tasks, 7, &mix, 1).unwrap();
        let items: Vec<&RolloutItem> = groups.iter().flat_map(|(_, group)| &group.items).collect();
        assert_eq!(items.iter().map(|item| item.key()).collect::<BTreeSet<_>>().len(), 35);
        assert_eq!(items.iter().map(|item| item.seed).collect::<BTreeSet<_>>().len(), 35);
        assert_eq!(groups, group_items(&tasks, 7, &mix, 1).unwrap());
        assert_ne!(groups, group_items(&tasks, 7, &mix, 2).unwrap());
    }

    #[test]
    fn a_group_holds_one_image() {
        let mut tasks = tasks(6);
        for (index, task) in tasks.iter_mut().enumerate() {
            task.environment.image = format!("image-{}", index % 2);
        }
        let groups = group_items(&tasks, 2, &policies(&[("a", 1)]), 1).unwrap();
        let shape: Vec<(&str, &str, usize)> =
            groups.iter().map(|(image, g)| (image.as_str(), g.group.as_str(), g.items.len())).collect();
        assert_eq!(shape, [("image-0", "g0001", 6), ("image-1", "g0002", 6)]);
    }

    #[test]
    fn remainders_go_to_the_largest_and_then_to_the_first() {
        assert_eq!(share_out(10, &policies(&[("a", 1), ("b", 1), ("c", 1)])).unwrap(), [4, 3, 3]);
        assert_eq!(share_out(1, &policies(&[("a", 1), ("b", 5)])).unwrap(), [0, 1]);
        assert_eq!(share_out(4, &policies(&[("a", 0), ("b", 1)])).unwrap(), [0, 4]);
    }

    #[test]
    fn plans_without_work_are_refused() {
        let tasks = tasks(1);
        assert!(matches!(group_items(&tasks, 0, &policies(&[("a", 1)]), 1), Err(PlanError::NoSamples)));
        assert!(matches!(group_items(&tasks, 1, &policies(&[("a", 0)]), 1), Err(PlanError::NoPolicy)));
        assert!(matches!(
            group_items(&tasks, 65, &policies(&[("a", 1)]), 1),
            Err(PlanError::TooManySamples(65))
        ));
    }
}
