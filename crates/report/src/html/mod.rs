//! The report as one HTML page: no script, no font, no image from elsewhere; light and dark by the reader's setting.

mod chart;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::markdown::comparison_row;
use crate::paper::table_2;
use crate::report::Report;

const STYLE: &str = include_str!("style.css");

pub(crate) fn render(report: &Report) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { (report.title) }
                        p.lead { "Benchmark: " (report.benchmark) }
                    }
                    (models(report))
                    (comparisons(report))
                    (families(report))
                    (paper(report))
                    (training(report))
                    (notes(report))
                    (provenance(report))
                }
            }
        }
    };
    page.into_string()
}

fn models(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Before and after" }
            (chart::resolved(&report.models))
            p.small { "Percentages with counts; bars and brackets show 95 % Wilson intervals." }
            div.scroll { table {
                thead { tr {
                    th { "model" } th { "resolved" } th { "empty" } th { "stuck" } th { "invalid" }
                    th { "pass@1 %" } th { "turns" } th { "limit" } th { "infra" } th { "counted" }
                } }
                tbody { @for model in &report.models { tr {
                    th scope="row" { (model.name) }
                    @for rate in [&model.resolved, &model.empty, &model.stuck, &model.invalid] {
                        td { b { (format!("{:.1}", rate.percent)) } " "
                             span.small { (rate.count) "/" (rate.of) " [" (format!("{:.1}-{:.1}", rate.low, rate.high)) "]" } }
                    }
                    td { (format!("{:.1}", model.pass_at_1)) }
                    td { (format!("{:.1}", model.mean_turns)) }
                    td { (model.limit.count) }
                    td { (model.infra) }
                    td { (model.counted) " of " (model.attempts) }
                } } }
            } }
        }
    }
}

fn comparisons(report: &Report) -> Markup {
    let heads = ["step", "tasks", "before", "after", "relative gain %", "wins / losses", "p", "reading"];
    html! {
        @if !report.comparisons.is_empty() {
            section {
                h2 { "Paired comparison" }
                p.small { "Same tasks, exact McNemar test, two-sided." }
                (table(&heads, report.comparisons.iter().map(comparison_row)))
            }
        }
    }
}

fn families(report: &Report) -> Markup {
    html! {
        @if !report.families.is_empty() {
            section {
                h2 { "Resolved by family" }
                div.scroll { table {
                    thead { tr { th { "family" } @for model in &report.models { th { (model.name) } } } }
                    tbody { @for row in &report.families { tr {
                        th scope="row" { (row.family) @if row.is_held_out { " " span.tag { "held out" } } }
                        @for rate in &row.resolved { td { (chart::cell(rate)) } }
                    } } }
                } }
            }
        }
    }
}

fn paper(report: &Report) -> Markup {
    html! {
        section {
            h2 { "In the paper's shape" }
            h3 { "Table 2: empty, stuck, resolved (relative gain)" }
            (table(&["model", "empty %", "stuck %", "resolved % (gain)"], table_2(report).iter().map(|row| row.cells().to_vec())))
            @if let Some(data) = &report.data {
                h3 { "Table 1: alignment data" }
                (table(&["statistic", "value"], data.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value])))
            }
        }
    }
}

fn training(report: &Report) -> Markup {
    html! {
        @if !report.training.is_empty() || !report.cost.is_empty() {
            section {
                h2 { "Training and cost" }
                @if !report.training.is_empty() {
                    (table(&["stage", "steps", "figures"], report.training.iter().map(|stage| {
                        let figures: Vec<String> =
                            stage.figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
                        vec![stage.name.clone(), stage.steps.to_string(), figures.join(", ")]
                    })))
                }
                ul { @for cost in &report.cost { li { (cost.what) " (" (cost.attempts) " attempts): " (cost.text()) } } }
            }
        }
    }
}

fn notes(report: &Report) -> Markup {
    html! {
        @if !report.notes.is_empty() {
            section.notes { h2 { "Notes" } ul { @for note in &report.notes { li { (note) } } } }
        }
    }
}

fn provenance(report: &Report) -> Markup {
    html! {
        @if !report.provenance.is_empty() {
            section {
                h2 { "Provenance" }
                div.scroll { table { tbody { @for entry in &report.provenance { tr {
                    th scope="row" { (entry.name) } td { code { (entry.digest) } }
                } } } } }
            }
        }
    }
}

fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { @for head in heads { th { (head) } } } }
            tbody { @for row in rows { tr {
                @for (index, cell) in row.iter().enumerate() {
                    @if index == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                }
            } } }
        } }
    }
}
