//! Random names. Every function name belongs to one split, so that no task of one split can equal one of the other.

use std::collections::BTreeSet;

use sealign_manifest::Digest;
use serde::{Deserialize, Serialize};

use crate::draw::Draw;

/// Which half of all possible tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Tasks that alignment data may come from.
    Train,
    /// Tasks that only benchmarks see.
    Eval,
}

impl Split {
    /// The name used in manifests and task ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }

    /// The split that a function name belongs to: a coin thrown by the name's digest. All functions of a task have names
    /// of its split, so tasks of different splits differ whatever their seeds are.
    pub fn of_function(name: &str) -> Self {
        let digest = Digest::of_bytes(name.as_bytes());
        if digest.seed().is_multiple_of(2) { Self::Train } else { Self::Eval }
    }
}

const VERBS: [&str; 25] = [
    "blend", "build", "choose", "clean", "collect", "compute", "count", "derive", "fetch", "find", "fold",
    "gather", "join", "load", "make", "mark", "measure", "merge", "pack", "pick", "rank", "read", "scan",
    "score", "trim",
];

const NOUNS: [&str; 63] = [
    "apple", "arrow", "badge", "basket", "beacon", "bell", "blanket", "bottle", "bridge", "button", "cabin",
    "candle", "canoe", "carpet", "castle", "cedar", "chapel", "cherry", "cliff", "clover", "copper",
    "cotton", "crane", "desert", "dolphin", "drum", "engine", "falcon", "feather", "ferry", "fossil",
    "garden", "ginger", "glacier", "hammer", "harbor", "helmet", "island", "ivory", "jacket", "kettle",
    "ladder", "lantern", "lemon", "magnet", "maple", "marble", "meadow", "mirror", "needle", "orchard",
    "paddle", "pebble", "pepper", "pillow", "planet", "puzzle", "ribbon", "saddle", "shelter", "silver",
    "tunnel", "violin",
];

const NUMBERS: [&str; 14] = [
    "left", "right", "first", "second", "size", "step", "rate", "width", "height", "depth", "price", "speed",
    "x", "y",
];
const LISTS: [&str; 6] = ["items", "values", "numbers", "scores", "entries", "rows"];
const TEXTS: [&str; 5] = ["text", "word", "title", "label", "phrase"];
const LOCALS: [&str; 10] =
    ["result", "total", "answer", "value", "output", "found", "amount", "outcome", "reply", "final"];

/// Draws names, none twice within a task.
pub(super) struct Names {
    pub(super) draw: Draw,
    split: Split,
    used: BTreeSet<String>,
}

impl Names {
    pub(super) fn new(draw: Draw, split: Split) -> Self {
        Self { draw, split, used: BTreeSet::new() }
    }

    /// A function name of the split, for example `merge_lantern`.
    pub(super) fn function(&mut self) -> String {
        let split = self.split;
        self.fresh(|draw| {
            let name = format!("{}_{}", draw.word(&VERBS), draw.word(&NOUNS));
            (Split::of_function(&name) == split).then_some(name)
        })
    }

    /// A module name; its file is the name and `.py`. No module of the standard library has one of these names.
    pub(super) fn module(&mut self) -> String {
        self.fresh(|draw| Some(draw.word(&NOUNS).to_owned()))
    }

    pub(super) fn number(&mut self) -> String {
        self.fresh(|draw| Some(draw.word(&NUMBERS).to_owned()))
    }

    pub(super) fn list(&mut self) -> String {
        self.fresh(|draw| Some(draw.word(&LISTS).to_owned()))
    }

    pub(super) fn text(&mut self) -> String {
        self.fresh(|draw| Some(draw.word(&TEXTS).to_owned()))
    }

    pub(super) fn local(&mut self) -> String {
        self.fresh(|draw| Some(draw.word(&LOCALS).to_owned()))
    }

    /// Draws until a name is new. A task uses at most eight of any pool's names except [`TEXTS`] and [`LISTS`], which a
    /// task of three list functions could use up; the bound then gives a repeated name, and the generator's check for
    /// ambiguous lines decides whether that matters.
    fn fresh(&mut self, mut name: impl FnMut(&mut Draw) -> Option<String>) -> String {
        const DRAWS_MAX: usize = 200;
        let mut last = String::new();
        for _ in 0..DRAWS_MAX {
            if let Some(candidate) = name(&mut self.draw) {
                if self.used.insert(candidate.clone()) {
                    return candidate;
                }
                last = candidate;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_one_split_never_have_names_of_the_other() {
        for split in [Split::Train, Split::Eval] {
            let mut names = Names::new(Draw::new("names", &[split.name()]), split);
            for _ in 0..50 {
                assert_eq!(Split::of_function(&names.function()), split);
            }
        }
    }

    #[test]
    fn both_splits_have_enough_names() {
        let all: Vec<String> =
            VERBS.iter().flat_map(|verb| NOUNS.iter().map(move |noun| format!("{verb}_{noun}"))).collect();
        let train = all.iter().filter(|name| Split::of_function(name) == Split::Train).count();
        assert!((650..925).contains(&train), "{train} of {}", all.len());
    }
}
