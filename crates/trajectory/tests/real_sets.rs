//! Every set of the open real data is read whole; the figures were counted from the files by other means. The largest,
//! mini-swe-agent's, is read by the forest's tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_trajectory::{Action, Outcome, Trajectory};

mod shared_data;

/// What a set holds.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    format: &'static str,
    trajectories: usize,
    turns: usize,
    invalid: usize,
    successes: usize,
    failures: usize,
    unknown: usize,
}

fn check(set: &str, refused: usize, expected: &[Figures]) -> Vec<Trajectory> {
    let Some(folder) = shared_data::folder(set) else { return Vec::new() };
    let imported = shared_data::import(&folder);
    assert_eq!(imported.refused.len(), refused, "{:?}", imported.refused);
    for expected in expected {
        let of_format: Vec<_> =
            imported.trajectories.iter().filter(|t| t.origin.format == expected.format).collect();
        let turns = || of_format.iter().flat_map(|trajectory| &trajectory.turns);
        let with = |outcome: fn(Outcome) -> bool| {
            of_format.iter().filter(|trajectory| outcome(trajectory.outcome)).count()
        };
        let found = Figures {
            format: expected.format,
            trajectories: of_format.len(),
            turns: turns().count(),
            invalid: turns().filter(|turn| matches!(turn.action, Action::Invalid { .. })).count(),
            successes: with(|outcome| outcome == Outcome::Success),
            failures: with(|outcome| outcome == Outcome::Failure),
            unknown: with(|outcome| matches!(outcome, Outcome::Unknown(_))),
        };
        assert_eq!(&found, expected, "{set}");
    }
    let known: usize = expected.iter().map(|figures| figures.trajectories).sum();
    assert_eq!(imported.trajectories.len(), known, "{set} holds nothing else");
    imported.trajectories
}

fn figures(
    format: &'static str,
    trajectories: usize,
    turns: usize,
    invalid: usize,
    outcomes: [usize; 3],
) -> Figures {
    let [successes, failures, unknown] = outcomes;
    Figures { format, trajectories, turns, invalid, successes, failures, unknown }
}

#[test]
fn openhands_swegym() {
    check("openhands-swegym-samples", 0, &[figures("swegym", 29, 570, 0, [20, 9, 0])]);
}

#[test]
fn openhands_sdk_streams() {
    let read = check("openhands-v1-events", 0, &[figures("openhands-sdk", 24, 1541, 0, [0, 0, 24])]);
    let turns = read.iter().flat_map(|trajectory| &trajectory.turns);
    let condensed = turns.filter(|turn| turn.condensed_before).count();
    // Of 41 condensations the last has no turn after it.
    assert_eq!(condensed, if read.is_empty() { 0 } else { 40 });
}

#[test]
fn openhands_event_rows() {
    check("openhands-v0-history", 0, &[figures("openhands-events", 13, 258, 1, [0, 4, 9])]);
}

#[test]
fn openhands_completion_logs() {
    check("openhands-verified-claude35", 0, &[figures("openhands-completion", 33, 749, 0, [18, 14, 1])]);
}

#[test]
fn swe_agent_files() {
    check("swe-agent-verified-claude35", 0, &[figures("swe-agent", 47, 1393, 0, [22, 25, 0])]);
}

#[test]
fn swe_smith_rows_and_files() {
    check(
        "swe-smith-samples",
        0,
        &[figures("openai-chat", 10, 301, 0, [5, 0, 5]), figures("swe-agent", 2, 59, 0, [2, 0, 0])],
    );
}

#[test]
fn nebius_rows() {
    check("nebius-swe-agent-samples", 0, &[figures("swe-agent", 3, 100, 0, [0, 3, 0])]);
}

#[test]
fn tau_bench_conversations() {
    let read = check("tau-bench-airline", 0, &[figures("tau-bench", 152, 1880, 0, [66, 86, 0])]);
    let opened =
        |trajectory: &Trajectory| trajectory.first_observation.as_ref().is_some_and(|parts| parts.len() == 1);
    assert!(read.iter().all(|trajectory| trajectory.prompt.len() == 1 && opened(trajectory)));
}

#[test]
fn intercode_results() {
    check("intercode-bash", 0, &[figures("intercode", 339, 2306, 0, [97, 242, 0])]);
}
