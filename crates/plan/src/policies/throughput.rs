//! Rate and remaining time of a campaign.

use jiff::Timestamp;
use sealign_crds::Decimal;

/// Attempts a minute since `start`, and the seconds until `attempts` at that rate. Nothing before the first record.
#[expect(clippy::cast_precision_loss, reason = "counts and seconds stay far below 2^53")]
pub fn estimate(start: Timestamp, now: Timestamp, recorded: u64, attempts: u64) -> Option<(Decimal, i64)> {
    let seconds = u64::try_from(now.duration_since(start).as_secs()).ok().filter(|seconds| *seconds > 0)?;
    if recorded == 0 {
        return None;
    }
    let rate = decimal(recorded as f64 * 60.0 / seconds as f64, 1)?;
    let remaining =
        u128::from(attempts.saturating_sub(recorded)) * u128::from(seconds) / u128::from(recorded);
    Some((rate, i64::try_from(remaining).ok()?))
}

/// A figure with so many digits after the point; `None` where it is not finite or too long.
pub fn decimal(value: f64, digits: usize) -> Option<Decimal> {
    Decimal::parse(&format!("{value:.digits$}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_work_in_a_minute_leaves_a_minute() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (rate, eta) = estimate(at(0), at(60), 50, 100).unwrap();
        assert_eq!((rate.as_str(), eta), ("50.0", 60));
        assert_eq!(estimate(at(0), at(60), 0, 100), None);
        assert_eq!(estimate(at(60), at(60), 1, 100), None);
    }

    #[test]
    fn figures_that_are_no_numbers_are_left_out() {
        assert_eq!(decimal(f64::NAN, 2), None);
        assert_eq!(decimal(-0.125, 2).unwrap().as_str(), "-0.12");
    }
}
