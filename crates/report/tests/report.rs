//! A whole report from attempts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use sealign_manifest::record::Outcome;
use sealign_report::{
    Attempt, Cost, DataStatistics, ModelAttempts, Provenance, Report, ReportInput, TrainingStage,
};

fn attempt(task: usize, outcome: Outcome) -> Attempt {
    Attempt {
        task: format!("t{task:03}"),
        family: if task.is_multiple_of(6) { "method".into() } else { "operator".into() },
        outcome,
        is_empty: task % 5 == 4 && outcome != Outcome::Resolved,
        is_stuck: outcome == Outcome::Stuck,
        is_invalid: task == 7,
        invalid_turns: u64::from(task == 7),
        turns: 3,
        tokens: 200,
    }
}

/// A model that resolves the first `resolved` of 120 tasks, is stuck on the next `stuck` and loses the last to
/// infrastructure.
fn model(name: &str, resolved: usize, stuck: usize) -> ModelAttempts {
    let outcome = |task: usize| match task {
        119 => Outcome::Infra,
        _ if task < resolved => Outcome::Resolved,
        _ if task < resolved + stuck => Outcome::Stuck,
        _ => Outcome::Unresolved,
    };
    ModelAttempts { name: name.into(), attempts: (0..120).map(|task| attempt(task, outcome(task))).collect() }
}

fn report() -> Report {
    Report::new(ReportInput {
        title: "Quickstart <b>".into(),
        benchmark: "mini | evaluation split".into(),
        models: vec![model("base", 9, 3), model("SFT", 18, 6), model("SFT + DPO", 102, 4)],
        held_out_families: ["method".to_owned()].into(),
        data: Some(
            serde_json::from_str::<DataStatistics>(r#"{"instances": 10, "criticalPairs": 42, "pairs": []}"#)
                .unwrap(),
        ),
        training: vec![TrainingStage {
            name: "sft".into(),
            steps: 84,
            figures: vec![("loss".into(), "0.41".into())],
        }],
        cost: vec![Cost {
            what: "scripted rollouts".into(),
            attempts: 1000,
            cpu_seconds: 110.0,
            wall_seconds: 62.0,
        }],
        provenance: vec![Provenance { name: "tasks".into(), digest: "ab".repeat(32) }],
        notes: vec!["The base's pretraining holds the held-out families.".into()],
    })
}

#[test]
fn infrastructure_failures_are_in_no_rate_and_are_told() {
    let report = report();
    let base = &report.models[0];
    assert_eq!((base.attempts, base.counted, base.infra), (120, 119, 1));
    assert_eq!((base.resolved.count, base.resolved.of), (9, 119));
    assert!(
        report
            .notes
            .contains(&"base: 1 of 120 attempts are in no rate (1 infrastructure failures).".to_owned())
    );
}

#[test]
fn each_step_and_the_whole_way_are_compared_on_the_same_tasks() {
    let report = report();
    let all: Vec<(&str, &str, u64, u64, u64, u64)> = report
        .comparisons
        .iter()
        .filter(|comparison| comparison.on.is_empty())
        .map(|c| (c.from.as_str(), c.to.as_str(), c.tasks, c.unpaired, c.wins, c.losses))
        .collect();
    assert_eq!(
        all,
        [
            ("base", "SFT", 119, 1, 9, 0),
            ("SFT", "SFT + DPO", 119, 1, 84, 0),
            ("base", "SFT + DPO", 119, 1, 93, 0)
        ]
    );
    let groups: u64 =
        report.comparisons.iter().filter(|c| c.to == "SFT" && !c.on.is_empty()).map(|c| c.tasks).sum();
    assert_eq!(groups, 119);
}

#[test]
fn a_side_effect_that_rises_is_noted() {
    let report = report();
    assert!(
        report.notes.iter().any(|note| note == "Stuck rises from 2.5 % (base) to 5.0 % (SFT)."),
        "{:?}",
        report.notes
    );
}

#[test]
fn json_reads_back_as_the_same_report_and_equal_inputs_give_equal_bytes() {
    let first = report();
    let text = first.json().unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), first);
    assert_eq!(text, report().json().unwrap());
    assert_eq!(first.html(), report().html());
}

#[test]
fn markdown_prints_counts_intervals_and_the_paired_test() {
    let text = report().markdown();
    for expected in [
        "| base | 7.6 % (9/119, 4.0-13.8) |",
        "| SFT + DPO | 85.7 % (102/119, 78.3-90.9) |",
        "| SFT -> SFT + DPO | 119 | 15.1 % | 85.7 % | 467.5 | 84 / 0 | 1e-25 | better |",
        "| method (held out) | 2/20 | 3/20 | 17/20 |",
        "| critical pairs | 42 |",
        "0.110 CPU-s and 0.062 s of wall time an attempt",
        "# Quickstart \\<b>",
        "Benchmark: mini \\| evaluation split",
    ] {
        assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
    }
}

#[test]
fn html_stands_alone_and_escapes_names() {
    let page = report().html();
    assert!(page.contains("Quickstart &lt;b&gt;") && !page.contains("Quickstart <b>"));
    for outside in ["http://", "https://", "<script", "<link", "<img", "url("] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("<svg"));
}

#[test]
fn a_report_without_models_or_attempts_renders() {
    let empty = Report::new(ReportInput::default());
    assert!(empty.markdown().contains("Before and after"));
    assert!(empty.html().contains("Before and after"));
    let none = ModelAttempts { name: "base".into(), attempts: Vec::new() };
    let report = Report::new(ReportInput { models: vec![none], ..ReportInput::default() });
    assert!(report.markdown().contains("none counted"));
}
