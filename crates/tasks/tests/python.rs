//! Compares what the suite predicts with what Python, grep and ls really print.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and this one writes files and runs programs"
)]

use std::path::Path;
use std::process::Command;

use sealign_manifest::Task;
use sealign_tasks::suites::mini::family::Family;
use sealign_tasks::suites::mini::world::World;
use sealign_tasks::suites::mini::{MiniOptions, MiniTruth, Split, TEST_COMMAND, generate};

fn write_files(root: &Path, task: &Task) {
    for file in &task.environment.files {
        let path = root.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.content).unwrap();
    }
}

/// Runs a shell command and gives its output with the exit status, as an agent's shell shows it.
fn shell(root: &Path, command: &str) -> (String, i32) {
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(root)
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn check(task: &Task) {
    let root = tempfile::tempdir().unwrap();
    write_files(root.path(), task);
    let mut world = World::new(task).unwrap();
    let truth = MiniTruth::of(task).unwrap();
    let compare = |world: &World, command: &str| {
        let printed =
            world.run(command).unwrap_or_else(|| panic!("{}: `{command}` is not predicted", task.id));
        let real = shell(root.path(), command);
        assert_eq!((printed.text, printed.exit_code), real, "{}: `{command}`", task.id);
    };
    compare(&world, "ls");
    compare(&world, &format!("cat {}", truth.issue_file));
    compare(&world, "cat nowhere.py");
    compare(&world, &format!("grep -rn \"def {}\" .", truth.issue_function));
    let mut edit = |old: &str, new: &str| {
        if old != new {
            world.replace(&truth.file, old, new).unwrap();
            std::fs::write(root.path().join(&truth.file), world.file(&truth.file).unwrap()).unwrap();
        }
        compare(&world, TEST_COMMAND);
        world.run(TEST_COMMAND).unwrap().exit_code
    };
    let mut in_place = truth.buggy;
    let order = (0..truth.candidates.len()).map(|step| (truth.buggy + step) % truth.candidates.len());
    for candidate in order {
        let exit_code = edit(&truth.candidates[in_place], &truth.candidates[candidate]);
        in_place = candidate;
        assert_eq!(exit_code == 0, candidate == truth.right, "{}: candidate {candidate}", task.id);
    }
    edit(&truth.candidates[in_place], &truth.candidates[truth.right]);
    if let Some(decoy) = &truth.decoy {
        assert_eq!(edit(&decoy.line, &decoy.spoilt), 1);
        assert_eq!(edit(&decoy.spoilt, &decoy.line), 0);
    }
    compare(&world, "ls");
}

fn check_split(split: Split) {
    let options = MiniOptions { families: Family::ALL.to_vec(), ..MiniOptions::standard(split, 5, 14) };
    generate(&options).unwrap().iter().for_each(check);
}

#[test]
fn every_family_of_the_train_split_prints_what_is_predicted() {
    check_split(Split::Train);
}

#[test]
fn every_family_of_the_eval_split_prints_what_is_predicted() {
    check_split(Split::Eval);
}
