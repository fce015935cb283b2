//! The forest as one HTML file that needs nothing else: no network, no fonts, no scripts from elsewhere.
//!
//! It shows the statistics, every tree with its scores, and every pair side by side. All text in it was written by
//! models and tools and is hostile: it is escaped, control and direction characters are made visible, and the page's own
//! policy lets only its own style and script run. Texts are cut to keep the file small, and each cut says so.
//!
//! Without scripts everything is readable; the script adds the task filter and the keys.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use sealign_trajectory::Trajectory;
use sha2::{Digest as _, Sha256};

use crate::forest::Forest;
use crate::pairs::Pair;
use crate::tree::{Node, RolloutIndex, Tree};

mod decision;
mod numbers;
mod outline;

use numbers::score_mark;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Bounds on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewerOptions {
    /// Characters shown of one text.
    pub text_chars: usize,
    /// Bytes of text in the whole page; what comes later is left out. Browsers stay quick up to some tens of megabytes.
    pub total_bytes: usize,
    /// Branches inside branches that are drawn.
    pub nesting: usize,
    /// Action nodes in the whole page. Trees are drawn while they fit, those with pairs first.
    pub nodes: usize,
    /// Pairs drawn per tree.
    pub pairs_per_tree: usize,
}

impl Default for ViewerOptions {
    fn default() -> Self {
        Self { text_chars: 1_600, total_bytes: 12 << 20, nesting: 100, nodes: 30_000, pairs_per_tree: 200 }
    }
}

/// Renders a forest. Trajectories give the texts; where one is missing the page shows keys only. Equal inputs give equal
/// bytes.
pub fn render(forest: &Forest, trajectories: &[Trajectory], title: &str, options: ViewerOptions) -> String {
    let page = Page::new(forest, trajectories, options);
    let main = page.main();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy());
                title { (clean(title)) " · SEAlign forest" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the trees" }
                header.top {
                    h1 { (clean(title)) }
                    p.keys {
                        kbd { "/" } " filter tasks " kbd { "[" } kbd { "]" } " previous, next task "
                        kbd { "j" } kbd { "k" } " move " kbd { "←" } kbd { "→" } " fold, unfold "
                        kbd { "e" } kbd { "c" } " unfold, fold all " kbd { "p" } " next pair"
                    }
                }
                (page.sidebar())
                main #main { (main) (page.footer()) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

/// Only the page's own style and script run, whatever a text contains.
fn policy() -> String {
    let hash = |text: &str| base64(&Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |bits: u32| {
        ALPHABET.get(usize::try_from(bits & 63).unwrap_or(0)).map_or('A', |letter| char::from(*letter))
    };
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            out.push(if place <= chunk.len() { letter(bits >> (18 - 6 * place)) } else { '=' });
        }
    }
    out
}

/// Makes characters visible that would hide or reorder text: controls other than newline and tab, and the marks that
/// change direction.
fn clean(text: &str) -> String {
    let is_hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.replace("\r\n", "\n").chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// The first line of a text, cut, for a heading.
fn headline(text: &str, limit: usize) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let mut short: String = clean(line).chars().take(limit).collect();
    if line.chars().count() > limit || text.trim().lines().count() > 1 {
        short.push('…');
    }
    short
}

/// The trees that fit into the page, those with pairs first.
fn fitting(forest: &Forest, pairs: &BTreeMap<usize, Vec<usize>>, nodes: usize) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..forest.trees.len()).collect();
    order.sort_by_key(|tree| !pairs.contains_key(tree));
    let mut left = nodes;
    order.retain(|tree| {
        let size = forest.trees.get(*tree).map_or(0, |tree| tree.nodes.len());
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    });
    order.into_iter().collect()
}

/// What is drawn, and how much room is left.
struct Page<'a> {
    forest: &'a Forest,
    named: BTreeMap<(&'a str, &'a str), &'a Trajectory>,
    /// Indexes of the trees that are drawn.
    drawn: BTreeSet<usize>,
    /// Indexes of pairs by tree.
    pairs: BTreeMap<usize, Vec<usize>>,
    options: ViewerOptions,
    bytes_left: Cell<usize>,
    cut: Cell<u64>,
    left_out: Cell<u64>,
}

