//! Which keys are accepted: a closed alphabet, so that no key means something else to a file system or a URL.

use object_store::path::Path;

use crate::error::StoreError;

/// Longest key in bytes: what S3 allows, less room for the store's own prefix.
pub const KEY_BYTES_MAX: usize = 900;
/// Longest part between slashes in bytes: file systems allow 255, and a staged write appends `#` and a number.
pub const PART_BYTES_MAX: usize = 240;

/// Checks `key` and turns it into a path below the store's root.
pub fn parse(key: &str) -> Result<Path, StoreError> {
    match problem(key) {
        Some(problem) => Err(StoreError::Key { key: key.chars().take(120).collect(), problem }),
        None => Ok(Path::from(key)),
    }
}

/// As [`parse`], for a listing: the empty prefix means the whole store.
pub fn parse_prefix(prefix: &str) -> Result<Option<Path>, StoreError> {
    if prefix.is_empty() { Ok(None) } else { parse(prefix).map(Some) }
}

fn problem(key: &str) -> Option<&'static str> {
    if key.len() > KEY_BYTES_MAX {
        return Some("it is longer than 900 bytes");
    }
    if key.is_empty() || key.starts_with('/') || key.ends_with('/') {
        return Some("it must name an object below the store's root, without a slash at either end");
    }
    key.split('/').find_map(|part| match part {
        "" => Some("it has an empty part"),
        "." | ".." => Some("`.` and `..` are not allowed as parts"),
        part if part.len() > PART_BYTES_MAX => Some("a part is longer than 240 bytes"),
        part if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) => {
            Some("parts may hold letters, digits, `.`, `_` and `-` only")
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_the_root_or_mean_something_else_are_refused() {
        let long = "a".repeat(241);
        let very_long = "ab/".repeat(400) + "c";
        let keys = [
            "", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b", "a b", "a%2e", "a#1", "a\\b", "ä", "a\n",
            &long, &very_long,
        ];
        for key in keys {
            assert!(matches!(parse(key), Err(StoreError::Key { .. })), "{key:?} was accepted");
        }
    }

    #[test]
    fn the_layouts_own_keys_pass_unchanged() -> Result<(), StoreError> {
        for key in
            ["demo/rolloutcampaigns/first-1a2b/groups/g0001/rollout/00ff.json", "a..b/_c-d.safetensors"]
        {
            assert_eq!(parse(key)?.as_ref(), key);
        }
        Ok(())
    }
}
