//! Seeded draws whose values never change between releases of a library: everything generated here is digested.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// A stream of draws that is a function of its label and parts alone.
#[derive(Clone, Debug)]
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream named by `label` and `parts`. Different names give independent streams.
    pub fn new(label: &str, parts: &[&str]) -> Self {
        let mut hasher = Sha256::new();
        for part in std::iter::once(&label).chain(parts) {
            // The length in front keeps ("ab", "c") and ("a", "bc") apart.
            hasher.update(part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(ChaCha8Rng::from_seed(hasher.finalize().into()))
    }

    /// A number below `bound`; 0 when `bound` is 0. The bias is below 2^-32 for every bound used here.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.0.next_u64() % bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = usize::try_from(high.saturating_sub(low)).unwrap_or(0);
        low + i64::try_from(self.below(width + 1)).unwrap_or(0)
    }

    /// Whether an event of this probability (from 0 to 1) happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        // The top 53 bits make every f64 in [0, 1) equally spaced.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
        let unit = (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        unit < probability
    }

    /// One of `words`; the empty text when there are none.
    pub fn word<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.get(self.below(words.len())).copied().unwrap_or("")
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// Puts `items` in a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_its_name_and_never_changes() {
        let first: Vec<usize> = (0..4).map(|_| Draw::new("a", &["b"]).below(1000)).collect();
        assert!(first.windows(2).all(|pair| pair[0] == pair[1]));
        let mut stream = Draw::new("pinned", &["1"]);
        let pinned: Vec<usize> = (0..4).map(|_| stream.below(1000)).collect();
        let mut other = Draw::new("pinned1", &[]);
        let different: Vec<usize> = (0..4).map(|_| other.below(1000)).collect();
        assert_ne!(pinned, different);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..20).collect();
        Draw::new("shuffle", &[]).shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn chances_hold_their_frequency() {
        let mut draw = Draw::new("chance", &[]);
        let hits = (0..10_000).filter(|_| draw.chance(0.17)).count();
        assert!((1_550..1_850).contains(&hits), "{hits} of 10000");
    }
}
