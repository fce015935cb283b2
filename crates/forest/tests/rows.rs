//! Training rows of a forest: prefixes, continuations, masks, and what is left out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_forest::{Options, PairMode, PairOptions, RowsError, SftOptions, build};
use sealign_trajectory::Trajectory;
use sealign_trajectory::chat::ChatOptions;
use sealign_trajectory::export::RowMessage;

mod rollouts;
mod shared_data;

use rollouts::rollout;

fn worked() -> Vec<Trajectory> {
    [("a", "A B C", true), ("b", "A B D", false), ("c", "A E F", false), ("d", "A E G", false)]
        .map(|(id, words, success)| rollout("t", id, words, success))
        .into()
}

/// The last line but one of each message: the command, or the result's text.
fn brief(messages: &[RowMessage]) -> Vec<String> {
    let last =
        |text: &str| text.trim_end_matches("\n</function>").lines().last().unwrap_or_default().to_owned();
    messages
        .iter()
        .map(|message| last(&message.content).replace("<parameter=command>", "").replace("</parameter>", ""))
        .collect()
}

#[test]
fn a_pair_has_the_chosen_rollouts_prefix_and_both_continuations() {
    let trajectories = worked();
    let forest = build(&trajectories, &Options::default()).unwrap();
    let rows = forest.preference_rows(&trajectories, &ChatOptions::default()).unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(brief(&row.prompt), ["solve t", "A", "ran A", "B", "ran B"]);
    assert_eq!((brief(&row.chosen), brief(&row.rejected)), (vec!["C".to_owned()], vec!["D".to_owned()]));
    assert_eq!((row.score_chosen.as_str(), row.support_rejected, row.depth), ("1/1", 1, 2));
    assert_eq!((row.trajectory_chosen.as_str(), row.trajectory_rejected.as_str()), ("test/a", "test/b"));
    assert!(row.node_id.starts_with("t:"));
}

#[test]
fn whole_trajectory_rows_hold_everything_after_the_prompt() {
    let trajectories = worked();
    let pairs = PairOptions { mode: PairMode::WholeTrajectory, ..PairOptions::default() };
    let forest = build(&trajectories, &Options { pairs, ..Options::default() }).unwrap();
    let rows = forest.preference_rows(&trajectories, &ChatOptions::default()).unwrap();
    assert_eq!(brief(&rows[0].prompt), ["solve t"]);
    assert_eq!(brief(&rows[0].chosen), ["A", "ran A", "B", "ran B", "C"]);
    assert_eq!((rows[0].score_chosen.as_str(), rows[0].score_rejected.as_str()), ("1/1", "0/1"));
}

#[test]
fn an_invalid_output_counts_where_it_is_rejected_and_nowhere_else() {
    let trajectories = [("a", "A B C", true), ("b", "A !x B", false)]
        .map(|(id, words, success)| rollout("t", id, words, success));
    for mode in [PairMode::Critical, PairMode::WholeTrajectory] {
        let pairs = PairOptions { mode, ..PairOptions::default() };
        let forest = build(&trajectories, &Options { pairs, ..Options::default() }).unwrap();
        let rows = forest.preference_rows(&trajectories, &ChatOptions::default()).unwrap();
        let invalid: Vec<&RowMessage> = rows[0].rejected.iter().filter(|said| said.content == "x").collect();
        assert_eq!(invalid.len(), 1);
        assert!(invalid[0].train, "{mode:?}: a masked output teaches nothing");
    }
    let successes = [("c", "A !x B"), ("d", "A D")].map(|(id, words)| rollout("t", id, words, true));
    let forest = build(&successes, &Options::default()).unwrap();
    let imitated = forest.sft_rows(&successes, &ChatOptions::default()).unwrap();
    let invalid: Vec<_> = imitated[0].messages.iter().filter(|said| said.content == "x").collect();
    assert!(!invalid[0].train);
}

#[test]
fn successes_are_deduplicated_and_limited_when_asked() {
    let mut trajectories: Vec<Trajectory> = (0..6)
        .map(|index| rollout("t", &format!("r{index}"), &format!("A={index} B C{}", index / 2), true))
        .collect();
    trajectories.push(rollout("t", "failed", "A B", false));
    let count = |sft| build(&trajectories, &Options { sft, ..Options::default() }).unwrap().sft.len();
    assert_eq!(count(SftOptions::default()), 6);
    assert_eq!(count(SftOptions { deduplicate: true, ..SftOptions::default() }), 3);
    assert_eq!(count(SftOptions { max_per_task: Some(2), ..SftOptions::default() }), 2);
    let drawn = |seed| {
        build(
            &trajectories,
            &Options {
                sft: SftOptions { max_per_task: Some(2), seed, ..SftOptions::default() },
                ..Options::default()
            },
        )
        .unwrap()
        .sft
    };
    assert_eq!(drawn(3), drawn(3));
    assert!((0..20).any(|seed| drawn(seed) != drawn(3)));
}

#[test]
fn a_pair_whose_prefix_was_condensed_is_left_out_unless_kept() {
    let mut trajectories = worked();
    trajectories[0].turns[1].condensed_before = true;
    let rows = |keep_condensed| {
        let pairs = PairOptions { keep_condensed, ..PairOptions::default() };
        let forest = build(&trajectories, &Options { pairs, ..Options::default() }).unwrap();
        assert_eq!(forest.pairs.len(), 1, "the tree does not change");
        forest.preference_rows(&trajectories, &ChatOptions::default()).unwrap()
    };
    assert_eq!(rows(false), []);
    assert!(rows(true)[0].prefix_condensed);
}

#[test]
fn trajectories_that_the_forest_needs_must_be_given() {
    let trajectories = worked();
    let forest = build(&trajectories, &Options::default()).unwrap();
    let missing = forest.sft_rows(&trajectories[1..], &ChatOptions::default());
    assert_eq!(missing, Err(RowsError::MissingTrajectory("test/a".to_owned())));
}

#[test]
fn every_success_and_pair_of_the_real_data_becomes_a_row() {
    let Some(folder) = shared_data::folder("openhands-swegym-samples") else { return };
    let imported = shared_data::import(&folder);
    let forest = build(&imported.trajectories, &Options::default()).unwrap();
    let options = ChatOptions::default();
    let sft = forest.sft_rows(&imported.trajectories, &options).unwrap();
    assert_eq!(u64::try_from(sft.len()).unwrap(), forest.statistics.successful);
    assert!(
        sft.iter().all(|row| row.messages.iter().all(|message| !message.content.contains("OBSERVATION:\n")))
    );
    let pairs = forest.preference_rows(&imported.trajectories, &options).unwrap();
    assert_eq!(u64::try_from(pairs.len()).unwrap(), forest.statistics.critical_pairs);
    for pair in &pairs {
        assert!(pair.chosen.len() == 1 && pair.rejected.len() == 1 && pair.chosen != pair.rejected);
    }
}
