//! What every task process starts with: directory, environment, limits. Nothing of the server's own environment gets there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::limits::Rlimit;
use crate::processes::Processes;

/// What every task process starts with.
#[derive(Debug)]
pub struct Launcher {
    /// Where it is counted.
    pub processes: Arc<Processes>,
    /// The shell of [`crate::shell`]; `None` in a sandbox that has none.
    pub shell: Option<PathBuf>,
    /// Its working directory.
    pub root: PathBuf,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its resource limits.
    pub rlimits: Vec<Rlimit>,
}

impl Launcher {
    /// A command with the environment and directory of task code, and nothing of ours.
    pub fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.environment).current_dir(&self.root);
        command
    }
}
