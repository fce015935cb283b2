//! The oracle: what a campaign came to, read from the store and from its status, and whether two of them are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use sealign_manifest::group::{ClosedSet, GroupItems, GroupManifest, PlanManifest};
use sealign_manifest::key::{Stage, record_item};
use sealign_manifest::record::Outcome;
use sealign_manifest::{Digest, GradingItem, ItemKey, RolloutItem};
use sealign_storage::{ArtifactStore as _, ArtifactStoreExt as _};
use serde_json::Value;

use crate::site::Site;

/// Largest record that is read, in bytes.
const RECORD_MAX: u64 = 16 * 1024 * 1024;
/// Fields of a status that tell times, or where the object's own UID is in.
const TIMES: [&str; 4] = ["startTime", "completionTime", "attemptsPerMinute", "artifacts"];

/// How a campaign ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Digest of every record, by group, stage and item.
    pub records: BTreeMap<(String, String, ItemKey), Digest>,
    pub closed: ClosedSet,
    /// The status, without times.
    pub status: Value,
    /// Sandboxes that were started.
    pub sandboxes: u64,
    /// Items by the number of their claims.
    pub claims: BTreeMap<u32, u64>,
}

impl Ended {
    pub fn gradings(&self) -> u64 {
        self.closed.gradings
    }
}

/// Reads what the campaign of `site` came to, and fails where a planned item has no record, an item has two, anything
/// was given up, or an item was claimed after it had its record.
pub async fn collect(site: &Site) -> Ended {
    let (keys, store) = (site.keys().await, &site.store);
    let plan: PlanManifest = store.get_json(&keys.plan()).await.unwrap().unwrap();
    assert_eq!(plan.item_count, site.size.attempts());
    let mut records = BTreeMap::new();
    for group in &plan.groups {
        let items: GroupItems = store.get_json(&keys.group_items(&group.id)).await.unwrap().unwrap();
        let rolled: GroupManifest =
            store.get_json(&keys.group_manifest(&group.id, Stage::Rollout)).await.unwrap().unwrap();
        let wanted = [
            (Stage::Rollout, items.items.iter().map(RolloutItem::key).collect::<BTreeSet<_>>()),
            (Stage::Grade, rolled.gradings.iter().map(GradingItem::key).collect()),
        ];
        for (stage, planned) in wanted {
            let names = store.list_names(&keys.records(&group.id, stage)).await.unwrap();
            let found: BTreeSet<ItemKey> = names.iter().filter_map(|name| record_item(name)).collect();
            assert_eq!(planned, found, "group {}: what was planned and what has a record", group.id);
            for item in found {
                let key = keys.record(&group.id, stage, &item);
                let bytes = store.get_bounded(&key, RECORD_MAX).await.unwrap().unwrap();
                records.insert((group.id.clone(), stage.name().to_owned(), item), Digest::of_bytes(&bytes));
            }
        }
    }
    let distinct: BTreeSet<&ItemKey> = records.keys().map(|(_, _, item)| item).collect();
    assert_eq!(distinct.len(), records.len(), "an item has two records");
    let closed: ClosedSet = store.get_json(&keys.closed()).await.unwrap().unwrap();
    assert!(!closed.outcomes.contains_key(&Outcome::Infra), "items were given up: {:?}", closed.outcomes);
    assert_eq!(closed.outcomes.values().sum::<u64>(), site.size.attempts());
    let tally = &site.kubelet.tally;
    let again = tally.again.lock().unwrap().clone();
    assert!(again.is_empty(), "recorded items were run again: {again:?}");
    let mut claims = BTreeMap::new();
    for times in tally.claims.lock().unwrap().values() {
        *claims.entry(*times).or_default() += 1;
    }
    let status = site.campaign().await.data.get("status").cloned().unwrap_or_default();
    Ended {
        records,
        closed,
        status: lasting(status),
        sandboxes: tally.sandboxes.load(Ordering::Relaxed),
        claims,
    }
}

/// A status without times.
fn lasting(mut status: Value) -> Value {
    let fields = status.as_object_mut().unwrap();
    fields.retain(|name, _| !TIMES.contains(&name.as_str()));
    for condition in fields["conditions"].as_array_mut().unwrap() {
        condition.as_object_mut().unwrap().remove("lastTransitionTime");
    }
    status
}

/// Fails where a disturbed campaign did not come to the same as an undisturbed one of its size.
pub fn compare(reference: &Ended, ended: &Ended) {
    assert!(reference.records.keys().eq(ended.records.keys()), "the sets of records differ");
    let differing: Vec<_> =
        reference.records.iter().filter(|(key, digest)| ended.records[*key] != **digest).collect();
    assert!(differing.is_empty(), "{} records differ: {:?}", differing.len(), &differing[..1]);
    assert_eq!(reference.closed, ended.closed);
    assert_eq!(reference.status, ended.status);
}
