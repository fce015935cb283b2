//! The editor's commands and what the agent sees of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use sealign_agent::directory::DirectoryEnvironment;
use sealign_agent::harness::openhands::Profile;
use sealign_agent::harness::openhands::call::EditRequest;
use sealign_agent::harness::openhands::editor::Editor;
use serde_json::json;
use support::{FAULTY, WORKDIR, environment};
use tempfile::TempDir;

struct Desk {
    folder: TempDir,
    environment: DirectoryEnvironment,
    editor: Editor,
}

impl Desk {
    async fn new(profile: Profile) -> Self {
        let (folder, environment) = environment().await;
        Self { folder, environment, editor: Editor::new(profile, WORKDIR) }
    }

    async fn ask(&mut self, command: &str, path: &str, change: impl FnOnce(&mut EditRequest)) -> String {
        let mut request =
            EditRequest { command: command.into(), path: path.into(), ..EditRequest::default() };
        change(&mut request);
        self.editor.act(&request, &mut self.environment).await.unwrap()
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("calc.py")).unwrap()
    }
}

const FILE: &str = "/workspace/repo/calc.py";

#[tokio::test]
async fn a_view_numbers_lines_and_keeps_to_its_range() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    assert_eq!(
        desk.ask("view", FILE, |_| ()).await,
        "Here's the result of running `cat -n` on /workspace/repo/calc.py:\n     1\tdef add(a, b):\n     2\t    return a - b\n     3\t\n"
    );
    for range in [json!([2, 2]), json!([2, 2])] {
        let seen = desk.ask("view", FILE, |r| r.view_range = range.as_array().cloned()).await;
        assert!(seen.ends_with(":\n     2\t    return a - b\n"), "{seen}");
    }
    for range in
        [json!([]), json!([1]), json!([0, 2]), json!([4, 4]), json!([2, 1]), json!([1, 9]), json!(["a", 2])]
    {
        let seen = desk.ask("view", FILE, |r| r.view_range = range.as_array().cloned()).await;
        assert!(seen.starts_with("ERROR:\nInvalid `view_range`: "), "{range}: {seen}");
    }
}

#[tokio::test]
async fn a_directory_shows_two_levels_and_counts_hidden_names() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    for path in ["a/b/c.py", "a/d.py", ".git/config", ".hidden"] {
        let path = desk.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let seen = desk.ask("view", WORKDIR, |_| ()).await;
    let lines: Vec<&str> = seen.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "/workspace/repo/",
            "/workspace/repo/a/",
            "/workspace/repo/a/b/",
            "/workspace/repo/a/d.py",
            "/workspace/repo/calc.py",
            "",
            "2 hidden names are left out; `ls -la /workspace/repo` shows them."
        ]
    );
}

#[tokio::test]
async fn a_replacement_shows_a_snippet_and_can_be_undone() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    let seen = desk
        .ask("str_replace", FILE, |r| {
            r.old_str = Some("a - b".into());
            r.new_str = Some("a + b".into());
        })
        .await;
    assert!(
        seen.starts_with(
            "The file /workspace/repo/calc.py has been edited. Here's the result of running `cat -n` on a snippet of /workspace/repo/calc.py:\n     1\tdef add(a, b):\n     2\t    return a + b\n     3\t\n"
        ),
        "{seen}"
    );
    assert_eq!(desk.file(), "def add(a, b):\n    return a + b\n");
    let seen = desk.ask("undo_edit", FILE, |_| ()).await;
    assert!(seen.starts_with("Last edit to /workspace/repo/calc.py undone successfully. "), "{seen}");
    assert_eq!(desk.file(), FAULTY);
    let seen = desk.ask("undo_edit", FILE, |_| ()).await;
    assert_eq!(seen, "ERROR:\nNo edit history found for /workspace/repo/calc.py.");
}

