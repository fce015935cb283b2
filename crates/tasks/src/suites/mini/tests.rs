//! What the generator promises.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::suites::mini::world::World;

fn truths(tasks: &[Task]) -> Vec<MiniTruth> {
    tasks.iter().map(|task| MiniTruth::of(task).unwrap()).collect()
}

#[test]
fn equal_options_give_equal_tasks_and_a_smaller_set_is_a_prefix() {
    let large = generate(&MiniOptions::standard(Split::Train, 7, 60)).unwrap();
    assert_eq!(large, generate(&MiniOptions::standard(Split::Train, 7, 60)).unwrap());
    assert_eq!(large[..20], generate(&MiniOptions::standard(Split::Train, 7, 20)).unwrap());
    assert_ne!(
        large[0].digest().unwrap(),
        generate(&MiniOptions::standard(Split::Train, 8, 1)).unwrap()[0].digest().unwrap()
    );
}

#[test]
fn tasks_of_a_set_differ_and_share_no_function_name_with_the_other_split() {
    let names = |split| -> BTreeSet<String> {
        let tasks = generate(&MiniOptions::standard(split, 1, 150)).unwrap();
        let contents: BTreeSet<Digest> = tasks
            .iter()
            .map(|task| Digest::of_json(&(&task.problem_statement, &task.environment.files)).unwrap())
            .collect();
        assert_eq!(contents.len(), tasks.len());
        truths(&tasks).into_iter().flat_map(|truth| [truth.function, truth.issue_function]).collect()
    };
    assert!(names(Split::Train).is_disjoint(&names(Split::Eval)));
}

#[test]
fn families_come_in_equal_shares_and_held_out_ones_only_when_asked_for() {
    let mut counts: BTreeMap<Family, usize> = BTreeMap::new();
    for truth in truths(&generate(&MiniOptions::standard(Split::Train, 1, 120)).unwrap()) {
        *counts.entry(truth.family).or_default() += 1;
    }
    assert_eq!(counts, Family::TRAINED.into_iter().map(|family| (family, 10)).collect());
}

#[test]
fn the_shares_of_vague_two_file_and_file_naming_issues_are_those_of_the_options() {
    let truths = truths(&generate(&MiniOptions::standard(Split::Train, 3, 500)).unwrap());
    let share = |holds: fn(&MiniTruth) -> bool| truths.iter().filter(|truth| holds(truth)).count() / 5;
    assert!(share(|truth| truth.explicit).abs_diff(50) <= 5);
    assert!(share(|truth| truth.file != truth.issue_file).abs_diff(35) <= 5);
    assert!(share(|truth| truth.names_file).abs_diff(70) <= 5);
    let guessing = self::truths(&generate(&MiniOptions::guessing(Split::Eval, 3, 70)).unwrap());
    assert!(
        guessing
            .iter()
            .all(|t| !t.explicit && t.names_file && t.file == t.issue_file && t.candidates.len() == 4)
    );
}

#[test]
fn the_visible_tests_fail_for_every_candidate_but_the_right_one() {
    let options =
        MiniOptions { families: Family::ALL.to_vec(), ..MiniOptions::standard(Split::Eval, 2, 140) };
    for task in generate(&options).unwrap() {
        let truth = MiniTruth::of(&task).unwrap();
        for candidate in 0..truth.candidates.len() {
            let mut world = World::new(&task).unwrap();
            if candidate != truth.buggy {
                world.replace(&truth.file, truth.buggy_line(), &truth.candidates[candidate]).unwrap();
            }
            let passes = world.run(TEST_COMMAND).unwrap().text == "passed\n";
            assert_eq!(passes, candidate == truth.right, "{}: candidate {candidate}", task.id);
            assert_eq!(passes, world.is_right());
        }
    }
}

#[test]
fn a_failing_test_prints_the_current_source_and_in_a_vague_task_the_spec() {
    for task in generate(&MiniOptions::standard(Split::Train, 4, 100)).unwrap() {
        let truth = MiniTruth::of(&task).unwrap();
        let printed = World::new(&task).unwrap().run(TEST_COMMAND).unwrap();
        assert_eq!(printed.exit_code, 1);
        assert!(printed.text.contains(truth.buggy_line()));
        assert_eq!(printed.text.contains(&truth.spec), !truth.explicit, "{}", printed.text);
        assert_eq!(
            task.problem_statement.contains(&truth.spec),
            truth.explicit,
            "{}",
            task.problem_statement
        );
    }
}

#[test]
fn hidden_values_are_not_among_the_files_that_the_agent_finds() {
    for task in generate(&MiniOptions::guessing(Split::Eval, 5, 50)).unwrap() {
        let hidden = task.tests.files.iter().find(|file| file.path == CASES_FILE).unwrap();
        let cases: Vec<Case> = serde_json::from_str(&hidden.content).unwrap();
        let visible =
            |case: &&Case| task.environment.files.iter().any(|file| file.content.contains(&case.call));
        assert!(cases.iter().filter(|case| !visible(case)).count() >= 2, "{}", task.id);
        assert!(task.environment.files.iter().all(|file| file.path != CASES_FILE));
        assert_eq!(cases.len(), task.tests.fail_to_pass.len() + task.tests.pass_to_pass.len());
    }
}

#[test]
fn options_out_of_range_are_refused_with_the_field() {
    let standard = MiniOptions::standard(Split::Train, 1, 1);
    let error = |options: &MiniOptions| generate(options).unwrap_err().to_string();
    assert!(error(&MiniOptions { vague_percent: 101, ..standard.clone() }).contains("vaguePercent"));
    assert!(error(&MiniOptions { families: Vec::new(), ..standard.clone() }).contains("families"));
    assert!(error(&MiniOptions { count: COUNT_MAX + 1, ..standard }).contains("count"));
}
