//! Task suites: rows or generators, what an agent finds, and what judges it.

pub mod humanevalfix;
pub mod mini;

use sealign_manifest::{Digest, TaskFile};

/// The digest of what an agent finds in a suite whose tasks carry their files: the files and the interpreter, so that
/// embedded and cluster runs of the same task agree.
///
/// # Errors
/// When a path or content cannot be written as JSON, which no text can cause.
pub fn environment_digest(files: &[TaskFile], interpreter: &str) -> Result<Digest, serde_json::Error> {
    Digest::of_json(&("sealign-environment/1", interpreter, files))
}
