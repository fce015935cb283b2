//! Walking the lineage back: report, model, forest, closed sets, records, plan, tasks. Every object is hashed again and
//! compared with what the manifests above it say; a changed byte anywhere is a finding.
//!
//! It reads the store and nothing else, and trusts no manifest further than its own digest.

use std::collections::{BTreeMap, BTreeSet};

use sealign_manifest::group::{
    ClosedSet, ForestManifest, GroupItems, GroupManifest, Lineage, OutputRef, PlanManifest, TaskListManifest,
};
use sealign_manifest::key::{self, Stage};
use sealign_manifest::train::{AdapterManifest, ModelManifest};
use sealign_manifest::{Digest, ItemKey, ObjectKeys, RolloutRecord, Task, VerdictRecord};
use sealign_storage::{ArtifactStore, StoreError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::resolve::TASKS;
use crate::saving::read;

/// Largest object that is hashed: a shard of weights.
const OBJECT_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Findings that are kept; beyond, only their number grows.
const FINDINGS_MAX: usize = 10_000;

/// Something that is not as its manifest says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Key of the object.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Walk {
    /// Objects that were hashed.
    pub objects: u64,
    /// What is wrong, in order of discovery.
    pub findings: Vec<Finding>,
    /// Findings in all.
    pub finding_count: u64,
}

/// The part of a report that names what it rests on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReportManifest {
    inputs: BTreeMap<String, Digest>,
    outputs: BTreeMap<String, OutputRef>,
}

/// Walks from the manifest at `key`: a `report.json`, `forest.json`, `closed.json`, `tasks.json` or a model's
/// `manifest.json`. Each object is looked at once.
///
/// # Errors
/// [`StoreError`] when the store fails; a missing or altered object is a finding.
pub async fn walk(store: &dyn ArtifactStore, key: &str) -> Result<Walk, StoreError> {
    let mut walker = Walker {
        store,
        walk: Walk::default(),
        seen: BTreeSet::new(),
        listed: BTreeMap::new(),
        open: Vec::new(),
    };
    walker.open.push((key.to_owned(), None));
    while let Some((key, digest)) = walker.open.pop() {
        walker.visit(&key, digest.as_ref()).await?;
    }
    Ok(walker.walk)
}

struct Walker<'a> {
    store: &'a dyn ArtifactStore,
    walk: Walk,
    seen: BTreeSet<String>,
    /// Tasks by the list that was seen: several campaigns share one.
    listed: BTreeMap<String, BTreeSet<Digest>>,
    /// Objects to visit, with the digest that something promised.
    open: Vec<(String, Option<Digest>)>,
}

