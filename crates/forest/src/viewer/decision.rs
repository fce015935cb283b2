//! A pair side by side: what the model had just seen, what was chosen, what was rejected.

use maud::{Markup, html};
use sealign_trajectory::Trajectory;
use sealign_trajectory::chat::{ChatOptions, decision};

use super::numbers::score_mark;
use super::{Page, clean};
use crate::options::PairMode;
use crate::pairs::{LeftOut, Pair};
use crate::tree::{NodeIndex, RolloutIndex, Tree};

impl Page<'_> {
    pub(super) fn pair(&self, number: usize, pair: &Pair, tree: &Tree) -> Markup {
        let whole = self.forest.options.pairs.mode == PairMode::WholeTrajectory;
        html! {
            article.pair id=(format!("pair-{number}")) tabindex="-1" {
                h4 {
                    @if whole { "Whole rollouts" }
                    @else if pair.depth == 0 { "First action" }
                    @else { "After " (pair.depth) @if pair.depth == 1 { " action" } @else { " actions" } }
                    @if pair.prefix_divergent { span.chip title="the two rollouts saw different observations before" { "prefix differs" } }
                    @if let Some(reason) = pair.left_out { span.chip { "not trained on: " (left_out(reason)) } }
                    @if !whole { a.jump href=(format!("#node-{}-{}", pair.tree, pair.node)) { "in the tree" } }
                }
                @if !whole { (self.just_seen(pair, tree)) }
                div.sides {
                    (self.side("chosen", "Chosen", pair, tree, pair.chosen, pair.chosen_rollout))
                    (self.side("rejected", "Rejected", pair, tree, pair.rejected, pair.rejected_rollout))
                }
            }
        }
    }

    fn just_seen(&self, pair: &Pair, tree: &Tree) -> Markup {
        let turn = usize::try_from(pair.depth)
            .ok()
            .and_then(|depth| self.trajectory(tree, pair.chosen_rollout)?.turns.get(depth.checked_sub(1)?));
        let parts = turn.and_then(|turn| turn.observation.as_deref()).unwrap_or_default();
        html! {
            @if !parts.is_empty() {
                details.seen {
                    summary { "What the model had just seen" }
                    @for part in parts { (self.text(&part.text)) }
                }
            }
        }
    }

    fn side(
        &self,
        class: &str,
        name: &str,
        pair: &Pair,
        tree: &Tree,
        node: NodeIndex,
        rollout: RolloutIndex,
    ) -> Markup {
        let trajectory = self.trajectory(tree, rollout);
        let id = tree.rollouts.get(rollout).map_or("", |rollout| rollout.id.as_str());
        let found = tree.nodes.get(node);
        html! {
            div class=(class) {
                p.head {
                    b { (name) } " "
                    @if let Some(node) = found { (score_mark(node.score)) }
                    span.rollout { (clean(id)) }
                }
                @match (trajectory, self.forest.options.pairs.mode) {
                    (Some(trajectory), PairMode::Critical) => (self.continuation(trajectory, pair.depth)),
                    (Some(trajectory), PairMode::WholeTrajectory) => p { (trajectory.turns.len()) " actions" },
                    (None, _) => { @if let Some(node) = found { (self.text(&node.key)) } }
                }
            }
        }
    }

    fn continuation(&self, trajectory: &Trajectory, depth: u64) -> Markup {
        let messages =
            usize::try_from(depth).map(|depth| decision(trajectory, depth, &ChatOptions::default()));
        html! { @for message in messages.unwrap_or_default() { (self.text(&message.content)) } }
    }
}

fn left_out(reason: LeftOut) -> &'static str {
    match reason {
        LeftOut::Condensed => "its prefix was condensed",
        LeftOut::Divergent => "its prefix differs",
        LeftOut::DataRatio => "outside the share of the data",
    }
}
