//! Choosing the next token.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a request wants its tokens chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f64,
    /// Seed of the request's own number stream.
    pub seed: u64,
}

/// Draws tokens for one request. The draws depend on the logits, the seed and how many tokens were drawn, nothing else.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    generator: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at its first token.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, generator: ChaCha8Rng::seed_from_u64(sampling.seed) }
    }

    /// Index of the next token. Among equal greatest logits the first one wins.
    pub fn next(&mut self, logits: &[f32]) -> usize {
        let greedy = greatest(logits);
        if self.sampling.temperature <= 0.0 {
            return greedy;
        }
        let draw = self.generator.random::<f64>();
        let highest = logits.get(greedy).copied().map_or(0.0, f64::from);
        let mut weights: Vec<(usize, f64)> = logits
            .iter()
            .enumerate()
            .map(|(index, logit)| (index, ((f64::from(*logit) - highest) / self.sampling.temperature).exp()))
            .collect();
        if self.sampling.top_p < 1.0 {
            keep_nucleus(&mut weights, self.sampling.top_p);
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = draw * total;
        for (index, weight) in &weights {
            left -= weight;
            if left < 0.0 {
                return *index;
            }
        }
        greedy
    }
}

fn greatest(logits: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (index, *logit);
        }
    }
    best.0
}

/// Keeps the most probable tokens until their share reaches `top_p`; ties by index.
fn keep_nucleus(weights: &mut Vec<(usize, f64)>, top_p: f64) {
    weights.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    let mut kept = 0;
    for (_, weight) in weights.iter() {
        kept += 1;
        sum += weight;
        if sum >= top_p * total {
            break;
        }
    }
    weights.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, seed })
    }

    #[test]
    fn greedy_takes_the_first_of_the_greatest() {
        assert_eq!(sampler(0.0, 1.0, 0).next(&[0.5, 2.0, 2.0, -1.0]), 1);
    }

    #[test]
    fn a_seed_repeats_its_draws_and_shares_follow_the_probabilities() {
        let logits = [0.0_f32, 3.0_f32.ln(), f32::NEG_INFINITY];
        let draw = |seed| {
            let mut sampler = sampler(1.0, 1.0, seed);
            (0..4000).map(|_| sampler.next(&logits)).collect::<Vec<_>>()
        };
        let draws = draw(1);
        assert_eq!(draws, draw(1));
        assert_ne!(draws, draw(2));
        let ones = draws.iter().filter(|index| **index == 1).count();
        assert!((2880..=3120).contains(&ones), "{ones} of 4000, expected 3000");
        assert!(!draws.contains(&2));
    }

    #[test]
    fn top_p_leaves_out_the_tail() {
        let logits = [4.0, 3.0, 0.0, 0.0];
        let mut sampler = sampler(1.0, 0.9, 3);
        assert!((0..500).all(|_| sampler.next(&logits) < 2));
    }
}
