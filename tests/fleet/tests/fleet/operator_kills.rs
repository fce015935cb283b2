//! The operator killed before a write is sent and after it was carried out, at every write of a campaign or spread
//! over one. Nothing is lost, nothing is done twice, and the campaign comes to what an undisturbed one comes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::Fleet;
use crate::ended::{Ended, compare};
use crate::operator::Keeper;
use crate::site::{Site, Size, Watched};
use crate::trip::Side;
use crate::undisturbed::{THOUSAND_MAX, thousand_attempts};
use crate::wire::{Fault, Wire};

/// A campaign that is small enough for a kill at every write.
pub const SMALL: Size = Size { tasks: 8, samples: 5, parallelism: 15 };
const SMALL_MAX: Duration = Duration::from_mins(5);
/// Every so manyth write of the large campaign: a prime, so that every kind of write is met on both sides.
const STRIDE: u64 = 11;
/// A thousand attempts with a kill at every write take some ten minutes.
const EVERY_MAX: Duration = Duration::from_hours(1);

/// Runs a campaign while `wire` disturbs the operator: what came of it, and how many operators it took.
pub async fn disturbed(
    fleet: &Fleet,
    extent: Size,
    wire: &Arc<Wire>,
    limit: Duration,
) -> (Ended, Watched, u64) {
    let site = Site::new(&fleet.plane, extent);
    site.apply().await;
    let keeper = Keeper::start(&fleet.plane, &site, wire.clone());
    let watched = site.succeeded(limit).await;
    let lives = keeper.stop();
    let ended = site.ended().await;
    site.close().await;
    (ended, watched, lives)
}

/// The undisturbed end of a campaign of this size; runs it where no scenario has.
pub async fn reference(fleet: &Fleet, extent: Size) -> Ended {
    if let Some(ended) = fleet.reference(extent.tasks) {
        return ended;
    }
    let (ended, _, lives) = disturbed(fleet, extent, &Wire::quiet(), THOUSAND_MAX).await;
    assert_eq!(lives, 1);
    fleet.remember(extent.tasks, ended.clone());
    ended
}

/// Deaths before and after by kind of write.
fn deaths(wire: &Wire) -> BTreeMap<String, [u64; 2]> {
    let of = |faults: BTreeMap<Fault, u64>| {
        [Side::Before, Side::After].map(|side| faults.get(&Fault::Death(side)).copied().unwrap_or_default())
    };
    wire.by_kind().into_iter().map(|(kind, faults)| (kind, of(faults))).collect()
}

/// How often the operator died and where, for people.
pub fn told(wire: &Wire) -> String {
    let kinds = deaths(wire).into_iter().map(|(kind, [before, after])| format!("{kind} {before}+{after}"));
    let tried: u64 = wire.writes().values().sum();
    format!("{} kills at {tried} tried writes ({})", wire.troubles(), kinds.collect::<Vec<_>>().join(", "))
}

async fn killed(fleet: &Fleet, extent: Size, wire: Arc<Wire>, limit: Duration) -> String {
    let reference = reference(fleet, extent).await;
    let (ended, watched, lives) = disturbed(fleet, extent, &wire, limit).await;
    compare(&reference, &ended);
    assert_eq!(ended.sandboxes, reference.sandboxes, "a sandbox for each attempt and each distinct patch");
    assert_eq!(ended.claims, reference.claims);
    // A death during which the next one begins to wait is the same life's.
    assert!(wire.troubles() > 0 && lives > wire.troubles() / 2, "{lives} lives, {} kills", wire.troubles());
    format!(
        "{} attempts, {} gradings; {}; 0 lost, 0 with two records, {} sandboxes as undisturbed, final status and \
         records equal; {:.1} s",
        extent.attempts(),
        ended.gradings(),
        told(&wire),
        ended.sandboxes,
        watched.wall.as_secs_f64(),
    )
}

async fn killed_at_every_write(fleet: &Fleet, extent: Size, limit: Duration) -> String {
    let wire = Wire::every_write();
    let line = killed(fleet, extent, wire.clone(), limit).await;
    for kind in ["create jobs", "delete jobs"] {
        let [before, after] = deaths(&wire)[kind];
        assert_eq!(before, after, "{kind}: each was killed before it was sent and after it was carried out");
    }
    line
}

pub fn every_write(fleet: &Fleet) -> String {
    fleet.runtime.block_on(killed_at_every_write(fleet, SMALL, SMALL_MAX))
}

pub fn thousand(fleet: &Fleet) -> String {
    fleet.runtime.block_on(killed(fleet, thousand_attempts(), Wire::spread(STRIDE), THOUSAND_MAX))
}

pub fn every_write_of_thousand(fleet: &Fleet) -> String {
    fleet.runtime.block_on(killed_at_every_write(fleet, thousand_attempts(), EVERY_MAX))
}
