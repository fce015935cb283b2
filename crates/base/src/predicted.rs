//! An environment that predicts what commands print.

use std::time::Duration;

use async_trait::async_trait;
use sealign_agent::environment::{DirEntry, Environment, EnvironmentError, FileRead, ShellOutput};
use sealign_tasks::suites::mini::world::World;

/// A task's repository without a shell: whatever is not predicted ends the attempt as lost, and its text is not used.
#[derive(Clone, Debug)]
pub struct PredictedEnvironment {
    world: World,
}

impl PredictedEnvironment {
    /// The repository as the agent finds it.
    pub fn new(world: World) -> Self {
        Self { world }
    }

    /// The repository as it is now.
    pub fn world(&self) -> &World {
        &self.world
    }
}

#[async_trait]
impl Environment for PredictedEnvironment {
    async fn exec(&mut self, command: &str, _timeout: Duration) -> Result<ShellOutput, EnvironmentError> {
        let printed = self
            .world
            .run(command)
            .ok_or_else(|| EnvironmentError::Lost(format!("`{command}` is not predicted")))?;
        Ok(ShellOutput {
            output: printed.text,
            exit_code: Some(printed.exit_code),
            cwd: None,
            ..ShellOutput::default()
        })
    }

    async fn read_file(&mut self, path: &str, bytes_max: usize) -> Result<FileRead, EnvironmentError> {
        Ok(match self.world.file(path) {
            Some(content) => FileRead::File {
                content: content.as_bytes().iter().copied().take(bytes_max).collect(),
                total_bytes: content.len() as u64,
            },
            None if path.is_empty() => FileRead::Directory,
            None => FileRead::Missing,
        })
    }

    async fn write_file(&mut self, path: &str, content: &[u8]) -> Result<(), EnvironmentError> {
        let content = String::from_utf8(content.to_vec())
            .map_err(|_| EnvironmentError::Refused("not UTF-8".to_owned()))?;
        self.world.write(path, content);
        Ok(())
    }

    async fn list_dir(
        &mut self,
        _path: &str,
        _depth: usize,
        _entries_max: usize,
    ) -> Result<Vec<DirEntry>, EnvironmentError> {
        Err(EnvironmentError::Lost("directory listings are not predicted".to_owned()))
    }
}
