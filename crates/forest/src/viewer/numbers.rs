//! The statistics and the list of tasks.

use maud::{Markup, html};

use super::{Page, clean};
use crate::score::Score;

/// A score as a bar and as `s/n`.
pub(super) fn score_mark(score: Score) -> Markup {
    let share = match (score.successes, score.paths) {
        (0, _) => "none",
        (successes, paths) if successes == paths => "all",
        _ => "some",
    };
    html! {
        span.score data-share=(share) {
            meter min="0" max=(score.paths.max(1)) value=(score.successes) aria-hidden="true" {}
            span title=(format!("{} of {} rollouts through here succeeded", score.successes, score.paths)) { (score) }
        }
    }
}

impl Page<'_> {
    pub(super) fn numbers(&self) -> Markup {
        let numbers = &self.forest.statistics;
        let single = numbers.single_path_pairs;
        let cards = [
            (
                "Instances",
                format!("{} of {}", numbers.instances, numbers.instances_collected),
                "tasks with a kept rollout, of those collected",
            ),
            (
                "Rollouts",
                format!("{} of {}", numbers.after_filtering, numbers.collected),
                "kept, of those collected",
            ),
            ("Successful", numbers.successful.to_string(), "kept rollouts that passed all tests"),
            ("Wrong", numbers.wrong.to_string(), "kept rollouts that did not"),
            (
                "Messages per path",
                format!("{:.1}", numbers.average_path_messages),
                "recorded messages, prompt included",
            ),
            ("Actions per path", format!("{:.1}", numbers.average_path_actions), "model turns"),
            ("Action nodes", numbers.nodes.to_string(), "distinct actions after distinct beginnings"),
            ("Branch points", numbers.branch_points.to_string(), "nodes with two or more next actions"),
            (
                "Critical decisions",
                numbers.critical_decision_points.to_string(),
                "best and worst next action differ enough",
            ),
            ("Critical pairs", numbers.critical_pairs.to_string(), "chosen over rejected"),
            (
                "On a single path",
                single.either.to_string(),
                "pairs with a side that one rollout alone supports",
            ),
            (
                "Trained on",
                format!("{} + {}", numbers.sft_rollouts, numbers.training_pairs),
                "successes, and pairs",
            ),
        ];
        html! {
            section.numbers aria-labelledby="numbers" {
                h2 #numbers { "Statistics" }
                dl.cards { @for (name, value, meaning) in &cards { div title=(meaning) { dt { (name) } dd { (value) } } } }
                p.facts {
                    "Dropped: "
                    @for (index, (reason, count)) in numbers.dropped.iter().enumerate() {
                        @if index > 0 { ", " }
                        (name_of(reason)) " " b { (count) }
                    }
                    @for (reason, count) in &numbers.pairs_left_out { ", pairs left out as " (name_of(reason)) " " b { (count) } }
                    ". Stuck in a loop: " b { (numbers.stuck_in_loop) } " of those collected, " b { (numbers.stuck_at_end) } " at the end."
                }
                p.facts {
                    "Threshold: more than " b { (self.forest.options.pairs.threshold) } ", node key "
                    b { (name_of(&self.forest.options.node_key)) } ", estimator " b { (name_of(&self.forest.options.pairs.score_estimator)) } "."
                }
            }
        }
    }

    pub(super) fn sidebar(&self) -> Markup {
        html! {
            nav.tasks aria-label="Tasks" {
                label for="filter" { "Tasks" }
                input #filter type="search" placeholder="Filter by name" autocomplete="off" spellcheck="false";
                label.check { input #with-pairs type="checkbox"; " with pairs only" }
                ol {
                    @for (index, tree) in self.drawn_trees() {
                        @let pairs = self.pairs_of(index).len();
                        li data-name=(clean(&tree.task).to_lowercase()) data-pairs=(pairs) {
                            a href=(format!("#tree-{index}")) {
                                span.name { (clean(&tree.task)) }
                                (score_mark(tree.nodes.first().map(|root| root.score).unwrap_or_default()))
                                @if pairs > 0 { span.chip.decision { (pairs) @if pairs == 1 { " pair" } @else { " pairs" } } }
                            }
                        }
                    }
                }
                p.none hidden { "No task matches." }
            }
        }
    }
}

/// An option's or reason's own word.
fn name_of<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name.replace('_', " "),
        _ => String::new(),
    }
}
