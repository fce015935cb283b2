//! A tree as an outline. Actions that follow each other without a branch stand in one list; only branches are nested, so
//! that a hundred turns do not become a hundred levels.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::numbers::score_mark;
use super::{Page, clean, headline};
use crate::tree::{Node, NodeIndex, Tree};

/// Characters of a node's heading.
const HEADLINE_CHARS: usize = 150;

/// A node's key without the word that says that it is a call.
fn heading(node: &Node) -> String {
    headline(node.key.strip_prefix("call:").unwrap_or(&node.key), HEADLINE_CHARS)
}

impl Page<'_> {
    pub(super) fn outline(&self, index: usize, tree: &Tree) -> Markup {
        let mut decisions: BTreeMap<NodeIndex, Vec<usize>> = BTreeMap::new();
        for (number, pair) in self.pairs_of(index) {
            decisions.entry(pair.node).or_default().push(number);
        }
        Outline { page: self, index, tree, decisions }.chain(0, 0)
    }
}

struct Outline<'a, 'b> {
    page: &'a Page<'b>,
    index: usize,
    tree: &'a Tree,
    /// Pairs by decision point.
    decisions: BTreeMap<NodeIndex, Vec<usize>>,
}

impl Outline<'_, '_> {
    /// The nodes from `start` to the next branch, and the branches there.
    fn chain(&self, start: NodeIndex, nesting: usize) -> Markup {
        let mut chain = vec![start];
        let mut last = start;
        while let Some([only]) = self.node(last).map(|node| node.children.as_slice()) {
            if !self.node(last).is_some_and(|node| node.leaves.is_empty()) {
                break;
            }
            last = *only;
            chain.push(last);
        }
        let children = self.node(last).map_or(&[][..], |node| node.children.as_slice());
        html! {
            ol.chain { @for node in &chain { li { (self.row(*node)) } } }
            @if nesting >= self.page.options.nesting && !children.is_empty() {
                p.cut { "deeper branches are left out" }
            } @else if !children.is_empty() {
                ul.branches { @for child in children { li { (self.branch(*child, nesting + 1)) } } }
            }
        }
    }

    fn branch(&self, child: NodeIndex, nesting: usize) -> Markup {
        let is_open = self.is_on_way_to_decision(child) || nesting < 2;
        html! {
            details.branch open[is_open] {
                summary {
                    @if let Some(node) = self.node(child) {
                        (score_mark(node.score)) " " span.headline { (heading(node)) }
                    }
                }
                (self.chain(child, nesting))
            }
        }
    }

    fn row(&self, index: NodeIndex) -> Markup {
        let Some(node) = self.node(index) else { return html! {} };
        let is_root = node.parent.is_none();
        let is_decision = self.decisions.contains_key(&index);
        html! {
            div.row.decision[is_decision] id=(format!("node-{}-{index}", self.index)) tabindex="-1" {
                @if is_root {
                    p.root { "Prompt " (score_mark(node.score)) (self.marks(index, node)) }
                } @else {
                    details.node {
                        summary {
                            span.depth { (node.depth) } (score_mark(node.score)) " "
                            span.headline { (heading(node)) }
                            (self.marks(index, node))
                        }
                        (self.body(node))
                    }
                }
            }
        }
    }

    /// What happens at a node: decisions, and rollouts that end.
    fn marks(&self, index: NodeIndex, node: &Node) -> Markup {
        html! {
            @for number in self.decisions.get(&index).into_iter().flatten() { " " a.chip.decision href=(format!("#pair-{number}")) { "critical decision" } }
            @for leaf in &node.leaves {
                @if let Some(rollout) = self.tree.rollouts.get(*leaf) {
                    " " span.chip.outcome data-success=(rollout.success) title=(clean(&rollout.id)) {
                        @if rollout.success { "✓ success" } @else { "✗ failure" }
                    }
                }
            }
        }
    }

    fn body(&self, node: &Node) -> Markup {
        let found = self.page.stands_for(self.tree, node);
        let turn = found.and_then(|(trajectory, turn)| trajectory.turns.get(turn));
        html! {
            div.body {
                @if let Some(turn) = turn {
                    @if !turn.free_text.is_empty() { h5 { "Thought" } (self.page.text(&turn.free_text)) }
                }
                h5 { "Action" }
                (self.page.text(&node.key))
                @if let Some(turn) = turn {
                    @for part in turn.observation.iter().flatten() {
                        h5 { @if let Some(tool) = &part.tool { "Result of " (clean(tool)) } @else { "User message" } }
                        (self.page.text(&part.text))
                    }
                }
            }
        }
    }

    fn is_on_way_to_decision(&self, node: NodeIndex) -> bool {
        // Nodes stand depth first, so a subtree is a range that ends where the depth falls back.
        let depth = self.node(node).map_or(0, |node| node.depth);
        let below =
            self.tree.nodes.iter().enumerate().skip(node + 1).take_while(|(_, node)| node.depth > depth);
        self.decisions.contains_key(&node)
            || below.into_iter().any(|(index, _)| self.decisions.contains_key(&index))
    }

    fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.tree.nodes.get(index)
    }
}
