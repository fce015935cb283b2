//! A plain directory with a persistent shell, as an environment. **Not a sandbox**: commands run as this process's user with
//! everything it may do. For scripted policies that we wrote ourselves, and for tests; a model's commands belong into
//! `sealign-sandbox`.
//!
//! The directory's real path is written as the task's `workdir` wherever it shows in output, so that records do not depend
//! on where the directory lies.

mod capture;
mod shell;

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::TaskFile;

use self::shell::Shell;
use crate::environment::{DirEntry, Environment, EnvironmentError, FileRead, ShellOutput};

/// A directory where trusted commands run.
#[derive(Debug)]
pub struct DirectoryEnvironment {
    root: PathBuf,
    workdir: String,
    shell: Option<Shell>,
}

impl DirectoryEnvironment {
    /// Works in `root`, an existing directory, which commands and observations know as `workdir`.
    ///
    /// # Errors
    /// When `root` cannot be resolved.
    pub fn new(root: &Path, workdir: &str) -> std::io::Result<Self> {
        Ok(Self { root: root.canonicalize()?, workdir: workdir.to_owned(), shell: None })
    }

    /// Writes a task's files below the root.
    ///
    /// # Errors
    /// The first file that is refused or cannot be written.
    pub async fn write_files(&mut self, files: &[TaskFile]) -> Result<(), EnvironmentError> {
        for file in files {
            self.write_file(&file.path, file.content.as_bytes()).await?;
        }
        Ok(())
    }

    /// The real path of a relative one, which may not leave the root.
    fn resolve(&self, path: &str) -> Result<PathBuf, EnvironmentError> {
        let relative = Path::new(path);
        if relative.components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.root.join(relative))
        } else {
            Err(EnvironmentError::Refused(format!("path `{path}` leaves the task root")))
        }
    }

    /// Output as if the directory lay at `workdir`.
    fn shown(&self, text: &str) -> String {
        text.replace(&*self.root.to_string_lossy(), &self.workdir)
    }
}

fn lost(doing: &'static str, error: &std::io::Error) -> EnvironmentError {
    EnvironmentError::Lost(format!("{doing}: {error}"))
}

#[async_trait]
impl Environment for DirectoryEnvironment {
    async fn exec(&mut self, command: &str, timeout: Duration) -> Result<ShellOutput, EnvironmentError> {
        if command.contains('\0') {
            return Err(EnvironmentError::Refused("a command cannot hold the NUL character".to_owned()));
        }
        let mut shell = match self.shell.take() {
            Some(shell) => shell,
            None => {
                Shell::start(&self.root).map_err(|error| lost("the shell could not be started", &error))?
            }
        };
        let ran = shell.run(command, timeout).await.map_err(|error| lost("the shell failed", &error))?;
        if ran.keeps_shell {
            self.shell = Some(shell);
        } else {
            shell.end().await;
        }
        let cwd = ran.cwd.map_or_else(|| self.workdir.clone(), |cwd| self.shown(&cwd));
        Ok(ShellOutput {
            output: self.shown(&ran.output),
            exit_code: ran.exit_code,
            timed_out: ran.timed_out,
            truncated: ran.truncated,
            cwd: Some(cwd),
            limit: None,
        })
    }

    async fn read_file(&mut self, path: &str, bytes_max: usize) -> Result<FileRead, EnvironmentError> {
        use tokio::io::AsyncReadExt;
        let path = self.resolve(path)?;
        let file = match tokio::fs::File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(FileRead::Missing),
            Err(error) => return Err(EnvironmentError::Refused(error.kind().to_string())),
        };
        let metadata =
            file.metadata().await.map_err(|error| lost("a file could not be looked at", &error))?;
        if metadata.is_dir() {
            return Ok(FileRead::Directory);
        }
        if !metadata.is_file() {
            return Err(EnvironmentError::Refused("not a regular file".to_owned()));
        }
        let mut content = Vec::new();
        let read = file.take(bytes_max as u64).read_to_end(&mut content).await;
        read.map_err(|error| EnvironmentError::Refused(error.kind().to_string()))?;
        Ok(FileRead::File { content, total_bytes: metadata.len() })
    }

    async fn write_file(&mut self, path: &str, content: &[u8]) -> Result<(), EnvironmentError> {
        let path = self.resolve(path)?;
        let refused = |error: std::io::Error| EnvironmentError::Refused(error.kind().to_string());
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(refused)?;
        }
        tokio::fs::write(&path, content).await.map_err(refused)
    }

    async fn list_dir(
        &mut self,
        path: &str,
        depth: usize,
        entries_max: usize,
    ) -> Result<Vec<DirEntry>, EnvironmentError> {
        let top = self.resolve(path)?;
        let listing = tokio::task::spawn_blocking(move || list(&top, depth, entries_max));
        match listing.await {
            Ok(Ok(entries)) => Ok(entries),
            Ok(Err(error)) => Err(EnvironmentError::Refused(error.kind().to_string())),
            Err(stopped) => Err(EnvironmentError::Lost(stopped.to_string())),
        }
    }
}

/// Breadth first, so that the bound cuts the deepest names; sorted at the end.
fn list(top: &Path, depth: usize, entries_max: usize) -> std::io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    let mut level = vec![(top.to_owned(), String::new())];
    for _ in 0..depth {
        let mut below = Vec::new();
        for (directory, prefix) in level {
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
                let is_directory = entry.file_type()?.is_dir();
                if is_directory {
                    below.push((entry.path(), format!("{path}/")));
                }
                entries.push(DirEntry { path, is_directory });
                if entries.len() >= entries_max {
                    entries.sort_unstable();
                    return Ok(entries);
                }
            }
        }
        level = below;
    }
    entries.sort_unstable();
    Ok(entries)
}

/// A shell that is still there when the environment goes is killed with it.
impl Drop for DirectoryEnvironment {
    fn drop(&mut self) {
        if let Some(shell) = self.shell.take() {
            shell.kill();
        }
    }
}
