//! Items: the units of work. A list of them is frozen in the store before any runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Names an item and its record: the first 32 hexadecimal digits of the item's digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemKey(String);

/// Digits of an [`ItemKey`]: 128 bits, so that a million items collide with a chance below 1e-26.
const KEY_DIGITS: usize = 32;

impl ItemKey {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a key from a record's name; `None` when the name is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_key = text.len() == KEY_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_key.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where a rollout begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Start {
    /// The task's prompt.
    Root,
    /// A node of a forest: its prefix of actions is replayed first.
    Node {
        /// Digest of the forest manifest.
        forest: Digest,
        /// Node id within the task's tree.
        node: String,
    },
}

/// One attempt to be made. Retries keep every field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutItem {
    /// Digest of the task.
    pub task: Digest,
    /// Where the attempt begins.
    pub start: Start,
    /// Name of the policy within the campaign.
    pub policy: String,
    /// Ordinal among the samples of this task, from 0, over all policies.
    pub sample: u32,
    /// Seed of sampling and of scripted policies.
    pub seed: u32,
}

impl RolloutItem {
    /// The name of the item and of its record.
    pub fn key(&self) -> ItemKey {
        key_of(self)
    }
}

/// One verdict to be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GradingItem {
    /// Digest of the task, tests and limits included.
    pub task: Digest,
    /// Digest of the filtered patch; that of the empty text for the empty patch.
    pub patch: Digest,
    /// Digest of the environment.
    pub environment: Digest,
    /// Version of the grading rules.
    pub grader: u32,
    /// Ordinal of the repetition, from 0.
    pub repeat: u32,
}

impl GradingItem {
    /// The name of the item and of its record, the same in every campaign.
    pub fn key(&self) -> ItemKey {
        key_of(self)
    }
}

fn key_of<T: Serialize>(item: &T) -> ItemKey {
    // Items hold only texts, numbers and digests, which JSON can always write; were that to change, the empty text's
    // digest would collide at once and every test would fail.
    let bytes = serde_json::to_vec(item).unwrap_or_default();
    ItemKey(Digest::of_bytes(&bytes).short(KEY_DIGITS).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sample: u32) -> RolloutItem {
        let task = Digest::of_bytes(b"task");
        RolloutItem { task, start: Start::Root, policy: "strong".into(), sample, seed: 7 }
    }

    #[test]
    fn equal_items_have_equal_keys_and_different_items_different_ones() {
        assert_eq!(item(1).key(), item(1).key());
        assert_ne!(item(1).key(), item(2).key());
    }

    #[test]
    fn a_key_survives_a_round_trip_and_other_names_do_not_parse() {
        let key = item(3).key();
        assert_eq!(ItemKey::parse(key.as_str()), Some(key));
        assert_eq!(ItemKey::parse("plan"), None);
        assert_eq!(ItemKey::parse(&"Z".repeat(KEY_DIGITS)), None);
    }
}
