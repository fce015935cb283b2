//! Ten thousand attempts in groups of 64: what they cost the operator, and how long they take beside the bare loop.

use std::time::Duration;

use crate::operator::Running;
use crate::process::Usage;
use crate::site::{Site, Size};
use crate::undisturbed::Cost;
use crate::{Fleet, bare};

const TEN_THOUSAND: Size = Size { tasks: 157, samples: 64, parallelism: 512 };
/// Time until it has to be over, with the operator and with the bare loop.
const LIMIT: Duration = Duration::from_hours(1);
/// Most writes of the operator an attempt.
const WRITES_MAX: f64 = 0.1;
/// Most time beside the bare loop.
const RATIO_MAX: f64 = 1.2;

pub fn ten_thousand(fleet: &Fleet) -> String {
    side_by_side(fleet, TEN_THOUSAND, Some(WRITES_MAX))
}

/// The same at a size that a short run can afford, where groups are too few for the bound a write an attempt.
pub fn thousand(fleet: &Fleet) -> String {
    side_by_side(fleet, Size { tasks: 16, samples: 64, parallelism: 256 }, None)
}

fn side_by_side(fleet: &Fleet, extent: Size, writes_max: Option<f64>) -> String {
    fleet.runtime.block_on(async {
        let site = Site::new(&fleet.plane, extent);
        let operator = Running::start(&fleet.plane, &site).await;
        site.apply().await;
        let watched = site.succeeded(LIMIT).await;
        let (writes, usage): (_, Usage) = (operator.writes().await, operator.usage());
        operator.kill();
        let cost = Cost { watched, writes, usage };
        let ended = site.ended().await;
        assert_eq!(ended.sandboxes, extent.attempts() + ended.gradings());
        site.close().await;
        let told = cost.hold(extent.attempts());
        let an_attempt = cost.total() as f64 / extent.attempts() as f64;
        assert!(writes_max.is_none_or(|most| an_attempt <= most), "writes an attempt: {:?}", cost.writes);

        let site = Site::new(&fleet.plane, extent);
        let (wall, jobs) = bare::run(&site, LIMIT).await;
        assert_eq!(jobs, cost.jobs(), "the bare loop makes the same Jobs");
        site.close().await;
        let ratio = watched.wall.as_secs_f64() / wall.as_secs_f64();
        assert!(ratio <= RATIO_MAX, "{:?} beside {wall:?} of the bare loop: {ratio:.2}", watched.wall);
        format!(
            "{} attempts and {} gradings in {told}; the bare loop makes the same Jobs in {:.1} s: ratio {ratio:.2}",
            extent.attempts(),
            ended.gradings(),
            wall.as_secs_f64()
        )
    })
}
