//! What has to stay: prefixes that roots reach by lineage, and the patches and verdicts that these refer to.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::TryStreamExt as _;
use sealign_manifest::Digest;
use sealign_manifest::group::{GroupManifest, Lineage};
use sealign_manifest::key::record_item;
use sealign_plan::Kind;
use sealign_storage::artifact::JSON_BYTES_MAX;
use sealign_storage::{ArtifactStore as _, Store, StoreError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{CliError, chain};

/// Records that are read at once.
const READS_AT_ONCE: usize = 32;
/// References that are held at most, eight bytes each. More runs share one store than one collection can judge.
const REFERENCES_MAX: usize = 64 << 20;
/// References before equal ones are looked for again.
const COMPACT_LEAST: usize = 1 << 20;

/// What stays.
#[derive(Debug, Default)]
pub struct Needed {
    /// Prefixes of resources.
    pub prefixes: BTreeSet<String>,
    /// Blobs, by digest.
    pub blobs: References,
    /// Verdicts, by item.
    pub verdicts: References,
}

/// A set of digests, by their first 64 bits. Two that are equal there keep each other alive, which costs bytes and no data.
#[derive(Debug, Default)]
pub struct References {
    sorted: Vec<u64>,
    fresh: Vec<u64>,
}

impl References {
    fn insert(&mut self, digits: &str) -> Result<(), CliError> {
        self.fresh.push(bits(digits));
        if self.fresh.len() >= COMPACT_LEAST.max(self.sorted.len()) {
            self.compact();
        }
        if self.sorted.len() > REFERENCES_MAX {
            return Err(CliError::Input(format!(
                "the store: more than {REFERENCES_MAX} patches or verdicts are in use; collect with fewer --root at a time"
            )));
        }
        Ok(())
    }

    fn compact(&mut self) {
        self.sorted.append(&mut self.fresh);
        self.sorted.sort_unstable();
        self.sorted.dedup();
    }

    /// Whether something refers to what has these hexadecimal digits.
    pub fn contain(&self, digits: &str) -> bool {
        self.sorted.binary_search(&bits(digits)).is_ok()
    }
}

fn bits(digits: &str) -> u64 {
    digits.get(..16).and_then(|first| u64::from_str_radix(first, 16).ok()).unwrap_or(0)
}

/// The prefix of the resource that `key` belongs to: up to `<plural>/<name>-<8 hex>`; `None` for keys of no resource.
pub fn resource(key: &str) -> Option<&str> {
    let mut end = 0;
    let mut is_next = false;
    for part in key.split('/') {
        end += part.len();
        if is_next && has_uid(part) {
            return key.get(..end);
        }
        is_next = Kind::OURS.iter().any(|kind| kind.plural() == part);
        end += 1;
    }
    None
}

fn has_uid(part: &str) -> bool {
    let digits = part.rsplit_once('-').map_or("", |(_, digits)| digits);
    digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The part of a rollout record that refers to something.
#[derive(Debug, Deserialize)]
struct PatchOf {
    #[serde(default)]
    patch: Option<Digest>,
}

/// The part of `predictions.json` that refers to something.
#[derive(Debug, Deserialize)]
struct PatchesOf {
    patches: BTreeMap<String, Option<Digest>>,
}

/// What one object refers to.
#[derive(Debug, Default)]
struct Found {
    prefixes: Vec<String>,
    blobs: Vec<Digest>,
    verdicts: Vec<String>,
}

/// Follows the lineage of `roots`, which are prefixes of resources.
///
/// # Errors
/// [`CliError::Input`] where the store fails or a document cannot be read: what is not known for sure is not deleted.
pub async fn mark(store: &Store, roots: BTreeSet<String>) -> Result<Needed, CliError> {
    let mut needed = Needed::default();
    let mut open: Vec<String> = roots.into_iter().collect();
    while let Some(prefix) = open.pop() {
        if !needed.prefixes.insert(prefix.clone()) {
            continue;
        }
        let listed = store.stream(&prefix).map_err(|error| failed(&error))?;
        let reads = listed.map_err(|error| failed(&error)).map_ok(|object| {
            let rest = object.key.get(prefix.len() + 1..).unwrap_or_default().to_owned();
            refers(store, object.key, rest)
        });
        let mut found = reads.try_buffer_unordered(READS_AT_ONCE);
        while let Some(Found { prefixes, blobs, verdicts }) = found.try_next().await? {
            open.extend(prefixes);
            blobs.iter().try_for_each(|blob| needed.blobs.insert(blob.as_str()))?;
            verdicts.iter().try_for_each(|item| needed.verdicts.insert(item))?;
        }
    }
    needed.blobs.compact();
    needed.verdicts.compact();
    Ok(needed)
}

/// What the object at `key`, `rest` below its resource, refers to.
async fn refers(store: &Store, key: String, rest: String) -> Result<Found, CliError> {
    let mut found = Found::default();
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        ["lineage", _] | ["steps", _, "lineage", _] => {
            let lineage: Lineage = read(store, &key).await?;
            found.prefixes = lineage.values().filter_map(|key| resource(key)).map(str::to_owned).collect();
        }
        ["groups", _, "rollout", _] => found.blobs.extend(read::<PatchOf>(store, &key).await?.patch),
        ["groups", _, "rollout.json"] => {
            for item in read::<GroupManifest>(store, &key).await?.gradings {
                found.verdicts.push(item.key().to_string());
                found.blobs.push(item.patch);
            }
        }
        ["groups", _, "grade", record] => {
            found.verdicts.extend(record_item(record).map(|item| item.to_string()));
        }
        ["predictions.json"] => {
            found.blobs.extend(read::<PatchesOf>(store, &key).await?.patches.into_values().flatten());
        }
        _ => {}
    }
    Ok(found)
}

async fn read<T: DeserializeOwned>(store: &Store, key: &str) -> Result<T, CliError> {
    let bytes = store.get_bounded(key, JSON_BYTES_MAX).await.map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes.unwrap_or_default()).map_err(|error| {
        CliError::Input(format!(
            "the store: {key} cannot be read ({error}), so nobody knows what it needs; nothing was deleted"
        ))
    })
}

pub fn failed(error: &StoreError) -> CliError {
    CliError::Input(format!("the store: {}", chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_resource_wherever_that_lies() {
        for (key, expected) in [
            ("demo/benchmarks/b-1a2b3c4d/report.json", Some("demo/benchmarks/b-1a2b3c4d")),
            ("team/x/alignmentruns/r-1a2b3c4d/steps/sft/model/a", Some("team/x/alignmentruns/r-1a2b3c4d")),
            ("benchmarks/tasksets/t-1a2b3c4d", Some("benchmarks/tasksets/t-1a2b3c4d")),
            ("inputs/rows.jsonl", None),
            ("demo/benchmarks/rows-of-mine/a", None),
            ("blobs/ab/abcd", None),
            ("", None),
        ] {
            assert_eq!(resource(key), expected, "{key}");
        }
    }

    #[test]
    fn references_are_found_and_others_are_not() -> Result<(), CliError> {
        let mut references = References::default();
        for text in ["a", "b", "a"] {
            references.insert(Digest::of_bytes(text.as_bytes()).as_str())?;
        }
        references.compact();
        assert_eq!(references.sorted.len(), 2);
        assert!(references.contain(Digest::of_bytes(b"b").as_str()));
        assert!(!references.contain(Digest::of_bytes(b"c").as_str()));
        Ok(())
    }
}
