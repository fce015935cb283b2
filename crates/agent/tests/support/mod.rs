//! What several tests need: a small task in a directory, and calls as a model writes them.
#![allow(dead_code, reason = "each test program uses its own part")]

use sealign_agent::directory::DirectoryEnvironment;
use sealign_manifest::{Digest, Environment, Suite, Task, TaskFile, TestPlan};
use tempfile::TempDir;

/// Where the task root lies for the agent, wherever it really lies.
pub const WORKDIR: &str = "/workspace/repo";

pub const FAULTY: &str = "def add(a, b):\n    return a - b\n";

pub fn task() -> Task {
    let files = vec![TaskFile { path: "calc.py".into(), content: FAULTY.into() }];
    Task {
        id: "mini/add".into(),
        suite: Suite::Mini,
        repo: None,
        problem_statement: "add(2, 3) gives -1, expected 5".into(),
        environment: Environment {
            image: "none".into(),
            workdir: WORKDIR.into(),
            digest: Digest::of_bytes(b"environment"),
            files,
        },
        tests: TestPlan {
            fail_to_pass: vec![],
            pass_to_pass: vec![],
            files: vec![],
            command: vec![],
            timeout_seconds: 10,
        },
        gold_patch: None,
        truth: None,
    }
}

/// A directory with the task's files; it goes with the guard.
pub async fn environment() -> (TempDir, DirectoryEnvironment) {
    let folder = tempfile::tempdir().unwrap();
    let mut environment = DirectoryEnvironment::new(folder.path(), WORKDIR).unwrap();
    environment.write_files(&task().environment.files).await.unwrap();
    (folder, environment)
}

/// A call as a model writes it.
pub fn call(tool: &str, arguments: &[(&str, &str)]) -> String {
    let mut text = format!("<function={tool}>\n");
    for (name, value) in arguments {
        text += &["<parameter=", name, ">", value, "</parameter>\n"].concat();
    }
    text + "</function>"
}

pub fn bash(command: &str) -> String {
    call("execute_bash", &[("command", command)])
}

pub fn finish() -> String {
    call("finish", &[])
}

pub fn replace(old: &str, new: &str) -> String {
    call(
        "str_replace_editor",
        &[
            ("command", "str_replace"),
            ("path", "/workspace/repo/calc.py"),
            ("old_str", old),
            ("new_str", new),
        ],
    )
}
