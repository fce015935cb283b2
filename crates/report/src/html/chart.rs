//! Bars as inline SVG.

use maud::{Markup, html};

use crate::summary::{ModelSummary, Rate};

/// Pixels of the drawing: labels left, bars right.
const LABEL: f64 = 150.0;
const WIDTH: f64 = 470.0;
const ROW: f64 = 34.0;

/// One bar a model for the resolved rate, with its interval, on a scale from 0 to 100 %.
pub(super) fn resolved(models: &[ModelSummary]) -> Markup {
    let rows: Vec<(f64, &ModelSummary)> =
        (0_u32..).map(|row| f64::from(row) * ROW + 10.0).zip(models).collect();
    let height = rows.last().map_or(0.0, |(top, _)| *top) + ROW + 18.0;
    let view = format!("0 0 {} {height}", LABEL + WIDTH + 70.0);
    let at = |percent: f64| LABEL + WIDTH * percent / 100.0;
    html! {
        svg.chart viewBox=(view) role="img" aria-label="Resolved, in percent, by model" {
            @for tick in [0.0, 25.0, 50.0, 75.0, 100.0] {
                line.grid x1=(at(tick)) x2=(at(tick)) y1="4" y2=(height - 18.0) {}
                text.tick x=(at(tick)) y=(height - 4.0) text-anchor="middle" { (format!("{tick:.0}")) }
            }
            @for (top, model) in rows {
                text.label x=(LABEL - 8.0) y=(top + 16.0) text-anchor="end" { (cut(&model.name)) }
                rect.bar x=(LABEL) y=(top) width=(at(model.resolved.percent) - LABEL) height="22" rx="3" {}
                line.error x1=(at(model.resolved.low)) x2=(at(model.resolved.high)) y1=(top + 11.0) y2=(top + 11.0) {}
                @for end in [model.resolved.low, model.resolved.high] {
                    line.error x1=(at(end)) x2=(at(end)) y1=(top + 6.0) y2=(top + 16.0) {}
                }
                text.value x=(at(model.resolved.high.max(model.resolved.percent)) + 8.0) y=(top + 16.0) {
                    (format!("{:.1} %", model.resolved.percent))
                }
            }
        }
    }
}

/// A small bar with its counts, for a table cell.
pub(super) fn cell(rate: &Rate) -> Markup {
    html! {
        @if rate.of == 0 {
            span.small { "-" }
        } @else {
            svg.mini viewBox="0 0 60 8" aria-hidden="true" {
                rect.track x="0" y="0" width="60" height="8" rx="2" {}
                rect.bar x="0" y="0" width=(format!("{:.1}", 0.6 * rate.percent)) height="8" rx="2" {}
            }
            " " (rate.count) "/" (rate.of)
        }
    }
}

/// Labels have room for about twenty letters.
fn cut(name: &str) -> String {
    const LETTERS_MAX: usize = 20;
    if name.chars().count() <= LETTERS_MAX {
        return name.to_owned();
    }
    let start: String = name.chars().take(LETTERS_MAX - 1).collect();
    format!("{start}…")
}
