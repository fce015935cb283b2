//! A campaign of a thousand attempts without a disturbance: what it costs the operator, and that nothing is written
//! after it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Fleet;
use crate::operator::Running;
use crate::process::Usage;
use crate::site::{Site, Size, Watched};

/// Tasks of the campaign of a thousand attempts, for a machine that cannot afford so many.
const TASKS_VARIABLE: &str = "SEALIGN_FLEET_TASKS";
/// Time until it has to be over.
pub const THOUSAND_MAX: Duration = Duration::from_mins(20);
/// Time over which an operator without work is watched: two of its looks at an object that is not finished.
const IDLE: Duration = Duration::from_secs(20);
/// Most memory of the operator, MiB.
const MEMORY_MAX: f64 = 128.0;
/// Status writes of a campaign that are not figures: its beginning, its plan, its work, its end, each with a
/// condition or two.
const TRANSITIONS: u64 = 8;

/// The campaign of every scenario with a thousand attempts: a group a task.
pub fn thousand_attempts() -> Size {
    let told = std::env::var(TASKS_VARIABLE).ok().and_then(|text| text.parse().ok());
    Size { tasks: told.unwrap_or(200), samples: 5, parallelism: 500 }
}

/// What the operator did for a campaign.
pub struct Cost {
    pub watched: Watched,
    pub writes: BTreeMap<String, u64>,
    pub usage: Usage,
}

impl Cost {
    fn of(&self, kind: &str) -> u64 {
        self.writes.get(kind).copied().unwrap_or_default()
    }

    pub fn jobs(&self) -> u64 {
        self.of("create jobs.batch")
    }

    pub fn total(&self) -> u64 {
        self.writes.values().sum()
    }

    /// Holds the figures of the issue: at most two writes a Job, a status a half minute, and memory; and tells them.
    pub fn hold(&self, attempts: u64) -> String {
        let jobs = self.jobs();
        let for_jobs = jobs + self.of("delete jobs.batch");
        assert!(for_jobs <= 2 * jobs, "{for_jobs} writes for {jobs} Jobs");
        let statuses = self.of("update rolloutcampaigns.sealign.dev/status");
        let allowed = self.watched.wall.as_secs() / 30 + TRANSITIONS;
        assert!(statuses <= allowed, "{statuses} status writes in {:?}", self.watched.wall);
        assert!(self.usage.peak_mib <= MEMORY_MAX, "the operator's memory: {:.0} MiB", self.usage.peak_mib);
        format!(
            "{:.1} s; {} API writes of the operator: {:.2} a Job ({jobs} Jobs), {:.3} an attempt, {statuses} statuses \
             of the campaign; {:.1} CPU s, {:.0} MiB; the campaign's object at most {} bytes",
            self.watched.wall.as_secs_f64(),
            self.total(),
            self.total() as f64 / jobs as f64,
            self.total() as f64 / attempts as f64,
            self.usage.cpu_seconds,
            self.usage.peak_mib,
            self.watched.bytes_max,
        )
    }
}

pub fn thousand(fleet: &Fleet) -> String {
    fleet.runtime.block_on(async {
        let extent = thousand_attempts();
        let site = Site::new(&fleet.plane, extent);
        let operator = Running::start(&fleet.plane, &site).await;
        site.apply().await;
        let watched = site.succeeded(THOUSAND_MAX).await;
        let cost = Cost { watched, writes: operator.writes().await, usage: operator.usage() };
        let ended = site.ended().await;
        let attempts = extent.attempts();
        assert_eq!(
            ended.sandboxes,
            attempts + ended.gradings(),
            "a sandbox for each attempt and each distinct patch"
        );
        assert_eq!(ended.claims, BTreeMap::from([(1, ended.sandboxes)]));
        let told = cost.hold(attempts);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = operator.writes().await;
        tokio::time::sleep(IDLE).await;
        assert_eq!(before, operator.writes().await, "an operator without work writes nothing");
        operator.kill();
        let line = format!(
            "{attempts} attempts and {} gradings in {told}; then 0 writes in {} s",
            ended.gradings(),
            IDLE.as_secs()
        );
        fleet.remember(extent.tasks, ended);
        site.close().await;
        line
    })
}
