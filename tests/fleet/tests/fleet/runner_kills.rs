//! The runner killed before and after its store writes and its requests to sandboxes, again and again in a campaign
//! of a thousand attempts, alone or beside an operator that is killed too. Its pod fails as one whose process was
//! killed does, and the operator's next round goes on.

use std::sync::Arc;
use std::time::Duration;

use crate::Fleet;
use crate::ended::compare;
use crate::operator::Keeper;
use crate::operator_kills::{reference, told};
use crate::site::{Site, Size};
use crate::trip::Switch;
use crate::undisturbed::thousand_attempts;
use crate::wire::Wire;

/// Silence after which sandboxes here end; their requests follow each other within milliseconds.
const SILENCE: Duration = Duration::from_secs(4);
/// Time until the short one has to be over, and the long one.
const LIMITS: [Duration; 2] = [Duration::from_mins(20), Duration::from_mins(90)];

/// Runs a campaign of a thousand attempts with so many sandboxes at once: each kill costs those that are claimed.
fn killed(
    fleet: &Fleet,
    wire: &Arc<Wire>,
    switch: &Arc<Switch>,
    parallelism: u32,
    limit: Duration,
) -> String {
    fleet.runtime.block_on(async {
        let reference = reference(fleet, thousand_attempts()).await;
        let extent = Size { parallelism, ..thousand_attempts() };
        let site = Site::under(&fleet.plane, extent, SILENCE, Arc::clone(switch));
        site.apply().await;
        let keeper = Keeper::start(&fleet.plane, &site, wire.clone());
        let watched = site.succeeded(limit).await;
        keeper.stop();
        let ended = site.ended().await;
        compare(&reference, &ended);
        let (calls, kills, lives) = switch.counts();
        // Who dies after the closed set was written has no successor.
        assert!(kills > 0 && lives >= kills, "{kills} kills of {lives} runners");
        site.close().await;
        let beside =
            if wire.troubles() > 0 { format!("; operator: {}", told(wire)) } else { String::new() };
        format!(
            "{} attempts, {} gradings; runner: {kills} kills at {calls} writes and requests ({}){beside}; 0 lost, 0 with \
             two records, 0 run again, {} sandboxes ({} undisturbed), final status and records equal; {:.1} s",
            extent.attempts(),
            ended.gradings(),
            switch.told(),
            ended.sandboxes,
            reference.sandboxes,
            watched.wall.as_secs_f64(),
        )
    })
}

/// Both die: the operator at every eleventh write, the runner after every fifty records.
pub fn with_the_operator(fleet: &Fleet) -> String {
    killed(fleet, &Wire::spread(11), &Switch::after(50, 20), 100, LIMITS[0])
}

/// Only the runner dies, after every third record.
pub fn many(fleet: &Fleet) -> String {
    killed(fleet, &Wire::quiet(), &Switch::after(3, 400), 20, LIMITS[1])
}
