//! The arithmetic: intervals, exact tests, pass@k and the paper's rounding.

/// The normal quantile of a two-sided 95 % interval.
const Z_95: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % score interval of `count` out of `of`, as shares from 0 to 1; the whole range when `of` is 0.
pub fn wilson(count: u64, of: u64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (real(of), real(count) / real(of));
    let z2 = Z_95 * Z_95;
    let centre = p + z2 / (2.0 * n);
    let spread = Z_95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At the ends the formula gives 0 and 1 but for rounding.
    let low = if count == 0 { 0.0 } else { (centre - spread) / scale };
    let high = if count == of { 1.0 } else { (centre + spread) / scale };
    (low, high)
}

/// The exact two-sided p-value of McNemar's test: `wins` pairs changed for the better and `losses` for the worse.
pub fn mcnemar_exact(wins: u64, losses: u64) -> f64 {
    let n = wins + losses;
    if n == 0 {
        return 1.0;
    }
    // ln C(n, i) step by step; the largest term is at most 0, so nothing overflows.
    let mut ln_term = -real(n) * std::f64::consts::LN_2;
    let mut tail = ln_term.exp();
    for i in 0..wins.min(losses) {
        ln_term += real(n - i).ln() - real(i + 1).ln();
        tail += ln_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// The unbiased estimate of pass@k from `n` attempts of which `c` passed (Chen et al. 2021): the chance that k attempts
/// drawn without replacement hold a pass. `None` when `k` is 0 or above `n`.
pub fn pass_at_k(n: u64, c: u64, k: u64) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    let none: f64 = (0..k).map(|i| real(n - c - i) / real(n - i)).product();
    Some(1.0 - none)
}

/// `count` of `of` as a percentage in tenths, rounded half up: 45 of 300 are 150. 0 when `of` is 0.
pub fn percent_tenths(count: u64, of: u64) -> u64 {
    if of == 0 { 0 } else { (2_000 * count + of) / (2 * of) }
}

/// The paper's relative gain in tenths of a percent, from rates in tenths of a percent: computed from the **rounded**
/// rates and **cut** (specs 5.9). `None` when the base rate rounds to 0.
pub fn relative_gain_tenths(base: u64, new: u64) -> Option<i64> {
    let (base, new) = (i64::try_from(base).ok()?, i64::try_from(new).ok()?);
    (base != 0).then(|| (new - base) * 1_000 / base)
}

/// Tenths as text with one decimal.
pub fn tenths_text(tenths: i64) -> String {
    let sign = if tenths < 0 { "-" } else { "" };
    format!("{sign}{}.{}", tenths.abs() / 10, tenths.abs() % 10)
}

/// Counts are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of attempts are exact in an f64")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{value} is not {expected}");
    }

    #[test]
    fn wilson_intervals_are_those_of_the_textbook() {
        // Newcombe 1998, table 1, method 3: 81/263, 15/148, 0/20, 1/29.
        for (count, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let (l, h) = wilson(count, of);
            near(l, low, 5e-5);
            near(h, high, 5e-5);
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert!((wilson(20, 20).1 - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_exact_test_gives_the_recipes_published_values() {
        near(mcnemar_exact(23, 3), 9e-5, 1e-5);
        near(mcnemar_exact(11, 18), 0.26, 0.01);
        near(mcnemar_exact(24, 5), 5.6e-4, 1e-4);
        near(mcnemar_exact(60, 0) * 1e18, 1.7, 0.1);
        near(mcnemar_exact(6, 2), 0.289_062_5, 1e-12);
        near(mcnemar_exact(3, 3), 1.0, 1e-12);
        near(mcnemar_exact(0, 0), 1.0, 1e-12);
    }

    #[test]
    fn the_exact_test_agrees_with_a_sum_over_all_outcomes() {
        for n in 1_u32..=12 {
            for wins in 0..=n {
                let far = wins.min(n - wins);
                let extreme =
                    (0_u32..1 << n).filter(|bits| bits.count_ones() <= far || bits.count_ones() >= n - far);
                let expected = (real(extreme.count() as u64) / f64::from(1 << n)).min(1.0);
                near(mcnemar_exact(u64::from(wins), u64::from(n - wins)), expected, 1e-12);
            }
        }
    }

    #[test]
    fn pass_at_k_is_the_share_of_draws_that_hold_a_pass() {
        // 5 attempts, 2 passes: of the 10 pairs 3 hold no pass.
        near(pass_at_k(5, 2, 2).unwrap(), 0.7, 1e-12);
        near(pass_at_k(5, 2, 1).unwrap(), 0.4, 1e-12);
        near(pass_at_k(5, 3, 3).unwrap(), 1.0, 1e-12);
        assert_eq!(pass_at_k(3, 1, 4), None);
        assert_eq!(pass_at_k(3, 1, 0), None);
    }

    #[test]
    fn gains_are_cut_and_computed_from_rounded_rates_like_the_papers() {
        for (base, new, text) in [
            (percent_tenths(3, 300), percent_tenths(45, 300), "1400.0"),
            (percent_tenths(4, 500), percent_tenths(93, 500), "2225.0"),
            (percent_tenths(11, 300), percent_tenths(53, 300), "378.3"),
            (percent_tenths(14, 500), percent_tenths(109, 500), "678.5"),
        ] {
            assert_eq!(tenths_text(relative_gain_tenths(base, new).unwrap()), text);
        }
        assert_eq!(relative_gain_tenths(0, 10), None);
        assert_eq!(tenths_text(relative_gain_tenths(200, 150).unwrap()), "-25.0");
    }
}
