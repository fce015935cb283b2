//! The worked example and vectors of specs 5.4, and the rules of 5.11 on trees and pairs, one test each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_forest::{
    DataRatio, Filters, Forest, NodeKey, Options, Overlap, PairMode, PairOptions, ScoreEstimator, Selection,
    build,
};
use sealign_trajectory::Trajectory;

mod rollouts;

use rollouts::{key, rollout};

/// No cleaning, so that a test sees what it wrote.
fn uncleaned() -> Options {
    let filters =
        Filters { deduplicate: false, loop_min_repeats: 0, overlap: Overlap::Off, ..Filters::default() };
    Options { filters, ..Options::default() }
}

fn forest(options: &Options, rollouts: &[(&str, bool)]) -> Forest {
    let named = rollouts
        .iter()
        .enumerate()
        .map(|(index, (words, success))| rollout("t", &format!("r{index}"), words, *success));
    build(&named.collect::<Vec<Trajectory>>(), options).unwrap()
}

/// The word of an action from its key.
fn word(key: &str) -> &str {
    let call = key.strip_prefix("call:execute_bash{\"command\":\"").and_then(|rest| rest.strip_suffix("\"}"));
    call.unwrap_or(key)
}

/// `chosen>rejected@depth s/n s/n` for each pair, by the words of the actions.
fn pairs(forest: &Forest) -> Vec<String> {
    let lines = forest.summary().pairs;
    let show = |line: &sealign_forest::PairLine| {
        format!(
            "{}>{}@{} {} {}",
            word(&line.chosen_key),
            word(&line.rejected_key),
            line.depth,
            line.chosen_score,
            line.rejected_score
        )
    };
    lines.iter().map(show).collect()
}

fn check(options: &Options, rollouts: &[(&str, bool)], expected: &[&str]) {
    assert_eq!(pairs(&forest(options, rollouts)), expected);
}

const WORKED: [(&str, bool); 4] = [("A B C", true), ("A B D", false), ("A E F", false), ("A E G", false)];

#[test]
fn the_worked_example_gives_exactly_one_pair() {
    let forest = forest(&Options::default(), &WORKED);
    assert_eq!(pairs(&forest), ["C>D@2 1/1 0/1"]);
    let scores: Vec<String> =
        forest.trees[0].nodes.iter().map(|node| format!("{} {}", word(&node.key), node.score)).collect();
    assert_eq!(scores, [" 1/4", "A 1/4", "B 1/2", "C 1/1", "D 0/1", "E 0/2", "F 0/1", "G 0/1"]);
    let numbers = &forest.statistics;
    assert_eq!(
        (numbers.nodes, numbers.branch_points, numbers.critical_decision_points, numbers.critical_pairs),
        (7, 3, 1, 1)
    );
    assert_eq!(numbers.path_actions, 12);
    assert_eq!(numbers.overlap_saved, 5);
}

#[test]
fn equal_actions_with_different_results_are_two_leaves_and_no_pair() {
    let forest = forest(&Options::default(), &[("A B", true), ("A B", false)]);
    assert_eq!(pairs(&forest), [""; 0]);
    assert_eq!(forest.trees[0].nodes.last().unwrap().leaves.len(), 2);
    assert_eq!(forest.statistics.dropped.values().sum::<u64>(), 0, "both are kept");
}

#[test]
fn an_outcome_leaf_is_no_sibling() {
    check(&Options::default(), &[("A", true), ("A C", false)], &[]);
}

#[test]
fn the_root_is_a_decision_and_the_overlap_filter_drops_lone_starters() {
    check(&uncleaned(), &[("A x", true), ("B y", false)], &["A>B@0 1/1 0/1"]);
    let cleaned = forest(&Options::default(), &[("A x", true), ("B y", false)]);
    assert_eq!(cleaned.statistics.dropped[&sealign_forest::DropReason::Overlap], 2);
    assert_eq!(cleaned.statistics.after_filtering, 0);
}

