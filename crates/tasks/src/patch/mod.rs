//! Patches: what leaves a sandbox, and the only thing that enters a grading one.
//!
//! We write git-style unified diffs ourselves and read them ourselves, with bounds and without fuzz: no `patch`, no
//! `git apply --reject`, no three-way merge. A path policy decides what may be touched at all ([`policy`]).
//!
//! Deliberately not here: binary patches, renames that change content, modes and symbolic links. They are refused by
//! name.
//!
//! Start with [`rollout_patch`] (after a rollout) and [`apply`] (before a grading).

mod apply;
mod lines;
mod parse;
mod policy;
mod write;

#[cfg(test)]
mod tests;

pub use apply::{ApplyError, apply};
pub use parse::{FilePatch, Hunk, HunkLine, LineKind, PATCH_BYTES_MAX, ParseError, Patch};
pub use policy::{DropReason, Filtered, PathError, check_path, filter, normalize, rollout_patch};
pub use write::{FileChange, changes_between, unified_diff};
