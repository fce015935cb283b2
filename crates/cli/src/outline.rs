//! A tree of a forest as text: actions with their scores, decisions and the sides of their pairs.
//!
//! Actions that follow each other without a branch stand below each other; only branches are indented, so that a hundred
//! turns do not become a hundred levels. Keys come from models: they are shown without control characters, and cut.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sealign_forest::{Forest, Node, NodeIndex, Pair, Tree};

/// Characters of an action.
const ACTION_CHARS: usize = 100;
/// Lines of a tree; the page shows all of it.
const LINES_MAX: usize = 400;
/// Branches within branches.
const NESTING_MAX: usize = 40;

/// The tree that shows most: the one of `task`, else the first with a pair, else the first.
pub fn choose<'a>(forest: &'a Forest, task: Option<&str>) -> Option<(usize, &'a Tree)> {
    let mut trees = forest.trees.iter().enumerate();
    if let Some(task) = task {
        return trees.find(|(_, tree)| tree.task == task);
    }
    trees.nth(forest.pairs.first().map_or(0, |pair| pair.tree))
}

/// The tree with this index, as lines.
pub fn outline(forest: &Forest, index: usize, tree: &Tree) -> String {
    let mut marks: BTreeMap<NodeIndex, Vec<String>> = BTreeMap::new();
    let pairs: Vec<&Pair> = forest.pairs.iter().filter(|pair| pair.tree == index).collect();
    for (number, pair) in (1..).zip(&pairs) {
        let left_out = if pair.left_out.is_some() { ", left out" } else { "" };
        marks.entry(pair.chosen).or_default().push(format!("chosen of pair {number}{left_out}"));
        marks.entry(pair.rejected).or_default().push(format!("rejected of pair {number}{left_out}"));
    }
    let mut outline = Outline { tree, marks, lines: Vec::new() };
    let succeeded = tree.rollouts.iter().filter(|rollout| rollout.success).count();
    outline.lines.push(format!(
        "task {}: {succeeded} of {} rollouts succeed, {} pairs",
        clean(&tree.task),
        tree.rollouts.len(),
        pairs.len()
    ));
    outline.chain(0, "", 0);
    if outline.lines.len() >= LINES_MAX {
        outline.lines.push(format!("... cut after {LINES_MAX} lines; the page has all of it"));
    }
    outline.lines.join("\n")
}

struct Outline<'a> {
    tree: &'a Tree,
    marks: BTreeMap<NodeIndex, Vec<String>>,
    lines: Vec<String>,
}

impl Outline<'_> {
    /// The nodes from `start` to the next branch, and the branches there. `lead` stands before every line.
    fn chain(&mut self, start: NodeIndex, lead: &str, nesting: usize) {
        let mut place = start;
        loop {
            if self.lines.len() >= LINES_MAX {
                return;
            }
            let Some(node) = self.tree.nodes.get(place) else { return };
            if place != start || place == 0 {
                self.lines.push(format!("{lead}{}", self.line(place, node)));
            }
            match node.children.as_slice() {
                [] => return,
                [only] => place = *only,
                children => return self.branches(children, lead, nesting + 1),
            }
        }
    }

    fn branches(&mut self, children: &[NodeIndex], lead: &str, nesting: usize) {
        if nesting > NESTING_MAX {
            self.lines.push(format!("{lead}... deeper branches are left out"));
            return;
        }
        for (ordinal, child) in children.iter().enumerate() {
            if self.lines.len() >= LINES_MAX {
                return;
            }
            let Some(node) = self.tree.nodes.get(*child) else { continue };
            let is_last = ordinal + 1 == children.len();
            let (corner, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.lines.push(format!("{lead}{corner}{}", self.line(*child, node)));
            self.chain(*child, &format!("{lead}{below}"), nesting);
        }
    }

    fn line(&self, index: NodeIndex, node: &Node) -> String {
        let action = if node.parent.is_none() {
            "prompt".to_owned()
        } else {
            clean(node.key.strip_prefix("call:").unwrap_or(&node.key))
        };
        let mut line = format!("{} {action}", node.score);
        let ends = |success: bool| {
            let is_such =
                |leaf: &&usize| self.tree.rollouts.get(**leaf).is_some_and(|one| one.success == success);
            node.leaves.iter().filter(is_such).count()
        };
        for (count, word) in [(ends(true), "succeed"), (ends(false), "fail")] {
            if count > 0 {
                let _ = write!(line, "  ({count} end here and {word})");
            }
        }
        for mark in self.marks.get(&index).into_iter().flatten() {
            let _ = write!(line, "  <= {mark}");
        }
        line
    }
}

/// One line of a text, cut, without control characters.
fn clean(text: &str) -> String {
    let is_cut = text.chars().nth(ACTION_CHARS).is_some();
    let mut line: String = text
        .chars()
        .take(ACTION_CHARS)
        .map(|c| {
            if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                ' '
            } else {
                c
            }
        })
        .collect();
    if is_cut {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_models_say_cannot_move_the_cursor_or_turn_the_line() {
        assert_eq!(clean("a\u{1b}[2Jb\n\u{202e}c"), "a [2Jb  c");
        assert_eq!(clean(&"x".repeat(200)).len(), ACTION_CHARS + 3);
    }
}