#[test]
fn a_difference_of_exactly_one_half_is_no_pair() {
    let side = |word: &str, successes: usize, paths: usize| -> Vec<(String, bool)> {
        (0..paths).map(|path| (format!("{word} {word}{path}"), path < successes)).collect()
    };
    let run = |a: (usize, usize), b: (usize, usize)| {
        let rollouts: Vec<(String, bool)> =
            side("A", a.0, a.1).into_iter().chain(side("B", b.0, b.1)).collect();
        let rollouts: Vec<(&str, bool)> =
            rollouts.iter().map(|(words, success)| (words.as_str(), *success)).collect();
        pairs(&forest(&uncleaned(), &rollouts))
            .into_iter()
            .filter(|pair| pair.contains("@0"))
            .collect::<Vec<_>>()
    };
    assert_eq!(run((3, 4), (1, 4)), [""; 0]);
    assert_eq!(run((4, 5), (1, 4)), ["A>B@0 4/5 1/4"]);
}

#[test]
fn ties_go_to_more_paths_and_then_to_the_smaller_key() {
    let rollouts =
        [("B", true), ("C", true), ("C", true), ("D", true), ("D", true), ("Y", false), ("X", false)];
    check(&uncleaned(), &rollouts, &["C>X@0 2/2 0/1"]);
}

#[test]
fn an_invalid_output_is_never_chosen_and_may_be_rejected() {
    check(&uncleaned(), &[("!bad", true), ("B", true), ("C", false)], &["B>C@0 1/1 0/1"]);
    check(&uncleaned(), &[("A", true), ("!bad", false)], &["A>invalid:bad@0 1/1 0/1"]);
    let lone = forest(&uncleaned(), &[("!bad", true), ("C", false)]);
    assert_eq!(pairs(&lone), [""; 0]);
    assert_eq!(lone.statistics.critical_decision_points, 1, "the decision is critical all the same");
}

#[test]
fn an_invalid_output_without_its_text_is_on_neither_side() {
    check(&uncleaned(), &[("A", true), ("~", false)], &[]);
    check(&uncleaned(), &[("A", true), ("~", false), ("~", false), ("C", false)], &["A>C@0 1/1 0/1"]);
}

#[test]
fn children_below_the_minimum_support_take_no_side_but_count_above() {
    let options = Options { pairs: PairOptions { min_support: 2, ..PairOptions::default() }, ..uncleaned() };
    check(&options, &[("A", true), ("B", false), ("B", false), ("C", true), ("C", true)], &["C>B@0 2/2 0/2"]);
    let forest = forest(&options, &[("A", true), ("B", false)]);
    assert_eq!((pairs(&forest).len(), forest.statistics.critical_decision_points), (0, 1));
}

#[test]
fn the_representative_is_the_shortest_rollout_with_the_smallest_id() {
    let forest = forest(&uncleaned(), &[("A x y", true), ("A z", true), ("A w", true), ("B y", false)]);
    let pair = &forest.pairs[0];
    let tree = &forest.trees[0];
    assert_eq!(tree.rollouts[pair.chosen_rollout].id, "r1");
    assert_eq!(tree.rollouts[pair.rejected_rollout].id, "r3");
}

#[test]
fn a_prefix_diverges_when_the_two_rollouts_saw_different_things() {
    let divergent = |words: [&str; 2]| {
        forest(&uncleaned(), &[(words[0], true), (words[1], false)]).pairs[0].prefix_divergent
    };
    assert!(!divergent(["A=seen B", "A=seen C"]));
    assert!(divergent(["A=seen B", "A=other C"]));
    assert!(!divergent(["A B=one", "A C=two"]), "what comes after the decision does not count");
    assert!(!divergent(["A=0x1f B", "A=0x2e C"]), "addresses are read as one");
}

#[test]
fn divergent_pairs_are_left_out_of_training_when_asked() {
    let options =
        Options { pairs: PairOptions { drop_divergent: true, ..PairOptions::default() }, ..uncleaned() };
    let forest = forest(&options, &[("A=seen B", true), ("A=other C", false)]);
    assert_eq!((forest.pairs.len(), forest.training_pairs().count()), (1, 0));
    assert_eq!(forest.statistics.training_pairs, 0);
}

