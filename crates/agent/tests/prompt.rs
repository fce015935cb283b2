//! The layout of the prompt, which other programs cut at its markers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use sealign_agent::Harness;
use sealign_agent::harness::openhands::{OpenHands, Profile, Templates};
use sealign_trajectory::{Message, Role};
use support::task;

fn prompt(harness: &OpenHands) -> (String, String) {
    let messages: Vec<Message> = harness.prompt(&task()).unwrap();
    let [system, user] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((system.role, user.role), (Role::System, Role::User));
    (system.content.clone(), user.content.clone())
}

#[test]
fn the_function_list_has_the_layout_that_importers_cut() {
    let (system, _) = prompt(&OpenHands::new(Profile::OpenHands024));
    let (bare, suffix) = system.split_once("\nYou have access to the following functions:\n\n").unwrap();
    assert!(bare.ends_with("</IMPORTANT>"));
    let headers: Vec<&str> = suffix.lines().filter(|line| line.starts_with("---- ")).collect();
    assert_eq!(
        headers,
        [
            "---- BEGIN FUNCTION #1: execute_bash ----",
            "---- END FUNCTION #1 ----",
            "---- BEGIN FUNCTION #2: finish ----",
            "---- END FUNCTION #2 ----",
            "---- BEGIN FUNCTION #3: str_replace_editor ----",
            "---- END FUNCTION #3 ----",
        ]
    );
    assert!(suffix.contains("\nNo parameters are required for this function.\n---- END FUNCTION #2 ----\n"));
    assert!(suffix.contains(
        "\n  (1) command (string, required): What to do.\nAllowed values: [`view`, `create`, `str_replace`, `insert`, `undo_edit`]\n"
    ));
    assert!(suffix.contains("\n  (6) insert_line (integer, optional): "));
    assert!(suffix.ends_with("</IMPORTANT>\n"));
}

#[test]
fn the_later_profile_adds_think_and_arguments_of_finish() {
    let (system, user) = prompt(&OpenHands::new(Profile::OpenHands028));
    for part in
        ["#2: think ----", "#3: finish ----", "(2) task_completed (string, required)", "<TROUBLESHOOTING>"]
    {
        assert!(system.contains(part), "{part}");
    }
    assert!(user.contains("1. EXPLORATION"));
}

#[test]
fn the_worked_example_is_wrapped_so_that_it_can_be_stripped() {
    let (_, user) = prompt(&OpenHands::new(Profile::OpenHands024));
    assert!(user.starts_with("Here's a running example of how to perform a task with the provided tools.\n\n--------------------- START OF EXAMPLE ---------------------\n"));
    let (_, rest) =
        user.split_once("--------------------- NEW TASK DESCRIPTION ---------------------\n").unwrap();
    let (task_text, _) = rest
        .split_once("\n--------------------- END OF NEW TASK DESCRIPTION ---------------------\n\n")
        .unwrap();
    assert!(task_text.starts_with("<uploaded_files>\n/workspace/repo\n</uploaded_files>\n"));
    assert!(task_text.contains("<issue_description>\nadd(2, 3) gives -1, expected 5\n</issue_description>"));
}

#[test]
fn an_operator_can_put_other_words() {
    let templates = Templates {
        system: "Be good.{functions}".into(),
        task: "{problem} in {workdir}".into(),
        example: String::new(),
        ..Templates::of(Profile::OpenHands024)
    };
    let (system, user) = prompt(&OpenHands::with_templates(Profile::OpenHands024, templates));
    assert!(system.starts_with("Be good.\nYou have access"));
    assert_eq!(user, "add(2, 3) gives -1, expected 5 in /workspace/repo");
}

#[test]
fn a_problem_text_that_looks_like_a_template_stays_as_it_is() {
    let harness = OpenHands::new(Profile::Compact);
    let hostile = sealign_manifest::Task { problem_statement: "{workdir} {functions} {x}".into(), ..task() };
    assert_eq!(harness.prompt(&hostile).unwrap()[1].content, "{workdir} {functions} {x}");
}
