//! Cleaning: one test per rule of specs 5.2 and 5.11 C.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeSet;

use sealign_forest::{DropReason, Exclusion, Filters, NodeKey, Options, Overlap, build, repository};
use sealign_trajectory::{Trajectory, UnknownCause};

mod rollouts;

use rollouts::{rollout, unknown};

/// `id:reason` of every dropped rollout.
fn dropped(options: &Options, rollouts: &[Trajectory]) -> Vec<String> {
    let forest = build(rollouts, options).unwrap();
    let by_reason = |reason| forest.dropped.iter().filter(|rollout| rollout.reason == reason).count();
    for reason in DropReason::ALL {
        assert_eq!(forest.statistics.dropped[&reason], u64::try_from(by_reason(reason)).unwrap());
    }
    assert_eq!(
        forest.statistics.collected - forest.statistics.after_filtering,
        u64::try_from(forest.dropped.len()).unwrap()
    );
    forest.dropped.iter().map(|rollout| format!("{}:{:?}", rollout.id, rollout.reason)).collect()
}

fn without_overlap() -> Options {
    Options { filters: Filters { overlap: Overlap::Off, ..Filters::default() }, ..Options::default() }
}

#[test]
fn rollouts_without_a_definite_outcome_take_part_in_nothing() {
    let rollouts = [
        rollout("t", "a", "A B", true),
        unknown(rollout("t", "b", "A C", false), UnknownCause::Infrastructure),
        unknown(rollout("t", "c", "A C", false), UnknownCause::NoVerdict),
    ];
    // The last one shares its first action with unknown ones only.
    assert_eq!(dropped(&Options::default(), &rollouts), ["a:Overlap", "b:Infrastructure", "c:NoVerdict"]);
    let forest = build(&rollouts, &Options::default()).unwrap();
    assert_eq!((forest.statistics.instances, forest.statistics.instances_collected), (0, 1));
}

#[test]
fn of_equal_rollouts_the_first_by_source_and_id_is_kept() {
    let mut other_source = rollout("t", "a", "A B", true);
    other_source.source = "earlier".to_owned();
    let rollouts = [rollout("t", "b", "A B", true), other_source, rollout("t", "c", "A B", false)];
    assert_eq!(dropped(&without_overlap(), &rollouts), ["b:Duplicate"], "another result is no duplicate");
}

#[test]
fn different_observations_are_no_duplicates_and_normalised_ones_are() {
    let seen = |id, text: &str| rollout("t", id, &format!("A={text} B"), true);
    assert_eq!(dropped(&without_overlap(), &[seen("a", "one"), seen("b", "two")]), [""; 0]);
    assert_eq!(dropped(&without_overlap(), &[seen("a", "0x1"), seen("b", "0x2")]), ["b:Duplicate"]);
}

#[test]
fn nothing_comes_back_after_the_last_action_and_a_gap_before_it_equals_nothing() {
    let with_gap = |id| {
        let mut rollout = rollout("t", id, "A B C", true);
        rollout.turns[1].observation = None;
        rollout
    };
    assert_eq!(dropped(&without_overlap(), &[with_gap("a"), with_gap("b")]), [""; 0]);
    let mut empty = rollout("t", "b", "A B", true);
    empty.turns[1].observation = Some(Vec::new());
    assert_eq!(
        dropped(&without_overlap(), &[rollout("t", "a", "A B", true), empty]),
        [""; 0],
        "no text is not nothing"
    );
}

#[test]
fn the_thought_tells_duplicates_apart_only_in_the_full_text_mode() {
    let mut other = rollout("t", "b", "A B", true);
    other.turns[0].free_text = "a thought".to_owned();
    let rollouts = [rollout("t", "a", "A B", true), other];
    assert_eq!(dropped(&without_overlap(), &rollouts), ["b:Duplicate"]);
    assert_eq!(dropped(&Options { node_key: NodeKey::FullText, ..without_overlap() }, &rollouts), [""; 0]);
}

#[test]
fn three_equal_actions_with_equal_observations_are_a_loop() {
    let check = |words: &str, is_loop: bool| {
        let expected: &[&str] = if is_loop { &["a:Loop"] } else { &[] };
        assert_eq!(dropped(&without_overlap(), &[rollout("t", "a", words, true)]), expected, "{words}");
    };
    check("A=x A=x A=x B", true);
    check("A=x A=x A B", false);
    check("A=x A=x B A=x", false);
    check("A=x A=x A", false);
    check("!e=x !e=x !e=x B", true);
    check("~=x ~=x ~=x B", false);
    check("\"m=x \"m=x \"m=x B", true);
}

