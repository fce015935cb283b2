//! Patches of our own survive reading, and hostile ones are refused by name.

use sealign_manifest::{Task, TaskFile};

use super::*;
use crate::draw::Draw;
use crate::suites::mini::{MiniOptions, MiniTruth, Split, generate};

fn file(path: &str, content: &str) -> TaskFile {
    TaskFile { path: path.into(), content: content.into() }
}

/// A text of few different lines, so that equal lines repeat; sometimes without a last line break, sometimes empty.
fn text(draw: &mut Draw) -> String {
    let lines = draw.below(12);
    let mut text: String =
        (0..lines).flat_map(|_| [draw.word(&["a", "b", "", " c", "+d", "-e", "\\f"]), "\n"]).collect();
    if draw.chance(0.2) && text.ends_with('\n') {
        text.pop();
    }
    text
}

#[test]
fn a_diff_applied_to_the_old_tree_gives_the_new_one() {
    let mut draw = Draw::new("patch", &[]);
    for _ in 0..600 {
        let paths = ["a.py", "dir/b.py", "dir/c d.py", "\u{e9}\"q.py"];
        let mut tree = || -> Vec<TaskFile> {
            let kept: Vec<&str> = paths.into_iter().filter(|_| draw.chance(0.7)).collect();
            let mut files: Vec<TaskFile> =
                kept.into_iter().map(|path| file(path, &text(&mut draw))).collect();
            files.sort();
            files
        };
        let (before, after) = (tree(), tree());
        let diff = unified_diff(&changes_between(&before, &after));
        let patch = Patch::parse(&diff).unwrap_or_else(|error| panic!("{error}:\n{diff}"));
        assert_eq!(apply(&before, &patch).unwrap(), after, "{diff}");
        assert_eq!(normalize(&diff).is_empty(), diff.is_empty());
    }
}

#[test]
fn a_patch_that_does_not_fit_changes_nothing() {
    let patch = Patch::parse("diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -2 +2 @@\n-two\n+TWO\n").unwrap();
    assert_eq!(apply(&[file("a", "one\ntwo\n")], &patch).unwrap(), [file("a", "one\nTWO\n")]);
    // One line further down: git would search for it, we do not.
    let moved = apply(&[file("a", "zero\none\ntwo\n")], &patch);
    assert_eq!(moved, Err(ApplyError::Mismatch { path: "a".into(), hunk: 1, line: 2 }));
    assert_eq!(apply(&[], &patch), Err(ApplyError::Missing("a".into())));
}

#[test]
fn new_files_do_not_replace_and_deleted_ones_must_be_known_whole() {
    let new =
        Patch::parse("diff --git a/a b/a\nnew file mode 100644\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+x\n")
            .unwrap();
    assert_eq!(apply(&[file("a", "y\n")], &new), Err(ApplyError::Exists("a".into())));
    let gone = Patch::parse(
        "diff --git a/a b/a\ndeleted file mode 100644\n--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
    )
    .unwrap();
    assert_eq!(apply(&[file("a", "x\n")], &gone).unwrap(), []);
    assert_eq!(apply(&[file("a", "x\ny\n")], &gone), Err(ApplyError::Rest("a".into())));
}

#[test]
fn a_file_below_another_file_is_refused() {
    let patch = "diff --git a/a/b b/a/b\nnew file mode 100644\n--- /dev/null\n+++ b/a/b\n@@ -0,0 +1 @@\n+x\n";
    let result = apply(&[file("a", "y\n")], &Patch::parse(patch).unwrap());
    assert_eq!(result, Err(ApplyError::Directory("a".into())));
}

#[test]
fn paths_that_leave_the_root_or_touch_git_are_refused() {
    let long = "a/".repeat(600) + "b";
    for path in [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        ".git/config",
        "a/.GIT/hooks/x",
        ".git. /x",
        "git~1/x",
        ".git::$INDEX_ALLOCATION/x",
        "a\\b",
        "a\nb",
        ".g\u{200c}it/x",
        &long,
    ] {
        assert!(check_path(path).is_err(), "{path:?} was accepted");
        if path.contains('\n') || path.is_empty() {
            continue;
        }
        let diff = unified_diff(&[FileChange { path: path.into(), before: None, after: Some("x\n".into()) }]);
        let refused = match Patch::parse(&diff) {
            Ok(patch) => apply(&[], &patch).is_err(),
            Err(_) => true,
        };
        assert!(refused, "a patch of {path:?} was applied");
    }
    for path in ["a.py", "dir/.gitignore", ".github/x.yml", "a b/c", "gitx/.gitmodules.py"] {
        assert_eq!(check_path(path), Ok(()), "{path:?} was refused");
    }
}

