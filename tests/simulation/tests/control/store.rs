//! A store that is one sorted map: cheap to copy, so that thousands of runs can fork from one state.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use sealign_manifest::group::RoundMap;
use sealign_manifest::key::record_item;
use sealign_storage::{ArtifactStore, CreateOutcome, StoreError};

/// Contents and what is checked while they grow.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub objects: BTreeMap<String, Bytes>,
    /// Round maps that named an item which had its record when the map was written.
    pub violations: Vec<String>,
    /// Keys that nobody can write, for workers that never get anywhere.
    pub forbidden: BTreeSet<String>,
    /// Sum of the digests of all objects.
    digest: u64,
}

impl Contents {
    /// Equal for equal objects.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn insert(&mut self, key: &str, bytes: Bytes) {
        self.digest = self.digest.wrapping_add(digest(key, &bytes));
        if let Some(before) = self.objects.insert(key.to_owned(), bytes) {
            self.digest = self.digest.wrapping_sub(digest(key, &before));
        }
    }
}

fn digest(key: &str, bytes: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, bytes).hash(&mut hasher);
    hasher.finish()
}

/// Contents are shared between forks until one of them writes.
#[derive(Debug, Default)]
pub struct MapStore(Mutex<Arc<Contents>>);

impl MapStore {
    pub fn of(contents: Arc<Contents>) -> Self {
        Self(Mutex::new(contents))
    }

    pub fn contents(&self) -> Arc<Contents> {
        self.0.lock().unwrap().clone()
    }

    pub fn forbid(&self, key: &str) {
        Arc::make_mut(&mut self.0.lock().unwrap()).forbidden.insert(key.to_owned());
    }

    pub fn allow(&self, key: &str) {
        Arc::make_mut(&mut self.0.lock().unwrap()).forbidden.remove(key);
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.lock().unwrap().objects.contains_key(key)
    }

    pub fn read(&self, key: &str) -> Option<Bytes> {
        self.0.lock().unwrap().objects.get(key).cloned()
    }

    /// Create-only; whether it was new.
    pub fn put(&self, key: &str, bytes: Bytes) -> bool {
        let mut shared = self.0.lock().unwrap();
        if shared.objects.contains_key(key) || shared.forbidden.contains(key) {
            return false;
        }
        let violation = recorded_item_in_map(&shared, key, &bytes);
        let contents = Arc::make_mut(&mut shared);
        contents.violations.extend(violation);
        contents.insert(key, bytes);
        true
    }

    pub fn replace(&self, key: &str, bytes: Bytes) {
        Arc::make_mut(&mut self.0.lock().unwrap()).insert(key, bytes);
    }

    pub fn below(&self, prefix: &str) -> Vec<String> {
        let prefix = format!("{prefix}/");
        let contents = self.0.lock().unwrap();
        contents
            .objects
            .range(prefix.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&prefix))
            .cloned()
            .collect()
    }
}

fn recorded_item_in_map(contents: &Contents, key: &str, bytes: &Bytes) -> Option<String> {
    let (object, rest) = key.split_once("/rounds/")?;
    let map: RoundMap = serde_json::from_slice(bytes).ok()?;
    let prefix = format!("{object}/groups/{}/{}/", map.group, map.stage.name());
    let recorded: BTreeSet<_> = contents
        .objects
        .range(prefix.clone()..)
        .take_while(|(key, _)| key.starts_with(&prefix))
        .filter_map(|(key, _)| record_item(key))
        .collect();
    let again = map.items.iter().find(|item| recorded.contains(item))?;
    Some(format!("round map {rest} starts item {again} again, which has its record"))
}

#[async_trait]
impl ArtifactStore for MapStore {
    async fn get_bounded(&self, key: &str, _: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read(key))
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome, StoreError> {
        Ok(if self.put(key, bytes) { CreateOutcome::Created } else { CreateOutcome::AlreadyExists })
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.replace(key, bytes);
        Ok(())
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.has(key))
    }

    async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.below(prefix))
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, StoreError> {
        let below = self.below(prefix);
        let mut shared = self.0.lock().unwrap();
        let contents = Arc::make_mut(&mut shared);
        for key in &below {
            if let Some(bytes) = contents.objects.remove(key) {
                contents.digest = contents.digest.wrapping_sub(digest(key, &bytes));
            }
        }
        Ok(below.len() as u64)
    }
}