#[test]
fn best_vs_each_fixes_the_best_and_all_pairs_takes_every_two() {
    let rollouts = [
        ("A", true),
        ("A", true),
        ("B", true),
        ("B", true),
        ("B", true),
        ("B", false),
        ("C", false),
        ("D", false),
    ];
    let with = |selection, limit| Options {
        pairs: PairOptions { selection, max_pairs_per_decision: limit, ..PairOptions::default() },
        ..uncleaned()
    };
    check(&with(Selection::BestVsEach, None), &rollouts, &["A>C@0 2/2 0/1", "A>D@0 2/2 0/1"]);
    let all = ["A>C@0 2/2 0/1", "A>D@0 2/2 0/1", "B>C@0 3/4 0/1", "B>D@0 3/4 0/1"];
    check(&with(Selection::AllPairs, None), &rollouts, &all);
    check(&with(Selection::AllPairs, Some(3)), &rollouts, &all[..3]);
}

#[test]
fn pairs_of_one_kind_are_skipped_when_kinds_must_differ() {
    let pair_options = PairOptions {
        require_different_kind: true,
        selection: Selection::AllPairs,
        ..PairOptions::default()
    };
    let options = Options { pairs: pair_options, ..uncleaned() };
    check(&options, &[("ls", true), ("cat", false), ("pytest", false)], &["ls>pytest@0 1/1 0/1"]);
}

#[test]
fn the_shrunk_estimator_asks_for_more_than_one_path() {
    let pair_options = PairOptions {
        score_estimator: ScoreEstimator::Laplace,
        threshold: "0.4".parse().unwrap(),
        ..PairOptions::default()
    };
    let options = Options { pairs: pair_options, ..uncleaned() };
    check(&options, &[("A", true), ("B", false)], &[]);
    check(&options, &[("A", true), ("A", true), ("B", false), ("B", false)], &["A>B@0 2/2 0/2"]);
}

#[test]
fn splitting_by_observation_compares_only_after_equal_observations() {
    let options = Options { node_key: NodeKey::CallAndObservation, ..uncleaned() };
    let forest = forest(
        &options,
        &[("A=x B", true), ("A=x C", false), ("A=y B", true), ("A=y C", false), ("A=z D", false)],
    );
    assert_eq!(pairs(&forest), ["B>C@1 1/1 0/1", "B>C@1 1/1 0/1"]);
    assert!(forest.pairs.iter().all(|pair| !pair.prefix_divergent));
    let numbers = &forest.statistics;
    assert_eq!((numbers.nodes, numbers.branch_points, numbers.critical_decision_points), (6, 1, 2));
}

#[test]
fn full_text_keys_split_by_the_thought() {
    let mut one = rollout("t", "a", "A B", true);
    let two = rollout("t", "b", "A C", false);
    one.turns[0].free_text = "hm".to_owned();
    let nodes = |node_key| {
        build(&[one.clone(), two.clone()], &Options { node_key, ..uncleaned() }).unwrap().statistics.nodes
    };
    assert_eq!((nodes(NodeKey::Call), nodes(NodeKey::FullText)), (3, 4));
}

#[test]
fn whole_trajectory_pairs_are_as_many_as_the_critical_ones_and_seeded() {
    let with = |seed| Options {
        pairs: PairOptions { mode: PairMode::WholeTrajectory, seed, ..PairOptions::default() },
        ..uncleaned()
    };
    let rollouts =
        [("A a", true), ("A b", false), ("B c", true), ("B d", false), ("C e", false), ("D f", false)];
    let drawn = |seed| {
        let forest = forest(&with(seed), &rollouts);
        assert_eq!(forest.statistics.critical_pairs, 2);
        let tree = &forest.trees[0];
        for pair in &forest.pairs {
            assert!(
                tree.rollouts[pair.chosen_rollout].success && !tree.rollouts[pair.rejected_rollout].success
            );
        }
        forest.pairs.iter().map(|pair| (pair.chosen_rollout, pair.rejected_rollout)).collect::<Vec<_>>()
    };
    assert_eq!(drawn(1).len(), 2);
    assert_eq!(drawn(1), drawn(1));
    assert!((0..20).any(|seed| drawn(seed) != drawn(1)));
    let scarce = forest(&with(1), &[("A a x", true), ("A b", false)]);
    assert_eq!(scarce.pairs.len(), 1, "at most successes times failures");
}

