//! Putting gradings that stand alone into groups: items that share an image, at most 64, a task's items together.
//! Rollouts are grouped by `sealign_tasks::plan`.

use sealign_manifest::group::GROUP_ITEMS_MAX;

/// Name of the group with this ordinal, from 0; names count from 1.
pub fn id(ordinal: usize) -> String {
    format!("g{:04}", ordinal + 1)
}

/// Puts each task's items into groups, tasks in order. A task with more items than a group holds fills groups of its own.
pub fn fill<T>(tasks: impl IntoIterator<Item = (String, Vec<T>)>) -> Vec<(String, Vec<T>)> {
    let mut closed: Vec<(String, Vec<T>)> = Vec::new();
    // One group a time is open for each image, so that images that alternate do not make groups of one task each.
    let mut open: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for (image, items) in tasks {
        let mut items = items.into_iter().peekable();
        let total = items.len();
        let room = open
            .get(&image)
            .and_then(|index| closed.get(*index))
            .map_or(0, |(_, members)| GROUP_ITEMS_MAX - members.len());
        if total > room {
            open.remove(&image);
        }
        while items.peek().is_some() {
            let index = *open.entry(image.clone()).or_insert_with(|| {
                closed.push((image.clone(), Vec::new()));
                closed.len() - 1
            });
            let Some((_, members)) = closed.get_mut(index) else { break };
            members.extend(items.by_ref().take(GROUP_ITEMS_MAX - members.len()));
            if members.len() == GROUP_ITEMS_MAX {
                open.remove(&image);
            }
        }
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(image: &str, items: usize) -> (String, Vec<String>) {
        (image.to_owned(), (0..items).map(|item| format!("{image}{item}")).collect())
    }

    fn sizes(groups: &[(String, Vec<String>)]) -> Vec<(&str, usize)> {
        groups.iter().map(|(image, items)| (image.as_str(), items.len())).collect()
    }

    #[test]
    fn a_task_that_does_not_fit_begins_a_group() {
        let groups = fill([task("a", 40), task("a", 20), task("a", 5), task("a", 4)]);
        assert_eq!(sizes(&groups), [("a", 60), ("a", 9)]);
    }

    #[test]
    fn images_that_alternate_share_no_group_and_fill_their_own() {
        let groups = fill([task("a", 10), task("b", 10), task("a", 10), task("b", 10)]);
        assert_eq!(sizes(&groups), [("a", 20), ("b", 20)]);
    }

    #[test]
    fn a_task_with_more_items_than_a_group_holds_fills_several_and_loses_none() {
        let groups = fill([task("a", 1), task("a", 150), task("a", 1)]);
        assert_eq!(sizes(&groups), [("a", 1), ("a", 64), ("a", 64), ("a", 23)]);
    }
}
