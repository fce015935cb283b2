//! Waits after failures: doubled each time, with jitter that a seed gives.

use std::time::Duration;

/// Doublings after which the wait does not grow any more, whatever the bounds say.
const DOUBLINGS_MAX: u32 = 20;

/// Wait after failure number `failures` (from 1) of the object that `object` names: between half and all of the doubled wait.
pub fn wait(first: Duration, longest: Duration, failures: u32, seed: u64, object: &str) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(DOUBLINGS_MAX)).min(longest);
    let mut state = seed ^ u64::from(failures);
    for byte in object.bytes() {
        state = mix(state ^ u64::from(byte));
    }
    let thousandths = u32::try_from(mix(state) % 501).unwrap_or(0) + 500;
    doubled.saturating_mul(thousandths) / 1000
}

/// One round of SplitMix64: every bit of the input reaches every bit of the output.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(failures: u32, object: &str) -> f64 {
        wait(Duration::from_secs(1), Duration::from_mins(1), failures, 7, object).as_secs_f64()
    }

    #[test]
    fn waits_double_up_to_a_bound_and_stay_within_half_of_it() {
        for (failures, doubled) in [(1, 1.0), (2, 2.0), (4, 8.0), (9, 60.0), (u32::MAX, 60.0)] {
            let wait = seconds(failures, "demo/a");
            assert!((doubled / 2.0..=doubled).contains(&wait), "{failures}: {wait}");
        }
    }

    #[test]
    fn objects_that_fail_together_do_not_return_together_and_a_seed_replays() {
        assert!((seconds(3, "demo/a") - seconds(3, "demo/b")).abs() > 1e-6);
        assert!((seconds(3, "demo/a") - seconds(3, "demo/a")).abs() < 1e-12);
    }
}
