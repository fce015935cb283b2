//! Where one group of a plan stands, and the commands that take it further.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sealign_manifest::ItemKey;
use sealign_manifest::group::{GroupItems, GroupManifest, GroupRef, RoundMap, TryCause, TryRecord};
use sealign_manifest::key::{Stage, record_item};

use crate::context::Context;
use crate::job::JobView;
use crate::round::{newest, not_before};
use crate::snapshot::{NoDecision, Query};

/// Where a group stands.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "short-lived; most groups in reach are open")]
pub enum Group {
    /// Every stage has its manifest.
    Closed,
    /// In this stage.
    Open(Stage, Position),
    /// Its rollouts need no sandbox: the runner works on them.
    Direct,
}

/// Where a group stands within its stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// No round was decided yet; so many items.
    Fresh(u32),
    /// A round was decided and has no Job.
    Jobless(RoundMap),
    /// The round's Job is being deleted.
    Leaving,
    /// The round's Job is live.
    Live(JobView),
    /// The round is over; the next would run this map in place of this Job.
    Over(RoundMap, JobView),
    /// The round is over and the next may not start before this time.
    Waiting(Timestamp),
    /// Every item has its record; the runner writes the manifest.
    Recorded,
    /// So many rounds in a row brought no record.
    Stuck(u32),
}

/// What deciding about groups needs beside the context.
#[derive(Clone, Copy, Debug)]
pub struct GroupRules {
    /// Rollouts have a pod each.
    pub sandboxed: bool,
    /// Patches are graded.
    pub graded: bool,
    /// Barren rounds in a row after which nothing is started.
    pub rounds_max: u32,
}

/// Looks at one group.
pub fn look(
    cx: Context<'_>,
    jobs: &[JobView],
    group: &GroupRef,
    rules: GroupRules,
) -> Result<Group, NoDecision> {
    let keys = &cx.owner.keys;
    let rollout_key = keys.group_manifest(&group.id, Stage::Rollout);
    if !rules.graded {
        if cx.snapshot.exists(&rollout_key)? {
            return Ok(Group::Closed);
        }
        return rollouts(cx, jobs, group, rules);
    }
    let grade_key = keys.group_manifest(&group.id, Stage::Grade);
    // The grading's manifest alone closes most groups of a long campaign, so the rest is asked for only when it is missing.
    if cx.snapshot.exists(&grade_key)? {
        return Ok(Group::Closed);
    }
    cx.snapshot
        .need([Query::Document(rollout_key.clone()), Query::Names(keys.rounds(&group.id, Stage::Rollout))])?;
    let Some(manifest) = cx.snapshot.document::<GroupManifest>(&rollout_key, "a group manifest")? else {
        return rollouts(cx, jobs, group, rules);
    };
    if manifest.gradings.is_empty() {
        return Ok(Group::Closed);
    }
    let count = u32::try_from(manifest.gradings.len()).unwrap_or(u32::MAX);
    Ok(Group::Open(Stage::Grade, position(cx, jobs, &group.id, Stage::Grade, count, rules.rounds_max)?))
}

fn rollouts(
    cx: Context<'_>,
    jobs: &[JobView],
    group: &GroupRef,
    rules: GroupRules,
) -> Result<Group, NoDecision> {
    if !rules.sandboxed {
        return Ok(Group::Direct);
    }
    let position = position(cx, jobs, &group.id, Stage::Rollout, group.items, rules.rounds_max)?;
    Ok(Group::Open(Stage::Rollout, position))
}

fn position(
    cx: Context<'_>,
    jobs: &[JobView],
    group: &str,
    stage: Stage,
    count: u32,
    rounds_max: u32,
) -> Result<Position, NoDecision> {
    let keys = &cx.owner.keys;
    let Some(round) = newest(cx.snapshot.names(&keys.rounds(group, stage))?) else {
        return Ok(Position::Fresh(count));
    };
    let of_round = |job: &&JobView| {
        job.group.as_deref() == Some(group) && job.stage == stage.name() && job.round == round
    };
    let job = jobs.iter().find(of_round);
    if let Some(job) = job
        && !job.is_over
    {
        return Ok(if job.is_leaving { Position::Leaving } else { Position::Live(job.clone()) });
    }
    let map_key = keys.round(group, stage, round);
    let records = keys.records(group, stage);
    cx.snapshot.need([Query::Document(map_key.clone()), Query::Names(records.clone())])?;
    // A map that was listed and is not there is being replicated, or was deleted by hand: wait for it.
    let Some(map) = cx.snapshot.document::<RoundMap>(&map_key, "a round map")? else {
        return Ok(Position::Leaving);
    };
    let recorded: BTreeSet<ItemKey> =
        cx.snapshot.names(&records)?.iter().filter_map(|name| record_item(name)).collect();
    let Some(job) = job else {
        let all_recorded = map.items.iter().all(|item| recorded.contains(item));
        return Ok(if all_recorded { Position::Recorded } else { Position::Jobless(map) });
    };
    if job.is_leaving {
        return Ok(Position::Leaving);
    }
    after(cx, map, job, &recorded, rounds_max)
}

