//! The seeded bugs of `tests/seeded` still fit the sources: each is one change of one place that exists once, and every class
//! of bugs has several. That each is caught is what `tests/seeded/run.py` shows; it builds for many minutes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Fewest bugs that the tier may shrink to.
const BUGS_MIN: usize = 60;
/// Fewest bugs of a class.
const BUGS_OF_A_CLASS_MIN: usize = 3;
/// Fewest bugs of a part that every campaign goes through.
const BUGS_OF_A_PART_MIN: usize = 10;

/// Classes of bugs; `tests/seeded/README.md` says what each means.
const CLASSES: [&str; 18] = [
    "boundary",
    "clock",
    "crash",
    "create",
    "double-count",
    "fairness",
    "fault-category",
    "hot-loop",
    "lost-result",
    "orphans",
    "paging",
    "size",
    "spec-change",
    "stale",
    "time-travel",
    "two-leaders",
    "unobserved",
    "verdict",
];

/// Parts of the system.
const PARTS: [&str; 6] = ["operator", "runner", "sandbox", "store", "embedded", "evaluation"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Bug {
    id: String,
    fields: Value,
}

impl Bug {
    fn text(&self, field: &str) -> &str {
        let text = self.fields.get(field).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{}: no `{field}`", self.id))
    }
}

/// Every bug, in the order of the files.
fn bugs() -> Vec<Bug> {
    let mut bugs = Vec::new();
    for part in PARTS {
        let path = root().join(format!("tests/seeded/bugs/{part}.json"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let listed: Vec<Value> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for fields in listed {
            let id = fields.get("id").and_then(Value::as_str).expect("every bug has an id").to_owned();
            assert_eq!(
                fields.get("part").and_then(Value::as_str),
                Some(part),
                "{id} stands in another part's file"
            );
            bugs.push(Bug { id, fields });
        }
    }
    bugs
}

fn count_by(bugs: &[Bug], field: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for bug in bugs {
        *counts.entry(bug.text(field).to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn every_seeded_bug_changes_one_place_that_exists_once() {
    for bug in bugs() {
        let file = bug.text("file");
        let source = std::fs::read_to_string(root().join(file))
            .unwrap_or_else(|error| panic!("{}: {file}: {error}", bug.id));
        let (find, replace) = (bug.text("find"), bug.fields.get("replace").and_then(Value::as_str));
        let found = source.matches(find).count();
        assert_eq!(
            found, 1,
            "{}: its `find` is {found} times in {file}: follow the source, or replace the bug",
            bug.id
        );
        assert!(
            replace.is_some_and(|replace| replace != find),
            "{}: `replace` has to be another text",
            bug.id
        );
    }
}

#[test]
fn every_seeded_bug_says_why_it_is_one_and_which_test_catches_it() {
    let bugs = bugs();
    let ids: BTreeSet<&str> = bugs.iter().map(|bug| bug.id.as_str()).collect();
    assert_eq!(ids.len(), bugs.len(), "an id is used twice");
    for bug in &bugs {
        assert!(bug.text("why").ends_with('.'), "{}: `why` is a sentence", bug.id);
        let commands = bug.fields.get("catch").and_then(Value::as_array).expect("`catch` is a list");
        assert!(!commands.is_empty(), "{}: no test catches it", bug.id);
        for command in commands {
            let words: Vec<&str> = command.as_str().unwrap().split(' ').collect();
            let is_known = matches!(
                words.as_slice(),
                ["-p", package, "--lib", _] | ["-p", package, "--test", _, _] if package.starts_with("sealign-")
            );
            assert!(is_known, "{}: `{command}` is not `-p PACKAGE --lib|--test TARGET FILTER`", bug.id);
        }
    }
}

#[test]
fn every_class_and_part_has_several_seeded_bugs() {
    let bugs = bugs();
    assert!(bugs.len() >= BUGS_MIN, "{} bugs are fewer than {BUGS_MIN}", bugs.len());
    let classes = count_by(&bugs, "class");
    let known: BTreeSet<&str> = classes.keys().map(String::as_str).collect();
    assert_eq!(known, BTreeSet::from(CLASSES));
    for (class, count) in &classes {
        assert!(*count >= BUGS_OF_A_CLASS_MIN, "class {class} has {count}");
    }
    let parts = count_by(&bugs, "part");
    for part in ["operator", "runner", "sandbox", "store"] {
        assert!(parts.get(part).is_some_and(|count| *count >= BUGS_OF_A_PART_MIN), "{part}: {parts:?}");
    }
}
