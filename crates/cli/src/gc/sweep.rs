//! Looking at every object of a store once, counting what nothing needs, and deleting it where that is asked for.

use std::time::SystemTime;

use futures::TryStreamExt as _;
use sealign_manifest::key::record_item;
use sealign_storage::Store;
use sealign_storage::collect::Listed;
use serde::Serialize;

use super::mark::{Needed, failed, resource};
use crate::error::CliError;

/// Keys of one deletion: what S3 takes in one request.
const DELETED_AT_ONCE: usize = 1000;
/// Prefixes that are named; beyond, only their number grows.
const PREFIXES_NAMED_MAX: usize = 100;

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    /// Objects.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, listed: &Listed) {
        self.objects += 1;
        self.bytes += listed.bytes;
    }
}

/// What nothing needs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Garbage {
    /// Artifacts of objects that are gone and that nothing rests on.
    pub resources: Count,
    /// Patches that no record refers to.
    pub blobs: Count,
    /// Verdicts that no campaign refers to.
    pub verdicts: Count,
    /// Files that killed writers left.
    pub staged: Count,
}

/// What `sealign gc --output json` prints.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// URL of the store.
    pub store: String,
    /// Nothing was deleted.
    pub dry_run: bool,
    /// What went, or would go.
    pub garbage: Garbage,
    /// What something needs.
    pub kept: Count,
    /// What nothing needs yet, but may soon: written within the grace time.
    pub young: Count,
    /// Objects whose keys are not of our making, such as inputs of users. Never deleted.
    pub foreign: Count,
    /// Prefixes of the objects that are gone, the first hundred by name.
    pub prefixes: Vec<String>,
    /// Their number.
    pub prefix_count: u64,
}

/// What an object is.
enum Class<'a> {
    Kept,
    Foreign,
    Resource(&'a str),
    Blob,
    Verdict,
}

/// Judges every object. What was written at or after `before` stays.
///
/// # Errors
/// [`CliError::Input`] where the store fails; what was deleted until then stays deleted, and nothing rests on it.
pub async fn sweep(
    store: &Store,
    needed: &Needed,
    before: SystemTime,
    delete: bool,
) -> Result<Collected, CliError> {
    let since = before.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let limit = i64::try_from(since).unwrap_or(i64::MAX);
    let mut collected = Collected { dry_run: !delete, ..Collected::default() };
    let mut prefixes = std::collections::BTreeSet::new();
    let mut doomed: Vec<String> = Vec::new();
    let mut objects = store.stream("").map_err(|error| failed(&error))?;
    while let Some(object) = objects.try_next().await.map_err(|error| failed(&error))? {
        let class = classify(&object.key, needed);
        let garbage = &mut collected.garbage;
        let count = match class {
            Class::Kept => &mut collected.kept,
            Class::Foreign => &mut collected.foreign,
            // Times of stores are whole seconds: what is as old as the limit counts as old.
            _ if object.modified_seconds > limit => &mut collected.young,
            Class::Resource(prefix) => {
                prefixes.insert(prefix.to_owned());
                &mut garbage.resources
            }
            Class::Blob => &mut garbage.blobs,
            Class::Verdict => &mut garbage.verdicts,
        };
        count.add(&object);
        let is_garbage = !matches!(class, Class::Kept | Class::Foreign) && object.modified_seconds <= limit;
        if is_garbage && delete {
            doomed.push(object.key);
        }
        if doomed.len() == DELETED_AT_ONCE {
            store.delete_keys(&doomed).await.map_err(|error| failed(&error))?;
            doomed.clear();
        }
    }
    store.delete_keys(&doomed).await.map_err(|error| failed(&error))?;
    let staged = store.staged(before, delete).await.map_err(|error| failed(&error))?;
    collected.garbage.staged = Count { objects: staged.files, bytes: staged.bytes };
    collected.prefix_count = u64::try_from(prefixes.len()).unwrap_or(u64::MAX);
    collected.prefixes = prefixes.into_iter().take(PREFIXES_NAMED_MAX).collect();
    Ok(collected)
}

fn classify<'a>(key: &'a str, needed: &Needed) -> Class<'a> {
    let name = key.rsplit('/').next().unwrap_or(key);
    let is_digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if key.starts_with("blobs/") && is_digest {
        return if needed.blobs.contain(name) { Class::Kept } else { Class::Blob };
    }
    if key.starts_with("verdicts/")
        && let Some(item) = record_item(name)
    {
        return if needed.verdicts.contain(item.as_str()) { Class::Kept } else { Class::Verdict };
    }
    match resource(key) {
        Some(prefix) if needed.prefixes.contains(prefix) => Class::Kept,
        Some(prefix) => Class::Resource(prefix),
        None => Class::Foreign,
    }
}
