//! Writing unified diffs in git's form.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sealign_manifest::TaskFile;

use super::lines::{Edit, Lines, edit_script};

/// Unchanged lines around a change, as git shows by default.
const CONTEXT: usize = 3;

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Path relative to the root.
    pub path: String,
    /// Content before; `None` for a new file.
    pub before: Option<String>,
    /// Content after; `None` for a deleted file.
    pub after: Option<String>,
}

/// The changes from one tree to another, sorted by path. Files that are equal in both are left out.
pub fn changes_between(before: &[TaskFile], after: &[TaskFile]) -> Vec<FileChange> {
    let mut paths: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for file in before {
        paths.entry(&file.path).or_default().0 = Some(&file.content);
    }
    for file in after {
        paths.entry(&file.path).or_default().1 = Some(&file.content);
    }
    let changed = paths.into_iter().filter(|(_, (before, after))| before != after);
    changed
        .map(|(path, (before, after))| FileChange {
            path: path.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        })
        .collect()
}

/// The changes as one unified diff; the empty text when there are none. `git apply` reads it.
pub fn unified_diff(changes: &[FileChange]) -> String {
    let mut text = String::new();
    for change in changes.iter().filter(|change| change.before != change.after) {
        write_file(&mut text, change);
    }
    text
}

fn write_file(text: &mut String, change: &FileChange) {
    let (old_name, new_name) = (quoted("a/", &change.path), quoted("b/", &change.path));
    let mut line = |content: &str| {
        text.push_str(content);
        text.push('\n');
    };
    line(&format!("diff --git {old_name} {new_name}"));
    match (&change.before, &change.after) {
        (None, _) => line("new file mode 100644"),
        (_, None) => line("deleted file mode 100644"),
        (Some(_), Some(_)) => {}
    }
    let (before, after) = (change.before.as_deref().unwrap_or(""), change.after.as_deref().unwrap_or(""));
    if before == after {
        // An empty file that comes or goes has a header and nothing else.
        return;
    }
    // git ends a name that holds a space with a tab, so that tools can tell where it ends.
    let tab = if change.path.contains(' ') { "\t" } else { "" };
    let name =
        |present: bool, name: &str| if present { format!("{name}{tab}") } else { "/dev/null".to_owned() };
    line(&format!("--- {}", name(change.before.is_some(), &old_name)));
    line(&format!("+++ {}", name(change.after.is_some(), &new_name)));
    write_hunks(text, &Lines::of(before), &Lines::of(after));
}

fn write_hunks(text: &mut String, old: &Lines<'_>, new: &Lines<'_>) {
    let script = edit_script(&old.tokens(), &new.tokens());
    let changed: Vec<usize> = script
        .iter()
        .enumerate()
        .filter(|(_, edit)| !matches!(edit, Edit::Keep(..)))
        .map(|(at, _)| at)
        .collect();
    let mut rest = changed.as_slice();
    while let Some(first) = rest.first() {
        // Changes that share context lines belong to one hunk.
        let joined =
            1 + rest.windows(2).take_while(|pair| matches!(pair, [a, b] if b - a <= 2 * CONTEXT + 1)).count();
        let (this, later) = rest.split_at(joined);
        let last = this.last().unwrap_or(first);
        let start = first.saturating_sub(CONTEXT);
        let end = (last + CONTEXT + 1).min(script.len());
        write_hunk(text, &script, start, end, old, new);
        rest = later;
    }
}

fn write_hunk(
    text: &mut String,
    script: &[Edit],
    start: usize,
    end: usize,
    old: &Lines<'_>,
    new: &Lines<'_>,
) {
    let count = |edits: &[Edit]| {
        let deletes = edits.iter().filter(|edit| matches!(edit, Edit::Delete(_))).count();
        let inserts = edits.iter().filter(|edit| matches!(edit, Edit::Insert(_))).count();
        (edits.len() - inserts, edits.len() - deletes)
    };
    let (before, edits) = (script.get(..start).unwrap_or(&[]), script.get(start..end).unwrap_or(&[]));
    let ((old_before, new_before), (old_count, new_count)) = (count(before), count(edits));
    // An empty side is said to start at the line before it.
    let first = |before: usize, count: usize| if count == 0 { before } else { before + 1 };
    let range =
        |start: usize, count: usize| if count == 1 { start.to_string() } else { format!("{start},{count}") };
    let _ = writeln!(
        text,
        "@@ -{} +{} @@",
        range(first(old_before, old_count), old_count),
        range(first(new_before, new_count), new_count)
    );
    for edit in edits {
        let (mark, lines, index) = match edit {
            Edit::Keep(index, _) => (' ', old, *index),
            Edit::Delete(index) => ('-', old, *index),
            Edit::Insert(index) => ('+', new, *index),
        };
        let _ = writeln!(text, "{mark}{}", lines.lines.get(index).unwrap_or(&""));
        if lines.lacks_newline(index) {
            text.push_str("\\ No newline at end of file\n");
        }
    }
}

/// A name as git writes it: in C quotes when it holds a quote, a backslash, a control character or a byte above 127.
fn quoted(prefix: &str, path: &str) -> String {
    let plain = path.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\');
    if plain {
        return format!("{prefix}{path}");
    }
    let mut text = format!("\"{prefix}");
    for byte in path.bytes() {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            0x20..0x7f => text.push(char::from(byte)),
            other => {
                let _ = write!(text, "\\{other:03o}");
            }
        }
    }
    text.push('"');
    text
}
