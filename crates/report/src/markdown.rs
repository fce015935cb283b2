//! The report as Markdown.

use std::fmt::Write as _;

use crate::comparison::{Comparison, p_text};
use crate::report::Report;
use crate::statistics::tenths_text;

pub(crate) fn render(report: &Report) -> String {
    let mut text = format!("# {}\n\nBenchmark: {}\n", line(&report.title), line(&report.benchmark));
    models(&mut text, report);
    comparisons(&mut text, report);
    families(&mut text, report);
    data(&mut text, report);
    training(&mut text, report);
    if !report.notes.is_empty() {
        text.push_str("\n## Notes\n\n");
        for note in &report.notes {
            let _ = writeln!(text, "- {}", line(note));
        }
    }
    if !report.provenance.is_empty() {
        text.push_str("\n## Provenance\n\n");
        let rows =
            report.provenance.iter().map(|entry| vec![entry.name.clone(), format!("`{}`", entry.digest)]);
        table(&mut text, &["what", "digest"], rows);
    }
    text
}

fn models(text: &mut String, report: &Report) {
    text.push_str("\n## Before and after\n\nPercentages with counts and 95 % Wilson intervals.\n\n");
    let rows = report.models.iter().map(|model| {
        vec![
            model.name.clone(),
            model.resolved.text(),
            model.empty.text(),
            model.stuck.text(),
            model.invalid.text(),
            format!("{:.1}", model.pass_at_1),
            format!("{:.1}", model.mean_turns),
            format!("{} / {}", model.limit.count, model.infra),
            format!("{} of {}", model.counted, model.attempts),
        ]
    });
    let heads =
        ["model", "resolved", "empty", "stuck", "invalid", "pass@1 %", "turns", "limit / infra", "counted"];
    table(text, &heads, rows);
    for model in report.models.iter().filter(|model| model.invalid_turns > 0) {
        let _ = writeln!(
            text,
            "\n{}: {} of {} turns were refused.",
            line(&model.name),
            model.invalid_turns,
            model.turns
        );
    }
}

fn comparisons(text: &mut String, report: &Report) {
    if report.comparisons.is_empty() {
        return;
    }
    text.push_str("\n## Paired comparison\n\nSame tasks, exact McNemar test, two-sided.\n\n");
    let heads =
        ["step", "tasks", "resolved before", "after", "relative gain %", "wins / losses", "p", "reading"];
    table(text, &heads, report.comparisons.iter().map(comparison_row));
}

pub(crate) fn comparison_row(comparison: &Comparison) -> Vec<String> {
    let on = if comparison.on.is_empty() { String::new() } else { format!(" ({})", comparison.on) };
    vec![
        format!("{} -> {}{on}", comparison.from, comparison.to),
        comparison.tasks.to_string(),
        format!("{:.1} %", comparison.before.percent),
        format!("{:.1} %", comparison.after.percent),
        comparison.relative_gain_tenths.map_or_else(|| "-".to_owned(), tenths_text),
        format!("{} / {}", comparison.wins, comparison.losses),
        p_text(comparison.p_value),
        comparison.reading().to_owned(),
    ]
}

fn families(text: &mut String, report: &Report) {
    if report.families.is_empty() {
        return;
    }
    text.push_str("\n## Resolved by family\n\n");
    let names: Vec<&str> =
        std::iter::once("family").chain(report.models.iter().map(|model| model.name.as_str())).collect();
    let rows = report.families.iter().map(|row| {
        let mark = if row.is_held_out { " (held out)" } else { "" };
        let rates = row.resolved.iter().map(|rate| format!("{}/{}", rate.count, rate.of));
        std::iter::once(format!("{}{mark}", row.family)).chain(rates).collect()
    });
    table(text, &names, rows);
}

fn data(text: &mut String, report: &Report) {
    let Some(data) = &report.data else { return };
    text.push_str("\n## Alignment data (the paper's Table 1)\n\n");
    table(
        text,
        &["statistic", "value"],
        data.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value]),
    );
}

fn training(text: &mut String, report: &Report) {
    if !report.training.is_empty() {
        text.push_str("\n## Training\n\n");
        let rows = report.training.iter().map(|stage| {
            let figures: Vec<String> =
                stage.figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
            vec![stage.name.clone(), stage.steps.to_string(), figures.join(", ")]
        });
        table(text, &["stage", "steps", "figures"], rows);
    }
    if !report.cost.is_empty() {
        text.push_str("\n## Cost\n\n");
        for cost in &report.cost {
            let _ = writeln!(text, "- {} ({} attempts): {}", line(&cost.what), cost.attempts, cost.text());
        }
    }
}

pub(crate) fn table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let write = |text: &mut String, cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| line(cell)).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    write(text, heads.iter().map(|head| (*head).to_owned()).collect());
    let _ = writeln!(text, "|{}", "---|".repeat(heads.len()));
    for row in rows {
        write(text, row);
    }
}

/// Names come from manifests and rows: no cell or line may end early, and nothing in them may act as markup.
fn line(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\n' | '\r' | '\t' => " ".to_owned(),
            '|' | '<' | '[' => format!("\\{letter}"),
            _ => letter.to_string(),
        })
        .collect()
}