#[test]
fn a_loop_with_changing_observations_is_kept_and_still_counted_as_stuck() {
    let looping = rollout("t", "a", "A=x A=y A=z", true);
    let forest = build(std::slice::from_ref(&looping), &without_overlap()).unwrap();
    assert_eq!(
        (forest.statistics.after_filtering, forest.statistics.stuck_in_loop, forest.statistics.stuck_at_end),
        (1, 1, 1)
    );
    let filters =
        Filters { loop_require_same_observation: false, overlap: Overlap::Off, ..Filters::default() };
    assert_eq!(dropped(&Options { filters, ..Options::default() }, &[looping]), ["a:Loop"]);
}

#[test]
fn a_varying_thought_does_not_hide_a_loop() {
    let mut looping = rollout("t", "a", "A=x A=x A=x B", true);
    for (index, turn) in looping.turns.iter_mut().enumerate() {
        turn.free_text = format!("thought {index}");
    }
    assert_eq!(
        dropped(&Options { node_key: NodeKey::FullText, ..without_overlap() }, &[looping]),
        ["a:Loop"]
    );
}

#[test]
fn a_rollout_stays_when_another_one_of_its_tree_begins_alike() {
    let with = |min_prefix| Options {
        filters: Filters { overlap_min_prefix: min_prefix, ..Filters::default() },
        ..Options::default()
    };
    let rollouts = [
        rollout("t", "a", "A B C", true),
        rollout("t", "b", "A B D", false),
        rollout("t", "c", "A X", false),
        rollout("t", "d", "Y A B", false),
        rollout("t", "e", "", false),
        rollout("u", "f", "A B C", true),
    ];
    assert_eq!(dropped(&with(1), &rollouts), ["d:Overlap", "e:Overlap", "f:Overlap"]);
    assert_eq!(dropped(&with(2), &rollouts), ["c:Overlap", "d:Overlap", "e:Overlap", "f:Overlap"]);
    assert_eq!(dropped(&with(4), &rollouts).len(), 6, "one with fewer actions falls");
    let anywhere = Options {
        filters: Filters { overlap: Overlap::AnyAction, ..Filters::default() },
        ..Options::default()
    };
    assert_eq!(dropped(&anywhere, &rollouts), ["e:Overlap", "f:Overlap"]);
}

#[test]
fn different_prompts_of_one_task_are_different_trees() {
    let mut other = rollout("t", "b", "A C", false);
    other.prompt[0].content = "solve it differently".to_owned();
    let rollouts = [rollout("t", "a", "A B", true), other];
    assert_eq!(dropped(&Options::default(), &rollouts), ["a:Overlap", "b:Overlap"]);
    assert_eq!(build(&rollouts, &without_overlap()).unwrap().trees.len(), 2);
}

#[test]
fn a_rollout_without_actions_counts_at_the_root() {
    let forest =
        build(&[rollout("t", "a", "", true), rollout("t", "b", "A", false)], &without_overlap()).unwrap();
    assert_eq!(forest.trees[0].nodes[0].score.to_string(), "1/2");
    assert_eq!(forest.statistics.nodes, 1);
}

#[test]
fn evaluation_data_is_excluded_by_task_repository_and_statement() {
    let set = |name: &str| BTreeSet::from([name.to_owned()]);
    let mut quoting = rollout("o__other-1", "c", "A B", true);
    quoting.prompt[0].content = "please: the statement of an evaluation task".to_owned();
    let rollouts = [
        rollout("Django__Django-12", "a", "A B", true),
        rollout("x__y-3", "b", "A B", true),
        quoting,
        rollout("x__z-3", "d", "A B", true),
    ];
    let exclusion = Exclusion {
        tasks: set("X__Y-3"),
        repositories: set("django/django"),
        problem_statements: vec!["  ".to_owned(), "the statement of an evaluation task".to_owned()],
    };
    let options = Options { exclusion, ..without_overlap() };
    assert_eq!(dropped(&options, &rollouts), ["a:Excluded", "b:Excluded", "c:Excluded"]);
}

#[test]
fn a_task_names_its_repository() {
    assert_eq!(repository("scikit-learn__scikit-learn-10297").as_deref(), Some("scikit-learn/scikit-learn"));
    assert_eq!(repository("getmoto__moto.694ce1f4.pr_7331").as_deref(), Some("getmoto/moto"));
    assert_eq!(repository("Python/12"), None);
}
