//! Seeded random forests against a brute-force reading of the rules that builds no tree and shares no code with the
//! crate: a node is a list of words, a score is counted over all rollouts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::{BTreeMap, BTreeSet};

use sealign_forest::{Options, build};
use sealign_trajectory::Trajectory;

mod rollouts;

use rollouts::{key, rollout};

/// xorshift64*: enough for test data, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// A rollout as the oracle sees it: words with what came back, and the result.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Plain {
    id: String,
    task: String,
    words: Vec<String>,
    seen: Vec<Option<String>>,
    success: bool,
}

fn draw(dice: &mut Dice) -> Vec<Plain> {
    let count = 1 + dice.below(14);
    (0..count)
        .map(|index| {
            let length = dice.below(6);
            // Few words, so that rollouts share beginnings, loop and repeat each other.
            let words: Vec<String> = (0..length)
                .map(|_| ["A", "B", "C", "!x"][usize::try_from(dice.below(4)).unwrap()].to_owned())
                .collect();
            let last = words.len().saturating_sub(1);
            let see =
                |index: usize, dice: &mut Dice| (index != last).then(|| format!("s{}", dice.below(8) / 7));
            let seen = (0..words.len()).map(|index| see(index, dice)).collect();
            let task = format!("t{}", dice.below(2));
            Plain { id: format!("r{index:02}"), task, words, seen, success: dice.below(2) == 0 }
        })
        .collect()
}

fn recorded(plain: &Plain) -> Trajectory {
    let words = plain.words.iter().zip(&plain.seen);
    let words: Vec<String> = words
        .map(|(word, seen)| seen.as_ref().map_or(word.clone(), |seen| format!("{word}={seen}")))
        .collect();
    rollout(&plain.task, &plain.id, &words.join(" "), plain.success)
}

fn word_key(word: &str) -> String {
    word.strip_prefix('!').map_or_else(|| key(word), |text| format!("invalid:{text}"))
}

/// An action with its successes and paths.
type Sibling = (String, u64, u64);

/// Kept ids, node count, branch points, critical decision points, and pairs as `task depth chosen rejected s/n s/n`.
type Result = (Vec<String>, usize, usize, usize, Vec<String>);

fn oracle(rollouts: &[Plain]) -> Result {
    let kept = oracle_clean(rollouts);
    let mut through: BTreeMap<(String, Vec<String>), Vec<bool>> = BTreeMap::new();
    for rollout in &kept {
        for depth in 1..=rollout.words.len() {
            through
                .entry((rollout.task.clone(), rollout.words[..depth].to_vec()))
                .or_default()
                .push(rollout.success);
        }
    }
    let mut families: BTreeMap<(String, Vec<String>), Vec<Sibling>> = BTreeMap::new();
    for ((task, words), results) in &through {
        let (last, before) = words.split_last().unwrap();
        let successes = u64::try_from(results.iter().filter(|success| **success).count()).unwrap();
        let paths = u64::try_from(results.len()).unwrap();
        families.entry((task.clone(), before.to_vec())).or_default().push((last.clone(), successes, paths));
    }
    // Twice the difference against one, over a common denominator.
    let exceeds = |a: &Sibling, b: &Sibling| 2 * a.1 * b.2 > 2 * b.1 * a.2 + a.2 * b.2;
    let (mut points, mut pairs) = (0, Vec::new());
    for ((task, before), children) in &families {
        points += usize::from(children.iter().any(|a| children.iter().any(|b| exceeds(a, b))));
        let better = |a: &Sibling, b: &Sibling| (a.1 * b.2).cmp(&(b.1 * a.2));
        let tie = |a: &Sibling, b: &Sibling| b.2.cmp(&a.2).then(word_key(&a.0).cmp(&word_key(&b.0)));
        let best = children
            .iter()
            .filter(|child| !child.0.starts_with('!'))
            .min_by(|a, b| better(b, a).then(tie(a, b)));
        let worst = children.iter().min_by(|a, b| better(a, b).then(tie(a, b)));
        if let (Some(best), Some(worst)) = (best, worst)
            && exceeds(best, worst)
        {
            let (c, r) = (word_key(&best.0), word_key(&worst.0));
            pairs.push(format!(
                "{task} {} {c} {r} {}/{} {}/{}",
                before.len(),
                best.1,
                best.2,
                worst.1,
                worst.2
            ));
        }
    }
    pairs.sort();
    let branches = families.values().filter(|children| children.len() > 1).count();
    (kept.iter().map(|rollout| rollout.id.clone()).collect(), through.len(), branches, points, pairs)
}

fn oracle_clean(rollouts: &[Plain]) -> Vec<Plain> {
    let mut seen = BTreeSet::new();
    let mut left: Vec<Plain> = Vec::new();
    for rollout in rollouts {
        if seen.insert((&rollout.task, &rollout.words, &rollout.seen, rollout.success)) {
            left.push(rollout.clone());
        }
    }
    let is_loop = |rollout: &Plain| {
        (2..rollout.words.len()).any(|end| {
            let same =
                |at: usize| rollout.words[at] == rollout.words[end] && rollout.seen[at] == rollout.seen[end];
            rollout.seen[end].is_some() && same(end - 1) && same(end - 2)
        })
    };
    left.retain(|rollout| !is_loop(rollout));
    let all = left.clone();
    left.retain(|rollout| {
        let shares = |other: &&Plain| {
            other.id != rollout.id
                && other.task == rollout.task
                && !rollout.words.is_empty()
                && other.words.first() == rollout.words.first()
        };
        all.iter().find(shares).is_some()
    });
    left
}

#[test]
fn random_forests_equal_the_brute_force_reading() {
    let mut with_pairs = 0;
    for seed in 1..=600 {
        let drawn = draw(&mut Dice(seed * 0x9E37_79B9));
        let recorded: Vec<Trajectory> = drawn.iter().map(recorded).collect();
        let forest = build(&recorded, &Options::default()).unwrap();
        let mut kept: Vec<String> = forest
            .trees
            .iter()
            .flat_map(|tree| tree.rollouts.iter().map(|rollout| rollout.id.clone()))
            .collect();
        kept.sort();
        let line = |pair: &sealign_forest::PairLine| {
            let sealign_forest::PairLine {
                task,
                depth,
                chosen_key,
                rejected_key,
                chosen_score,
                rejected_score,
            } = pair;
            format!("{task} {depth} {chosen_key} {rejected_key} {chosen_score} {rejected_score}")
        };
        let mut pairs: Vec<String> = forest.summary().pairs.iter().map(line).collect();
        pairs.sort();
        let count = |number: u64| usize::try_from(number).unwrap();
        let numbers = &forest.statistics;
        let found = (
            kept,
            count(numbers.nodes),
            count(numbers.branch_points),
            count(numbers.critical_decision_points),
            pairs,
        );
        assert_eq!(found, oracle(&drawn), "seed {seed}");
        with_pairs += usize::from(!found.4.is_empty());
    }
    assert!(with_pairs > 100, "the draws must reach what they test: {with_pairs}");
}
