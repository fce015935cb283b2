//! Files of the task root. Paths are relative to it, with `/`, without `.`, `..` or empty components; no symbolic link is
//! ever followed, and nothing outside the root can be named.

use serde::{Deserialize, Serialize};

use crate::base64::Bytes;

/// Writes files, each as a new file in place of what was there; parents are created. Stops at the first refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WriteFiles {
    /// The files, at most [`super::FILES_MAX`].
    pub files: Vec<FileWrite>,
}

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileWrite {
    /// Where, relative to the task root.
    pub path: String,
    /// The whole content.
    pub content: Bytes,
    /// Permission bits, 0 to `0o777`.
    pub mode: u32,
}

/// Removes files; one that is absent is no error. Directories are left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoveFiles {
    /// Paths relative to the task root, at most [`super::FILES_MAX`].
    pub paths: Vec<String>,
}

/// Reads the beginning of a regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadFile {
    /// Where, relative to the task root.
    pub path: String,
    /// Most bytes to return; at most 16 MiB.
    pub max_bytes: usize,
}

/// A file's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadFileReply {
    /// The first `max_bytes` bytes, or all.
    pub content: Bytes,
    /// The file's size in bytes.
    pub total_bytes: u64,
    /// Permission bits.
    pub mode: u32,
}

/// Lists a directory of the task root and what lies below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct List {
    /// The directory, relative to the task root; empty for the root.
    pub path: String,
    /// How many levels: 1 lists only the directory's own entries.
    pub depth: usize,
    /// Most entries to return; at most [`super::FILES_MAX`].
    pub max_entries: usize,
}

/// Entries, sorted by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListReply {
    /// What was found, sorted by path in byte order.
    pub entries: Vec<Entry>,
    /// Whether more was there than the bounds allowed.
    pub is_truncated: bool,
}

/// One name in the task root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Relative to the task root. Bytes that are not UTF-8 became U+FFFD.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Size in bytes (of a link: the length of its target).
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, never followed.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// Records the task root as it is now: paths, modes, digests, and contents within bounds. A second seal replaces the
/// first. Directories themselves are not recorded (as in git).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seal {
    /// Names left out wherever they occur (`.git`, `__pycache__`), here and in `changes`; at most 64.
    #[serde(default)]
    pub skip_names: Vec<String>,
}

/// What was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealReply {
    /// Files and links recorded.
    pub files: usize,
    /// Files whose content was too large to keep; `changes` has only digests for their old side.
    pub without_content: usize,
    /// SHA-256 over the sorted records (path, kind, executable bit, content digest), 64 hexadecimal digits.
    pub digest: String,
}

/// What differs from the sealed tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Changes {
    /// Contents above this size are left out, on either side.
    pub max_file_bytes: usize,
    /// Contents are left out once this many bytes are in the reply; at most 16 MiB.
    pub max_total_bytes: usize,
}

/// The changes, sorted by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangesReply {
    /// Sorted by path in byte order, at most [`super::FILES_MAX`].
    pub changes: Vec<Change>,
    /// Whether changes themselves (not only contents) are missing because there were too many.
    pub is_truncated: bool,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Relative to the task root. Bytes that are not UTF-8 became U+FFFD.
    pub path: String,
    /// In which way.
    pub kind: ChangeKind,
    /// The sealed side; absent for an added path.
    pub old: Option<FileState>,
    /// The present side; absent for a deleted path.
    pub new: Option<FileState>,
}

/// In which way a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// Not in the sealed tree.
    Added,
    /// In both, with another content, kind or executable bit.
    Modified,
    /// Only in the sealed tree.
    Deleted,
}

/// One side of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileState {
    /// A file, a link (its content is its target) or something else (without content).
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, 64 hexadecimal digits; empty for kinds without content.
    pub digest: String,
    /// The content, unless it was over a bound.
    pub content: Option<Bytes>,
}