impl<'a> Page<'a> {
    fn new(forest: &'a Forest, trajectories: &'a [Trajectory], options: ViewerOptions) -> Self {
        let named = trajectories
            .iter()
            .map(|trajectory| ((trajectory.source.as_str(), trajectory.id.as_str()), trajectory));
        let mut pairs: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, pair) in forest.pairs.iter().enumerate() {
            pairs.entry(pair.tree).or_default().push(index);
        }
        Self {
            forest,
            named: named.collect(),
            drawn: fitting(forest, &pairs, options.nodes),
            pairs,
            options,
            bytes_left: Cell::new(options.total_bytes),
            cut: Cell::new(0),
            left_out: Cell::new(0),
        }
    }

    fn drawn_trees(&self) -> impl Iterator<Item = (usize, &'a Tree)> {
        self.drawn.iter().filter_map(|index| Some((*index, self.forest.trees.get(*index)?)))
    }

    /// The pairs of a tree with their indexes in the forest.
    fn pairs_of(&self, tree: usize) -> Vec<(usize, &'a Pair)> {
        let indexes = self.pairs.get(&tree).into_iter().flatten();
        indexes.filter_map(|index| Some((*index, self.forest.pairs.get(*index)?))).collect()
    }

    fn trajectory(&self, tree: &Tree, rollout: RolloutIndex) -> Option<&'a Trajectory> {
        let rollout = tree.rollouts.get(rollout)?;
        self.named.get(&(rollout.source.as_str(), rollout.id.as_str())).copied()
    }

    /// The rollout that stands for a node, and the index of the node's turn in it.
    fn stands_for(&self, tree: &Tree, node: &Node) -> Option<(&'a Trajectory, usize)> {
        let trajectory = self.trajectory(tree, node.success.or(node.failure)?)?;
        Some((trajectory, usize::try_from(node.depth).ok()?.checked_sub(1)?))
    }

    /// A text as it is shown: cleaned, cut, and charged against the page's room.
    fn text(&self, text: &str) -> Markup {
        let total = text.chars().count();
        let shown: String = clean(text).chars().take(self.options.text_chars).collect();
        let room = self.bytes_left.get();
        if shown.len() > room {
            self.left_out.set(self.left_out.get() + 1);
            return html! { p.cut { "text of " (total) " characters left out: the page is full" } };
        }
        self.bytes_left.set(room - shown.len());
        let is_cut = total > self.options.text_chars;
        self.cut.set(self.cut.get() + u64::from(is_cut));
        html! {
            pre { (shown) }
            @if is_cut { p.cut { "cut here: " (self.options.text_chars) " of " (total) " characters shown" } }
        }
    }

    fn main(&self) -> Markup {
        html! {
            (self.numbers())
            @if self.forest.trees.is_empty() {
                section.tree { h2 { "No trees" } p { "No rollout was kept. The reasons are listed under “Dropped” above." } }
            }
            @for (index, tree) in self.drawn_trees() { (self.tree_section(index, tree)) }
        }
    }

    fn tree_section(&self, index: usize, tree: &Tree) -> Markup {
        let pairs = self.pairs_of(index);
        let score = tree.nodes.first().map(|root| root.score).unwrap_or_default();
        html! {
            section.tree id=(format!("tree-{index}")) aria-labelledby=(format!("tree-{index}-name")) {
                h2 id=(format!("tree-{index}-name")) tabindex="-1" { (clean(&tree.task)) }
                p.facts {
                    (score_mark(score)) " "
                    (tree.rollouts.len()) " rollouts, " (tree.nodes.len().saturating_sub(1)) " action nodes, "
                    (pairs.len()) @if pairs.len() == 1 { " pair" } @else { " pairs" } ", prompt " code { (clean(tree.prompt.get(..12).unwrap_or_default())) }
                }
                (self.prompt(tree))
                @if !pairs.is_empty() {
                    h3 { "Pairs" }
                    @for (number, pair) in pairs.iter().take(self.options.pairs_per_tree) { (self.pair(*number, pair, tree)) }
                    @if pairs.len() > self.options.pairs_per_tree {
                        p.cut { (self.options.pairs_per_tree) " of " (pairs.len()) " pairs shown" }
                    }
                }
                h3 { "Tree" }
                (self.outline(index, tree))
            }
        }
    }

    fn prompt(&self, tree: &Tree) -> Markup {
        let trajectory = (0..tree.rollouts.len()).find_map(|rollout| self.trajectory(tree, rollout));
        html! {
            @if let Some(trajectory) = trajectory {
                details.prompt {
                    summary { "Prompt" }
                    @for message in &trajectory.prompt { (self.text(&message.content)) }
                }
            }
        }
    }

    fn footer(&self) -> Markup {
        html! {
            @let hidden = self.forest.trees.len() - self.drawn.len();
            footer {
                p {
                    @if hidden > 0 { (hidden) " trees were left out because the page was full; trees with pairs come first. " }
                    (self.cut.get()) " texts were cut to " (self.options.text_chars) " characters, "
                    (self.left_out.get()) " were left out because the page was full. The stored forest has everything."
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_as_it_must() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn characters_that_hide_text_become_visible() {
        assert_eq!(clean("a\u{202e}b\u{0}\r\nc\td"), "a\u{fffd}b\u{fffd}\nc\td");
    }
}
