//! What attempts cost: CPU seconds of this process and everything below it, over the time that a campaign ran.
//!
//! Steps of an embedded run follow one another, so what is used while a campaign works is used by it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use kube::core::DynamicObject;
use sealign_local::objects::ObjectKey;
use sealign_local::standing::Standing;
use sealign_report::Cost;
use serde_json::Value;

/// Ticks a second in `/proc/*/stat`: 100 on every Linux that Rust supports (USER_HZ).
const TICKS: f64 = 100.0;

/// Watches campaigns.
#[derive(Debug, Default)]
pub struct CostWatch {
    seen: BTreeMap<ObjectKey, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    began: Instant,
    cpu_seconds: f64,
    recorded: u64,
    /// Wall and CPU seconds and attempts, once it has ended.
    ended: Option<(f64, f64, u64)>,
}

impl CostWatch {
    /// Notes how a campaign stands now.
    pub fn note(&mut self, key: &ObjectKey, object: &DynamicObject) {
        let recorded = object.data.pointer("/status/recorded").and_then(Value::as_u64).unwrap_or(0);
        let has_begun = object.data.pointer("/status/startTime").is_some();
        let is_end = Standing::of(key.kind, object).is_end();
        match self.seen.get_mut(key) {
            None if has_begun && !is_end => {
                let seen = Seen { began: Instant::now(), cpu_seconds: cpu_seconds(), recorded, ended: None };
                self.seen.insert(key.clone(), seen);
            }
            Some(seen) if is_end && seen.ended.is_none() => {
                let wall = seen.began.elapsed().as_secs_f64();
                seen.ended =
                    Some((wall, cpu_seconds() - seen.cpu_seconds, recorded.saturating_sub(seen.recorded)));
            }
            _ => {}
        }
    }

    /// The costs of the campaigns that ended while they were watched.
    pub fn costs(&self) -> Vec<Cost> {
        let cost = |(key, seen): (&ObjectKey, &Seen)| {
            let (wall_seconds, cpu_seconds, attempts) = seen.ended?;
            Some(Cost { what: key.name.clone(), attempts, cpu_seconds, wall_seconds })
        };
        self.seen.iter().filter_map(cost).filter(|cost| cost.attempts > 0).collect()
    }
}

/// CPU seconds of this process, of its children that have ended, and of those that live. What grandchildren use is theirs
/// until their parents have waited for them.
fn cpu_seconds() -> f64 {
    let own = std::process::id();
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some((parent, used)) = usage(&entry.path())
            && (pid == own || parent == own)
        {
            ticks += used;
        }
    }
    // A run uses far fewer than 2^52 ticks.
    #[expect(clippy::cast_precision_loss, reason = "ticks of one run stay far below 2^52")]
    let seconds = ticks as f64 / TICKS;
    seconds
}

/// Parent and ticks (own and of ended children) of a process.
fn usage(process: &Path) -> Option<(u32, u64)> {
    let text = std::fs::read_to_string(process.join("stat")).ok()?;
    // The program's name stands in parentheses and may hold anything, spaces and parentheses too.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((parent, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_child_counts_once_it_has_been_waited_for() {
        let before = cpu_seconds();
        let mut child = std::process::Command::new("/bin/sh");
        child.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"]);
        assert!(child.status().unwrap().success());
        assert!(cpu_seconds() > before);
    }
}