#[test]
fn smaller_shares_of_the_data_are_contained_in_larger_ones() {
    let rollouts: Vec<Trajectory> = (0..8)
        .flat_map(|task| {
            let name = format!("task-{task}");
            [
                rollout(&name, &format!("{task}a"), "A B", true),
                rollout(&name, &format!("{task}b"), "A C", false),
            ]
        })
        .collect();
    let share = |percent| {
        let data_ratio = DataRatio { percent, seed: 7, pairs_only: false };
        let forest = build(&rollouts, &Options { data_ratio, ..Options::default() }).unwrap();
        let pairs: Vec<String> =
            forest.training_pairs().map(|pair| forest.trees[pair.tree].task.clone()).collect();
        assert_eq!(pairs.len(), forest.sft.len(), "the same tasks for both stages");
        pairs
    };
    let sizes: Vec<usize> = [0, 25, 50, 75, 100].map(|percent| share(percent).len()).into();
    assert_eq!(sizes, [0, 2, 4, 6, 8]);
    assert!(share(25).iter().all(|task| share(50).contains(task)));
    let too_much =
        Options { data_ratio: DataRatio { percent: 101, ..DataRatio::default() }, ..Options::default() };
    assert!(build(&rollouts, &too_much).unwrap_err().to_string().contains("dataRatio.percent"));
}

#[test]
fn a_forest_reads_back_from_its_bytes_and_never_depends_on_the_order_of_its_input() {
    let rollouts = WORKED
        .iter()
        .enumerate()
        .map(|(index, (words, success))| rollout("t", &format!("r{index}"), words, *success));
    let mut rollouts: Vec<Trajectory> = rollouts.collect();
    let bytes = build(&rollouts, &Options::default()).unwrap().to_bytes().unwrap();
    rollouts.reverse();
    assert_eq!(build(&rollouts, &Options::default()).unwrap().to_bytes().unwrap(), bytes);
    let read = Forest::from_bytes(&bytes).unwrap();
    assert_eq!(read.to_bytes().unwrap(), bytes);
    let broken = String::from_utf8(bytes).unwrap().replace("\"tree\":0", "\"tree\":9");
    assert!(Forest::from_bytes(broken.as_bytes()).unwrap_err().to_string().contains("pair 0"));
    rollouts.push(rollouts[0].clone());
    assert!(build(&rollouts, &Options::default()).unwrap_err().to_string().contains("is there twice"));
}

#[test]
fn the_summary_has_the_names_that_others_rely_on() {
    let summary = serde_json::to_value(forest(&Options::default(), &WORKED).summary()).unwrap();
    for name in [
        "instances",
        "instancesCollected",
        "collected",
        "afterFiltering",
        "successful",
        "wrong",
        "pathMessages",
        "averagePathMessages",
        "pathActions",
        "averagePathActions",
        "nodes",
        "branchPoints",
        "criticalDecisionPoints",
        "criticalPairs",
        "singlePathPairs",
        "dropped",
        "pairs",
    ] {
        assert!(summary.get(name).is_some(), "{name}");
    }
    assert_eq!(
        summary["singlePathPairs"],
        serde_json::json!({"chosen": 1, "rejected": 1, "either": 1, "both": 1})
    );
    assert_eq!(
        summary["pairs"][0],
        serde_json::json!({
            "task": "t", "depth": 2, "chosenKey": key("C"), "rejectedKey": key("D"), "chosenScore": "1/1", "rejectedScore": "0/1",
        })
    );
    assert_eq!(summary["averagePathActions"], 3.0);
    assert_eq!(summary["dropped"]["no_verdict"], 0);
}
