//! Which tasks of a source take part, and which images they may use.

use sealign_crds::task_set::Selection;
use sealign_manifest::Task;

/// The tasks that a selection leaves, in their order.
pub fn select(tasks: Vec<Task>, selection: &Selection) -> Vec<Task> {
    let excluded: Vec<String> =
        selection.exclude_repositories.iter().map(|name| name.to_lowercase()).collect();
    let takes_part = |task: &Task| {
        let repository = task.repo.as_ref().map(|name| name.to_lowercase());
        (selection.include.is_empty() || selection.include.contains(&task.id))
            && !selection.exclude.contains(&task.id)
            && !repository.is_some_and(|name| excluded.contains(&name))
    };
    let tasks: Vec<Task> = tasks.into_iter().filter(takes_part).collect();
    let Some(limit) = selection.limit.and_then(|limit| usize::try_from(limit).ok()) else { return tasks };
    let seed = u64::try_from(selection.seed).unwrap_or(0);
    sealign_tasks::select::select(&tasks, limit, seed).into_iter().cloned().collect()
}

/// Ids of `include` that no task has.
pub fn unknown<'a>(tasks: &[Task], selection: &'a Selection) -> Vec<&'a str> {
    let known: std::collections::BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
    selection.include.iter().map(String::as_str).filter(|id| !known.contains(id)).collect()
}

/// Whether an image reference matches a pattern, in which `*` stands for any text.
pub fn matches(pattern: &str, image: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = image.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// Whether a text can be an image reference at all.
pub fn is_reference(image: &str) -> bool {
    /// What registries accept: name, tag and digest together.
    const BYTES_MAX: usize = 500;
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    !image.is_empty() && image.len() <= BYTES_MAX && image.bytes().all(is_allowed) && !image.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_tasks::suites::mini::{MiniOptions, Split, generate};

    fn tasks(count: usize) -> Vec<Task> {
        generate(&MiniOptions::guessing(Split::Train, 1, count)).unwrap()
    }

    fn ids(tasks: &[Task]) -> Vec<String> {
        tasks.iter().map(|task| task.id.clone()).collect()
    }

    #[test]
    fn a_limit_takes_so_many_in_their_order() {
        let selection = Selection { limit: Some(5), seed: 3, ..Selection::default() };
        let few = ids(&select(tasks(8), &selection));
        assert_eq!(few.len(), 5);
        assert!(few.is_sorted());
    }

    #[test]
    fn named_tasks_are_taken_and_left_out() {
        let all = ids(&tasks(4));
        let selection = Selection {
            include: vec![all[0].clone(), all[1].clone(), "nowhere".into()],
            exclude: vec![all[1].clone()],
            ..Selection::default()
        };
        assert_eq!(ids(&select(tasks(4), &selection)), [all[0].clone()]);
        assert_eq!(unknown(&tasks(4), &selection), ["nowhere"]);
    }

    #[test]
    fn a_star_stands_for_any_text_and_nothing_else_does() {
        for (pattern, image, expected) in [
            ("*", "anything", true),
            ("ghcr.io/org/*", "ghcr.io/org/a:1", true),
            ("ghcr.io/org/*", "ghcr.io/organ/a", false),
            ("ghcr.io/*/tasks:*", "ghcr.io/a/b/tasks:2", true),
            ("a", "ab", false),
            ("*@sha256:*", "a@sha256:0", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[test]
    fn a_text_with_spaces_or_shell_is_no_image() {
        for image in ["", "a b", "$(x)", "--privileged", "a\n"] {
            assert!(!is_reference(image), "{image:?}");
        }
        assert!(is_reference("registry:5000/a/b:1@sha256:00"));
    }
}