#[tokio::test]
async fn replacements_that_are_not_exactly_one_change_nothing() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    let replace = |old: &'static str, new: Option<&'static str>| {
        move |r: &mut EditRequest| {
            r.old_str = Some(old.into());
            r.new_str = new.map(Into::into);
        }
    };
    assert_eq!(
        desk.ask("str_replace", FILE, replace("a * b", Some("x"))).await,
        "ERROR:\nNo replacement was performed, old_str `a * b` did not appear verbatim in /workspace/repo/calc.py."
    );
    let seen = desk.ask("str_replace", FILE, replace("a", Some("x"))).await;
    assert!(seen.contains("in lines [1, 1, 2]"), "{seen}");
    let seen = desk.ask("str_replace", FILE, replace("a - b", Some("a - b"))).await;
    assert!(seen.contains("must be different"), "{seen}");
    let seen = desk.ask("str_replace", FILE, replace("", Some("x"))).await;
    assert_eq!(seen, "ERROR:\nParameter `old_str` is required for command: str_replace.");
    assert_eq!(desk.file(), FAULTY);
    desk.ask("str_replace", FILE, replace(" - b", None)).await;
    assert_eq!(desk.file(), "def add(a, b):\n    return a\n");
}

#[tokio::test]
async fn an_insertion_goes_after_its_line() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    let insert = |line: i64| {
        move |r: &mut EditRequest| {
            r.insert_line = Some(line);
            r.new_str = Some("# one\n# two".into());
        }
    };
    for line in [-1, 4] {
        let seen = desk.ask("insert", FILE, insert(line)).await;
        assert!(
            seen.starts_with(&format!("ERROR:\nInvalid `insert_line`: {line}. It must be from 0 to 3")),
            "{seen}"
        );
    }
    desk.ask("insert", FILE, insert(0)).await;
    assert_eq!(desk.file(), format!("# one\n# two\n{FAULTY}"));
    let seen = desk.ask("insert", FILE, |r| r.insert_line = Some(1)).await;
    assert_eq!(seen, "ERROR:\nParameter `new_str` is required for command: insert.");
}

#[tokio::test]
async fn a_file_is_created_once() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    let text = |r: &mut EditRequest| r.file_text = Some("x = 1".into());
    let seen = desk.ask("create", "/workspace/repo/new/a.py", text).await;
    assert_eq!(seen, "File created successfully at: /workspace/repo/new/a.py");
    let seen = desk.ask("create", "/workspace/repo/new/a.py", text).await;
    assert!(seen.starts_with("ERROR:\nFile already exists at: /workspace/repo/new/a.py."), "{seen}");
    let seen = desk.ask("create", "/workspace/repo/b.py", |_| ()).await;
    assert_eq!(seen, "ERROR:\nParameter `file_text` is required for command: create.");
}

#[tokio::test]
async fn paths_outside_the_task_root_are_refused() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    for path in
        ["/etc/passwd", "/workspace/repo/../other", "/workspace/repository/x", "/", "calc.py", "../x", ""]
    {
        let seen = desk.ask("view", path, |_| ()).await;
        assert!(seen.starts_with("ERROR:\nThe path "), "{path}: {seen}");
    }
    let mut compact = Desk::new(Profile::Compact).await;
    assert_eq!(compact.ask("view", "./calc.py", |_| ()).await, FAULTY);
    assert_eq!(compact.ask("view", "../x", |_| ()).await, "ERROR:\nbad path");
}

#[tokio::test]
async fn binary_and_long_files_are_refused_or_clipped() {
    let mut desk = Desk::new(Profile::OpenHands024).await;
    std::fs::write(desk.folder.path().join("b.bin"), [0xff, 0, 1]).unwrap();
    let seen = desk.ask("view", "/workspace/repo/b.bin", |_| ()).await;
    assert!(seen.starts_with("ERROR:\nThe file /workspace/repo/b.bin is binary"), "{seen}");
    std::fs::write(desk.folder.path().join("long.py"), "é\n".repeat(20_000)).unwrap();
    let seen = desk.ask("view", "/workspace/repo/long.py", |_| ()).await;
    let (kept, notice) = seen.split_at(seen.find("<response clipped><NOTE>").unwrap());
    assert_eq!(kept.chars().count(), 16_000);
    assert!(notice.ends_with("</NOTE>"));
}

#[tokio::test]
async fn the_compact_wording_is_minimal_and_constant() {
    let mut desk = Desk::new(Profile::Compact).await;
    let replace = |r: &mut EditRequest| {
        r.old_str = Some("a - b".into());
        r.new_str = Some("a + b".into());
    };
    assert_eq!(desk.ask("str_replace", "calc.py", replace).await, "The file has been edited.");
    assert_eq!(desk.ask("str_replace", "calc.py", replace).await, "ERROR:\nold_str not found");
    assert_eq!(desk.ask("str_replace", "cal.py", replace).await, "ERROR:\nno such file");
}
