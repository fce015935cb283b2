//! The shapes of the paper's tables (arXiv 2503.18455), filled with our rows beside the published ones.

use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::statistics::{relative_gain_tenths, tenths_text};
use crate::summary::ModelSummary;

/// One row of the paper's Table 2 on one benchmark. Rates in tenths of a percent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table2Row {
    /// The model.
    pub model: String,
    /// Empty patches.
    pub empty_tenths: u64,
    /// Stuck in a loop.
    pub stuck_tenths: u64,
    /// Resolved.
    pub resolved_tenths: u64,
    /// Relative gain in resolved over the base row; none in the base row.
    pub gain_tenths: Option<i64>,
}

impl Table2Row {
    /// Text cells: model, empty, stuck, resolved with the gain in brackets.
    pub fn cells(&self) -> [String; 4] {
        let text = |tenths: u64| tenths_text(i64::try_from(tenths).unwrap_or(i64::MAX));
        let gain = self.gain_tenths.map_or_else(String::new, |gain| {
            let sign = if gain < 0 { "" } else { "+" };
            format!(" ({sign}{})", tenths_text(gain))
        });
        let resolved = format!("{}{gain}", text(self.resolved_tenths));
        [self.model.clone(), text(self.empty_tenths), text(self.stuck_tenths), resolved]
    }
}

/// Table 2 from a report: its first model is the base.
pub fn table_2(report: &Report) -> Vec<Table2Row> {
    let base = report.models.first();
    report
        .models
        .iter()
        .enumerate()
        .map(|(index, model)| {
            let gain = base.filter(|_| index > 0);
            row(model, gain)
        })
        .collect()
}

fn row(model: &ModelSummary, base: Option<&ModelSummary>) -> Table2Row {
    Table2Row {
        model: model.name.clone(),
        empty_tenths: model.empty.tenths(),
        stuck_tenths: model.stuck.tenths(),
        resolved_tenths: model.resolved.tenths(),
        gain_tenths: base
            .and_then(|base| relative_gain_tenths(base.resolved.tenths(), model.resolved.tenths())),
    }
}

/// Table 5 (ablations) from a report: model, empty and resolved in percent.
pub fn table_5(report: &Report) -> Vec<[String; 3]> {
    table_2(report)
        .iter()
        .map(|row| {
            let [model, empty, ..] = row.cells();
            let resolved = tenths_text(i64::try_from(row.resolved_tenths).unwrap_or(i64::MAX));
            [model, empty, resolved]
        })
        .collect()
}

/// The published rows of Table 2 on SWE-bench Lite (300 tasks): model, empty, stuck and resolved counts (specs 5.10).
pub const PUBLISHED_LITE: [(&str, u64, u64, u64); 4] = [
    ("Qwen-7B", 159, 136, 3),
    ("SEAlign-7B", 66, 72, 45),
    ("Qwen-14B", 151, 105, 11),
    ("SEAlign-14B", 51, 66, 53),
];

/// The published rows of Table 2 on SWE-bench Verified (500 tasks).
pub const PUBLISHED_VERIFIED: [(&str, u64, u64, u64); 4] = [
    ("Qwen-7B", 247, 195, 4),
    ("SEAlign-7B", 126, 96, 93),
    ("Qwen-14B", 260, 139, 14),
    ("SEAlign-14B", 114, 78, 109),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::percent_tenths;

    #[test]
    fn published_counts_give_the_published_percentages_and_gains() {
        let rows = |published: [(&str, u64, u64, u64); 4], of: u64| -> Vec<[String; 4]> {
            let mut base = 0;
            published
                .into_iter()
                .enumerate()
                .map(|(index, (model, empty, stuck, resolved))| {
                    let tenths = |count| percent_tenths(count, of);
                    let gain_tenths =
                        (index % 2 == 1).then(|| relative_gain_tenths(base, tenths(resolved))).flatten();
                    base = tenths(resolved);
                    let (empty_tenths, stuck_tenths, resolved_tenths) =
                        (tenths(empty), tenths(stuck), tenths(resolved));
                    Table2Row {
                        model: model.into(),
                        empty_tenths,
                        stuck_tenths,
                        resolved_tenths,
                        gain_tenths,
                    }
                    .cells()
                })
                .collect()
        };
        let lite = rows(PUBLISHED_LITE, 300);
        assert_eq!(lite[0], ["Qwen-7B", "53.0", "45.3", "1.0"]);
        assert_eq!(lite[1], ["SEAlign-7B", "22.0", "24.0", "15.0 (+1400.0)"]);
        assert_eq!(lite[3], ["SEAlign-14B", "17.0", "22.0", "17.7 (+378.3)"]);
        let verified = rows(PUBLISHED_VERIFIED, 500);
        assert_eq!(verified[1], ["SEAlign-7B", "25.2", "19.2", "18.6 (+2225.0)"]);
        assert_eq!(verified[3], ["SEAlign-14B", "22.8", "15.6", "21.8 (+678.5)"]);
    }
}