impl Walker<'_> {
    async fn visit(&mut self, key: &str, promised: Option<&Digest>) -> Result<(), StoreError> {
        let Some(bytes) = self.object(key, promised).await? else { return Ok(()) };
        let keys = ObjectKeys::beside(key);
        match key.rsplit('/').next().unwrap_or(key) {
            "report.json" => self.report(key, &keys, &bytes).await?,
            "forest.json" => self.forest(key, &keys, &bytes).await?,
            "closed.json" => self.closed(key, &keys, &bytes).await?,
            "tasks.json" => self.tasks(key, &keys, &bytes, None).await?,
            "manifest.json" if keys.prefix().ends_with("/adapter") => self.adapter(key, &keys, &bytes),
            "manifest.json" => self.model(key, &keys, &bytes).await?,
            _ => {}
        }
        Ok(())
    }

    /// The bytes of an object, hashed; `None` when it is missing, altered or was seen before.
    async fn object(&mut self, key: &str, promised: Option<&Digest>) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.seen.insert(key.to_owned()) {
            return Ok(None);
        }
        let bytes = match read(self.store, key, OBJECT_BYTES_MAX).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.find(key, "is missing");
                return Ok(None);
            }
            Err(error @ (StoreError::Key { .. } | StoreError::TooLarge { .. })) => {
                self.find(key, error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.walk.objects += 1;
        let actual = Digest::of_bytes(&bytes);
        match promised {
            Some(promised) if *promised != actual => {
                self.find(key, format!("has digest {actual}, and {promised} was promised"));
                Ok(None)
            }
            _ => Ok(Some(bytes)),
        }
    }

    fn parse<T: DeserializeOwned>(&mut self, key: &str, bytes: &[u8]) -> Option<T> {
        match serde_json::from_slice(bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.find(key, format!("is not the document that its name says: {error}"));
                None
            }
        }
    }

    fn find(&mut self, key: &str, problem: impl Into<String>) {
        self.walk.finding_count += 1;
        if self.walk.findings.len() < FINDINGS_MAX {
            self.walk.findings.push(Finding { key: key.to_owned(), problem: problem.into() });
        }
    }

    /// Notes the outputs of the manifest that lies beside `keys`' own objects.
    fn promise<'a>(&mut self, keys: &ObjectKeys, outputs: impl Iterator<Item = &'a OutputRef>) {
        self.open.extend(outputs.map(|output| (keys.join(&output.file), Some(output.digest.clone()))));
    }

    /// Where the inputs of a manifest lie; nothing where nobody wrote it down.
    async fn lineage(&mut self, key: &str) -> Result<Lineage, StoreError> {
        let Some(bytes) = read(self.store, key, OBJECT_BYTES_MAX).await? else { return Ok(Lineage::new()) };
        Ok(self.parse(key, &bytes).unwrap_or_default())
    }

    /// Notes the inputs of a manifest whose places stand at `lineage_key`.
    async fn inputs(
        &mut self,
        lineage_key: &str,
        inputs: &BTreeMap<String, Digest>,
    ) -> Result<(), StoreError> {
        for (name, key) in self.lineage(lineage_key).await? {
            match inputs.get(&name) {
                Some(digest) => self.open.push((key, Some(digest.clone()))),
                None => self.find(lineage_key, format!("names `{name}`, which is no input")),
            }
        }
        Ok(())
    }

    async fn report(&mut self, key: &str, keys: &ObjectKeys, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(report) = self.parse::<ReportManifest>(key, bytes) else { return Ok(()) };
        self.promise(keys, report.outputs.values());
        self.inputs(&keys.lineage("report"), &report.inputs).await
    }

    async fn forest(&mut self, key: &str, keys: &ObjectKeys, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(forest) = self.parse::<ForestManifest>(key, bytes) else { return Ok(()) };
        self.promise(keys, forest.outputs.values());
        self.inputs(&keys.lineage("forest"), &forest.inputs).await
    }

    /// A model: its files, the forest that it learnt from, and the model that it began as, file by file.
    async fn model(&mut self, key: &str, keys: &ObjectKeys, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(model) = self.parse::<ModelManifest>(key, bytes) else { return Ok(()) };
        self.promise(keys, model.files.values());
        let step = ObjectKeys::beside(keys.prefix());
        self.open.extend(model.adapter.map(|digest| (step.adapter(), Some(digest))));
        let lineage_key = step.lineage("model");
        let mut lineage = self.lineage(&lineage_key).await?;
        if let (Some(forest), Some(digest)) = (lineage.remove("forest"), model.inputs.get("forest")) {
            self.open.push((forest, Some(digest.clone())));
        }
        let Some(base_key) = lineage.remove("model") else { return Ok(()) };
        let Some(base) = read(self.store, &base_key, OBJECT_BYTES_MAX).await? else {
            self.find(&base_key, "is missing");
            return Ok(());
        };
        let Some(base) = self.parse::<ModelManifest>(&base_key, &base) else { return Ok(()) };
        for (name, file) in &base.files {
            if model.inputs.get(&format!("model/{name}")).is_some_and(|digest| *digest != file.digest) {
                self.find(key, format!("was trained from another `{name}` than that of {base_key}"));
            }
        }
        self.open.push((base_key, None));
        Ok(())
    }

    fn adapter(&mut self, key: &str, keys: &ObjectKeys, bytes: &[u8]) {
        let Some(adapter) = self.parse::<AdapterManifest>(key, bytes) else { return };
        self.promise(keys, adapter.files.values());
    }

    async fn closed(&mut self, key: &str, keys: &ObjectKeys, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(closed) = self.parse::<ClosedSet>(key, bytes) else { return Ok(()) };
        let Some(plan_bytes) = self.object(&keys.plan(), None).await? else { return Ok(()) };
        let Some(plan) = self.parse::<PlanManifest>(&keys.plan(), &plan_bytes) else { return Ok(()) };
        if plan.digest().ok().as_ref() != Some(&closed.plan) {
            self.find(&keys.plan(), format!("is not the plan {} that was promised", closed.plan));
        }
        let Some(list_key) = self.lineage(&keys.lineage("plan")).await?.remove(TASKS) else {
            self.find(&keys.lineage("plan"), "does not say where the tasks lie");
            return Ok(());
        };
        let task_keys = ObjectKeys::beside(&list_key);
        if let Some(list) = self.object(&list_key, None).await? {
            self.tasks(&list_key, &task_keys, &list, Some(&plan.tasks)).await?;
            if let Some(list) = self.parse::<TaskListManifest>(&list_key, &list) {
                let tasks = list.tasks.into_iter().map(|task| task.digest).collect();
                self.listed.insert(list_key.clone(), tasks);
            }
        }
        let tasks = self.listed.get(&list_key).cloned().unwrap_or_default();
        let mut records = Vec::new();
        for group in &plan.groups {
            let planned = if group.items == 0 { None } else { self.items(keys, &group.id, &tasks).await? };
            let rollouts = self.group(keys, &group.id, Stage::Rollout, planned.as_ref()).await?;
            let grades =
                if plan.graded { self.group(keys, &group.id, Stage::Grade, None).await? } else { None };
            records.push((group.id.clone(), rollouts, grades));
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        if Digest::of_json(&records).ok().as_ref() != Some(&closed.records) {
            self.find(key, "its digest of records is not that of the group manifests");
        }
        Ok(())
    }

    async fn items(
        &mut self,
        keys: &ObjectKeys,
        group: &str,
        tasks: &BTreeSet<Digest>,
    ) -> Result<Option<BTreeSet<ItemKey>>, StoreError> {
        let key = keys.group_items(group);
        let Some(bytes) = self.object(&key, None).await? else { return Ok(None) };
        let Some(items) = self.parse::<GroupItems>(&key, &bytes) else { return Ok(None) };
        if let Some(item) = items.items.iter().find(|item| !tasks.contains(&item.task)) {
            self.find(&key, format!("names task {}, which the task list lacks", item.task));
        }
        Ok(Some(items.items.iter().map(sealign_manifest::RolloutItem::key).collect()))
    }

    async fn group(
        &mut self,
        keys: &ObjectKeys,
        group: &str,
        stage: Stage,
        planned: Option<&BTreeSet<ItemKey>>,
    ) -> Result<Option<BTreeMap<ItemKey, Digest>>, StoreError> {
        let key = keys.group_manifest(group, stage);
        let Some(bytes) = self.object(&key, None).await? else { return Ok(None) };
        let Some(manifest) = self.parse::<GroupManifest>(&key, &bytes) else { return Ok(None) };
        if planned.is_some_and(|planned| !planned.iter().eq(manifest.records.keys())) {
            self.find(&key, "its records are not those of the planned items");
        }
        for (item, digest) in &manifest.records {
            let record_key = keys.record(group, stage, item);
            let Some(bytes) = self.object(&record_key, Some(digest)).await? else { continue };
            match stage {
                Stage::Rollout => self.rollout(&record_key, item, &bytes),
                Stage::Grade => self.grade(&record_key, item, &bytes),
            }
        }
        Ok(Some(manifest.records))
    }

    fn rollout(&mut self, key: &str, item: &ItemKey, bytes: &[u8]) {
        let Some(record) = self.parse::<RolloutRecord>(key, bytes) else { return };
        if record.item.key() != *item {
            self.find(key, "holds the record of another item");
        }
        self.open.extend(record.patch.map(|patch| (key::blob(&patch), Some(patch))));
    }

    fn grade(&mut self, key: &str, item: &ItemKey, bytes: &[u8]) {
        let Some(record) = self.parse::<VerdictRecord>(key, bytes) else { return };
        if record.item.key() != *item {
            self.find(key, "holds the verdict of another item");
        }
    }

    async fn tasks(
        &mut self,
        key: &str,
        keys: &ObjectKeys,
        bytes: &[u8],
        promised: Option<&Digest>,
    ) -> Result<(), StoreError> {
        let Some(list) = self.parse::<TaskListManifest>(key, bytes) else { return Ok(()) };
        if promised.is_some_and(|promised| list.digest().ok().as_ref() != Some(promised)) {
            self.find(key, "is not the task list that the plan was made for");
        }
        let Some(rows) = self.object(&keys.task_rows(), Some(&list.rows)).await? else { return Ok(()) };
        let lines: Vec<&[u8]> = rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        if lines.len() != list.tasks.len() {
            self.find(key, format!("lists {} tasks, and there are {} rows", list.tasks.len(), lines.len()));
        }
        for (line, reference) in lines.iter().zip(&list.tasks) {
            let Some(task) = self.parse::<Task>(&keys.task_rows(), line) else { continue };
            if task.environment.image != reference.image {
                self.find(key, format!("task `{}` has another image", reference.id));
            }
            if task.digest().ok().as_ref() != Some(&reference.digest) {
                self.find(key, format!("task `{}` has another digest", reference.id));
            }
        }
        Ok(())
    }
}
