//! Pure crates reach no runtime, no client, no store and no tensor library, and ban clocks and files by lint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that decide and compute, and their folders.
const PURE: [(&str, &str); 7] = [
    ("sealign-manifest", "crates/manifest"),
    ("sealign-plan", "crates/plan"),
    ("sealign-trajectory", "crates/trajectory"),
    ("sealign-forest", "crates/forest"),
    ("sealign-batch", "crates/batch"),
    ("sealign-tasks", "crates/tasks"),
    ("sealign-report", "crates/report"),
];

/// What none of them may reach through any dependency.
const IMPURE: [&str; 7] = ["tokio", "kube-client", "kube-runtime", "object_store", "tch", "reqwest", "hyper"];

/// What the lints of each must ban: `clippy.toml` files do not add up, so every crate repeats the list.
const BANNED: [&str; 5] = [
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "std::env::var",
    "std::fs::read",
    "std::fs::write",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn pure_crates_reach_nothing_impure() {
    for (package, _) in PURE {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--package", package, "--edges", "normal", "--prefix", "none"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(tree.starts_with(package), "cargo tree printed another package: {tree}");
        for line in tree.lines() {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(!IMPURE.contains(&name), "{package} is pure but reaches {name}");
        }
    }
}

#[test]
fn pure_crates_ban_clocks_files_and_environment() {
    for (package, folder) in PURE {
        let path = root().join(folder).join("clippy.toml");
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for banned in BANNED {
            assert!(
                text.contains(&format!("\"{banned}\"")),
                "{package}: its clippy.toml does not ban {banned}"
            );
        }
    }
}

#[test]
fn no_crate_but_storage_names_object_store() {
    for entry in
        walkdir::WalkDir::new(root()).max_depth(3).into_iter().filter_entry(|e| !is_skipped(e.path()))
    {
        let path = entry.unwrap().into_path();
        if path.file_name().is_none_or(|name| name != "Cargo.toml") || path.parent() == Some(&root()) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let depends = text.lines().any(|line| line.starts_with("object_store"));
        let is_storage = path.ends_with("crates/storage/Cargo.toml");
        let is_root = text.contains("[workspace]");
        assert!(!depends || is_storage || is_root, "{} depends on object_store", path.display());
    }
}

fn is_skipped(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "target" || name == ".git" || name == ".torch")
}
