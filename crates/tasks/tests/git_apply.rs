//! git reads our diffs, and we read git's.
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

use sealign_manifest::TaskFile;
use sealign_tasks::draw::Draw;
use sealign_tasks::patch::{Patch, apply, changes_between, unified_diff};

fn git(root: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false"])
        .args(arguments)
        .current_dir(root)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(draw: &mut Draw) -> String {
    let words = [
        "alpha",
        "beta",
        "",
        "  gamma",
        "+delta",
        "-epsilon",
        "@@ -1 +1 @@",
        "\\ zeta",
        "diff --git a/x b/x",
        "\u{e9}t\u{e9}",
    ];
    let mut text: String = (0..draw.below(30)).flat_map(|_| [draw.word(&words), "\n"]).collect();
    if draw.chance(0.2) && text.ends_with('\n') {
        text.pop();
    }
    text
}

/// A text with a few lines changed, so that hunks are apart and share context.
fn edited(text: &str, draw: &mut Draw) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for _ in 0..draw.below(4) {
        let at = draw.below(lines.len());
        match draw.below(3) {
            0 => lines[at] = "changed".into(),
            1 => lines.insert(at, "inserted".into()),
            _ => drop(lines.remove(at)),
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

fn trees(draw: &mut Draw) -> (Vec<TaskFile>, Vec<TaskFile>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for number in 0..120 {
        let path = match number % 4 {
            0 => format!("f{number}.py"),
            1 => format!("dir/f{number}.py"),
            2 => format!("with space/f {number}.py"),
            _ => format!("quo\"te/\u{fc}{number}.py"),
        };
        let old = text(draw);
        let new = if draw.chance(0.7) { edited(&old, draw) } else { text(draw) };
        if draw.chance(0.9) {
            before.push(TaskFile { path: path.clone(), content: old });
        }
        if draw.chance(0.9) {
            after.push(TaskFile { path, content: new });
        }
    }
    before.sort();
    after.sort();
    (before, after)
}

fn write_tree(root: &Path, files: &[TaskFile]) {
    for file in files {
        let path = root.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.content).unwrap();
    }
}

fn read_tree(root: &Path, files: &[TaskFile]) -> Vec<TaskFile> {
    let listed = git(root, &["ls-files", "-z", "--cached", "--others"]);
    let mut found: Vec<TaskFile> = listed
        .split('\0')
        .filter(|path| !path.is_empty() && root.join(path).exists())
        .map(|path| TaskFile {
            path: path.into(),
            content: std::fs::read_to_string(root.join(path)).unwrap(),
        })
        .collect();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), files.len());
    found
}

#[test]
fn git_and_we_make_the_same_trees_of_each_others_diffs() {
    for round in 0..5 {
        let mut draw = Draw::new("git", &[&round.to_string()]);
        let (before, after) = trees(&mut draw);
        let root = tempfile::tempdir().unwrap();
        git(root.path(), &["init", "--quiet"]);
        write_tree(root.path(), &before);
        git(root.path(), &["add", "-A"]);
        git(root.path(), &["commit", "--quiet", "-m", "before"]);

        let ours = unified_diff(&changes_between(&before, &after));
        assert_eq!(apply(&before, &Patch::parse(&ours).unwrap()).unwrap(), after);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ours.patch");
        std::fs::write(&file, &ours).unwrap();
        git(root.path(), &["apply", "--whitespace=nowarn", file.to_str().unwrap()]);
        assert_eq!(read_tree(root.path(), &after), after);

        git(root.path(), &["add", "-A"]);
        let theirs = git(root.path(), &["diff", "--no-color", "--no-renames", "--cached", "HEAD"]);
        let patch = Patch::parse(&theirs).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(apply(&before, &patch).unwrap(), after);
    }
}
