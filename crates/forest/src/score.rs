//! Node scores and their exact comparison (specs 5.4).
//!
//! A score is successes over paths. Scores are never divided: the rule "differ by more than one half" is decided in
//! integers, so that 3/4 against 1/4 is exactly the threshold and gives no pair.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits accepted after the point of a threshold; more would be a typing error.
const MAX_DECIMALS: usize = 9;

/// Successes and paths of a node's subtree, printed as `s/n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Score {
    /// Rollouts through the node that ended in success.
    pub successes: u64,
    /// All rollouts through the node.
    pub paths: u64,
}

/// How a score becomes a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScoreEstimator {
    /// `s/n`, the paper's.
    #[default]
    Raw,
    /// `(s+1)/(n+2)`: a node that one path visited says little.
    Laplace,
}

impl ScoreEstimator {
    /// Numerator and denominator. A node without paths cannot occur; it would count as zero.
    fn fraction(self, score: Score) -> (i128, i128) {
        let (successes, paths) = (i128::from(score.successes), i128::from(score.paths));
        match self {
            Self::Raw => (successes, paths.max(1)),
            Self::Laplace => (successes + 1, paths + 2),
        }
    }

    /// Orders two scores by their estimates.
    pub fn compare(self, left: Score, right: Score) -> Ordering {
        let ((ls, ln), (rs, rn)) = (self.fraction(left), self.fraction(right));
        (ls * rn).cmp(&(rs * ln))
    }

    /// Whether `better` exceeds `worse` by strictly more than `threshold`.
    pub fn exceeds(self, better: Score, worse: Score, threshold: Threshold) -> bool {
        let gap = self.gap(better, worse);
        gap.numerator * i128::from(threshold.denominator) > i128::from(threshold.numerator) * gap.denominator
    }

    /// `better` minus `worse`.
    pub fn gap(self, better: Score, worse: Score) -> Gap {
        let ((bs, bn), (ws, wn)) = (self.fraction(better), self.fraction(worse));
        Gap { numerator: bs * wn - ws * bn, denominator: bn * wn }
    }
}

/// The exact difference of two scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    numerator: i128,
    /// Positive.
    denominator: i128,
}

impl Ord for Gap {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.numerator * other.denominator).cmp(&(other.numerator * self.denominator))
    }
}

impl PartialOrd for Gap {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.successes, self.paths)
    }
}

impl From<Score> for String {
    fn from(score: Score) -> Self {
        score.to_string()
    }
}

impl TryFrom<String> for Score {
    type Error = ScoreError;

    fn try_from(text: String) -> Result<Self, ScoreError> {
        let parsed = text.split_once('/').and_then(|(successes, paths)| {
            Some(Self { successes: successes.parse().ok()?, paths: paths.parse().ok()? })
        });
        parsed.filter(|score| score.successes <= score.paths).ok_or(ScoreError::Score(text))
    }
}

/// The difference that two siblings must exceed, as an exact fraction of a decimal text such as `0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    numerator: u64,
    denominator: u64,
    decimals: usize,
}

/// A score or threshold does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// Not `s/n`.
    #[error("`{0}` is not a score of the form s/n")]
    Score(String),
    /// Not a decimal from 0 up to 1.
    #[error(
        "threshold `{0}` is not a decimal of at least 0 and below 1 with at most 9 decimals; write for example \"0.5\""
    )]
    Threshold(String),
}

impl Default for Threshold {
    /// One half, as the paper prints it.
    fn default() -> Self {
        Self { numerator: 5, denominator: 10, decimals: 1 }
    }
}

impl FromStr for Threshold {
    type Err = ScoreError;

    fn from_str(text: &str) -> Result<Self, ScoreError> {
        let refuse = || ScoreError::Threshold(text.chars().take(40).collect());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole != "0" || decimals.len() > MAX_DECIMALS || !is_digits(decimals) || text.ends_with('.') {
            return Err(refuse());
        }
        let numerator = if decimals.is_empty() { 0 } else { decimals.parse().map_err(|_| refuse())? };
        let denominator = u32::try_from(decimals.len()).ok().and_then(|power| 10_u64.checked_pow(power));
        Ok(Self { numerator, denominator: denominator.ok_or_else(refuse)?, decimals: decimals.len() })
    }
}

impl TryFrom<String> for Threshold {
    type Error = ScoreError;

    fn try_from(text: String) -> Result<Self, ScoreError> {
        text.parse()
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.to_string()
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decimals {
            0 => write!(formatter, "0"),
            decimals => write!(formatter, "0.{:0decimals$}", self.numerator),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(text: &str) -> Score {
        Score::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn the_threshold_is_strict_and_exact() {
        let raw = ScoreEstimator::Raw;
        let half = Threshold::default();
        assert!(
            !raw.exceeds(score("3/4"), score("1/4"), half),
            "a difference of exactly one half is no pair"
        );
        assert!(raw.exceeds(score("4/5"), score("1/4"), half));
        assert!(!raw.exceeds(score("1/4"), score("4/5"), half));
        let tenth: Threshold = "0.1".parse().unwrap();
        assert!(
            !raw.exceeds(score("4/10"), score("3/10"), tenth),
            "0.4 - 0.3 is exactly 0.1, whatever floats say"
        );
    }

    #[test]
    fn laplace_shrinks_what_one_path_says() {
        let laplace = ScoreEstimator::Laplace;
        assert!(!laplace.exceeds(score("1/1"), score("0/1"), "0.4".parse().unwrap()), "2/3 - 1/3");
        assert!(laplace.exceeds(score("3/3"), score("0/2"), "0.5".parse().unwrap()), "4/5 - 1/4 = 0.55");
        assert_eq!(laplace.compare(score("1/1"), score("5/5")), Ordering::Less);
    }

    #[test]
    fn thresholds_read_and_print_as_written_and_others_are_refused() {
        for text in ["0.5", "0", "0.50", "0.000000001"] {
            assert_eq!(text.parse::<Threshold>().unwrap().to_string(), text);
        }
        for text in ["1", "0.", ".5", "-0.5", "0.5 ", "half", "", "0.0000000001", "0x1", "1e-1", "0,5"] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }
}