/// What follows a round that is over.
fn after(
    cx: Context<'_>,
    map: RoundMap,
    job: &JobView,
    recorded: &BTreeSet<ItemKey>,
    rounds_max: u32,
) -> Result<Position, NoDecision> {
    let RoundMap { group, stage, round, barren, items } = map;
    let before = items.len();
    let items: Vec<ItemKey> = items.into_iter().filter(|item| !recorded.contains(item)).collect();
    let Some(first) = items.first() else { return Ok(Position::Recorded) };
    let barren = if items.len() < before {
        0
    } else if job.is_late && found_no_node(cx, first, round)? {
        barren
    } else {
        barren.saturating_add(1)
    };
    if barren >= rounds_max {
        return Ok(Position::Stuck(barren));
    }
    Ok(match not_before(job, barren, cx.installation.barren_wait_seconds) {
        Some(time) if time > cx.now => Position::Waiting(time),
        _ => {
            let next = RoundMap { group, stage, round: round.saturating_add(1), barren, items };
            Position::Over(next, job.clone())
        }
    })
}

/// Whether the runner says that the pod of `item` found no node: such a round burns nothing. One item speaks for all: where
/// others failed for reasons that count, their tries end them.
fn found_no_node(cx: Context<'_>, item: &ItemKey, round: u32) -> Result<bool, NoDecision> {
    let key = cx.owner.keys.failed_try(item, round);
    let failed = cx.snapshot.document::<TryRecord>(&key, "a failed try")?;
    Ok(failed.is_some_and(|failed| failed.cause == TryCause::Unschedulable))
}

/// The first map of a group's stage: all of its items, in the order in which they were frozen.
pub fn first_map(cx: Context<'_>, group: &str, stage: Stage) -> Result<Option<RoundMap>, NoDecision> {
    let keys = &cx.owner.keys;
    let items: Option<Vec<ItemKey>> = match stage {
        Stage::Rollout => cx
            .snapshot
            .document::<GroupItems>(&keys.group_items(group), "a group's items")?
            .map(|items| items.items.iter().map(sealign_manifest::RolloutItem::key).collect()),
        Stage::Grade => cx
            .snapshot
            .document::<GroupManifest>(&keys.group_manifest(group, Stage::Rollout), "a group manifest")?
            .map(|manifest| manifest.gradings.iter().map(sealign_manifest::GradingItem::key).collect()),
    };
    Ok(items.map(|items| RoundMap { group: group.to_owned(), stage, round: 0, barren: 0, items }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::pod::tests::owner;
    use crate::{Installation, Kind, Snapshot};
    use sealign_manifest::Digest;
    use serde_json::json;

    fn item(n: u8) -> ItemKey {
        ItemKey::parse(Digest::of_bytes(&[n]).short(32)).unwrap()
    }

    /// What follows a round of items 0 to 2 after `barren` barren ones, when these have their records.
    fn followed(barren: u32, recorded: &[u8]) -> Position {
        let job = json!({ "metadata": { "name": "j" }, "spec": { "completions": 3 }, "status": { "failedIndexes": "0-2" } });
        let job = JobView::read(&serde_json::from_value(job).unwrap());
        let object = serde_json::from_value(json!({ "metadata": { "name": "first" } })).unwrap();
        let snapshot = Snapshot::new(Kind::RolloutCampaign, object, None);
        let (owner, installation) = (owner(Kind::RolloutCampaign), Installation::default());
        let cx = Context {
            snapshot: &snapshot,
            installation: &installation,
            now: Timestamp::UNIX_EPOCH,
            owner: &owner,
        };
        let items = (0..3).map(item).collect();
        let map = RoundMap { group: "g0001".into(), stage: Stage::Rollout, round: 4, barren, items };
        after(cx, map, &job, &recorded.iter().copied().map(item).collect(), 3).unwrap()
    }

    #[test]
    fn a_next_round_has_what_is_open_and_rounds_in_a_row_that_brought_nothing_are_counted() {
        let next = |barren, recorded: &[u8]| match followed(barren, recorded) {
            Position::Over(RoundMap { round, barren, items, .. }, _) => (round, barren, items),
            other => panic!("{other:?}"),
        };
        assert_eq!(next(1, &[1]), (5, 0, vec![item(0), item(2)]));
        assert_eq!(next(1, &[]), (5, 2, (0..3).map(item).collect()));
        assert_eq!(followed(2, &[]), Position::Stuck(3));
        assert_eq!(followed(2, &[0, 1, 2]), Position::Recorded);
    }
}