#[test]
fn what_is_no_change_of_a_text_file_is_refused_by_name() {
    let start = "diff --git a/a b/a\n";
    for (rest, name) in [
        (
            "new file mode 120000\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n",
            "symbolic link",
        ),
        ("new file mode 160000\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+x\n", "submodule"),
        ("old mode 100644\nnew mode 100755\n", "mode"),
        ("similarity index 100%\nrename from a\nrename to b\n", "rename"),
        ("GIT binary patch\nliteral 1\n", "binary"),
        ("Binary files a/a and b/a differ\n", "binary"),
    ] {
        let error = Patch::parse(&format!("{start}{rest}")).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn malformed_patches_are_errors_with_their_line() {
    for (text, line) in [
        ("hello\n", 1),
        ("diff --git a/a b/b\n", 2),
        ("diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n", 6),
        ("diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +9999999999 @@\n", 4),
        ("diff --git a/a b/a\n--- a/a\n@@ -1 +1 @@\n-x\n+y\n", 6),
        ("diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n\\ No newline at end of file\n-x\n+y\n", 5),
    ] {
        match Patch::parse(text) {
            Err(ParseError::Syntax { line: found, .. }) => assert_eq!(found, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let long = "x".repeat(PATCH_BYTES_MAX + 1);
    assert_eq!(Patch::parse(&long), Err(ParseError::TooLong(long.len())));
}

#[test]
fn recorded_patches_are_brought_into_our_form() {
    let block = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n";
    let binary = "diff --git a/i.png b/i.png\nindex 1..2 100644\nBinary files a/i.png and b/i.png differ\n";
    assert_eq!(normalize(&format!("noise\n{}\n\n", block.replace('\n', "\r\n"))), block);
    assert_eq!(normalize(&format!("{binary}{block}{binary}")), block);
    assert_eq!(normalize(" \n"), "");
    assert_eq!(normalize("no diff"), "");
}

fn task() -> (Task, MiniTruth) {
    let task = generate(&MiniOptions::guessing(Split::Train, 1, 1)).unwrap().remove(0);
    let truth = MiniTruth::of(&task).unwrap();
    (task, truth)
}

#[test]
fn a_rollouts_patch_leaves_out_tests_and_what_steers_the_interpreter() {
    let (task, truth) = task();
    let mut after = task.environment.files.clone();
    after.retain(|kept| kept.path != "check.py");
    for path in [
        ".sealign/cases.json",
        "conftest.py",
        "sitecustomize.py",
        "x.pth",
        "__pycache__/a.txt",
        "../up.py",
        "notes.txt",
    ] {
        after.push(file(path, "x\n"));
    }
    let filtered = rollout_patch(&task, &after);
    let reasons: Vec<DropReason> = filtered.dropped.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(filtered.dropped.len(), 6, "{:?}", filtered.dropped);
    assert_eq!(reasons.iter().filter(|reason| **reason == DropReason::Infrastructure).count(), 3);
    let patch = Patch::parse(&filtered.patch).unwrap();
    assert_eq!(patch.files.iter().map(FilePatch::path).collect::<Vec<_>>(), ["notes.txt"]);
    assert!(filtered.is_without_source_edit);

    let gold = Patch::parse(task.gold_patch.as_ref().unwrap()).unwrap();
    let fixed = filter(&task, &gold).unwrap();
    assert_eq!((&fixed.patch, fixed.is_without_source_edit), (task.gold_patch.as_ref().unwrap(), false));
    assert_eq!(gold.files[0].path(), truth.file);
    assert_eq!(rollout_patch(&task, &task.environment.files).patch, "");
}
