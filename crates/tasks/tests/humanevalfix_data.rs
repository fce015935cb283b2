//! The real rows: every canonical solution is resolved and no buggy one is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and this one reads files and runs programs"
)]

mod local_sandbox;

use std::path::PathBuf;

use local_sandbox::grade;
use sealign_manifest::{Task, Verdict};
use sealign_tasks::suites::humanevalfix::{prediction_patch, read_rows};

fn shared_data() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("SEALIGN_SHARED_DATA").map_or_else(beside, PathBuf::from);
    root.is_dir().then_some(root)
}

fn rows() -> Option<(Vec<Task>, Vec<serde_json::Value>)> {
    let Some(root) = shared_data() else {
        println!("skipped: no shared data");
        return None;
    };
    let bytes = std::fs::read(root.join("humanevalfix/humanevalfix_python.jsonl")).unwrap();
    let raw = String::from_utf8(bytes.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    Some((read_rows(&bytes, "python:3.12-slim", "python3").unwrap(), raw))
}

/// Rows are judged by this many threads.
const THREADS: usize = 4;

/// Every `step`-th row.
fn check(step: usize) {
    let Some((tasks, raw)) = rows() else { return };
    assert_eq!(tasks.len(), raw.len());
    let chosen: Vec<(&Task, &serde_json::Value)> = tasks.iter().zip(&raw).step_by(step).collect();
    let judged: Vec<[bool; 3]> = std::thread::scope(|scope| {
        let chosen = &chosen;
        let start =
            |thread| scope.spawn(move || chosen.iter().skip(thread).step_by(THREADS).map(judge).collect());
        let threads: Vec<std::thread::ScopedJoinHandle<'_, Vec<[bool; 3]>>> =
            (0..THREADS).map(start).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = |at: usize| judged.iter().filter(|resolved| resolved[at]).count();
    let all = judged.len();
    println!("{all} rows: canonical {}, gold patches {}, buggy {} resolved", count(0), count(1), count(2));
    assert_eq!([count(0), count(1), count(2)], [all, all, 0]);
}

/// Whether the canonical solution, the gold patch and the buggy solution are resolved.
fn judge((task, row): &(&Task, &serde_json::Value)) -> [bool; 3] {
    let predict = |field: &str| prediction_patch(task, row[field].as_str().unwrap()).unwrap();
    let patches =
        [predict("canonical_solution"), task.gold_patch.clone().unwrap(), predict("buggy_solution")];
    patches.map(|patch| {
        let judgement = grade(task, &patch);
        println!("{}: {:?} ({})", task.id, judgement.verdict, judgement.detail);
        judgement.verdict == Verdict::Resolved
    })
}

#[test]
fn a_whole_function_is_judged_like_its_body() {
    let Some((tasks, rows)) = rows() else { return };
    for (task, row) in tasks.iter().zip(&rows).step_by(40) {
        let text = |field: &str| row[field].as_str().unwrap();
        for field in ["canonical_solution", "buggy_solution"] {
            let body = grade(task, &prediction_patch(task, text(field)).unwrap());
            let whole = format!("{}{}", text("declaration"), text(field));
            let function = grade(task, &prediction_patch(task, &whole).unwrap());
            assert_eq!(body.verdict, function.verdict, "{}: {field}", task.id);
        }
    }
}

#[test]
fn one_row_in_twenty_is_judged_as_published() {
    check(20);
}

#[test]
#[ignore = "half a minute on a quiet machine: every row"]
fn all_rows_are_judged_as_published() {
    check(1);
}
