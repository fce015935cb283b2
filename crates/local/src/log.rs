//! What programs write on standard output and error, in files of bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// Bytes of one log file. A full one is kept as `.1` until the next is full, so the last of these bytes are always there.
pub const LOG_BYTES_MAX: u64 = 512 * 1024;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Reads what a command's process will write.
#[derive(Debug)]
pub struct Log {
    reader: Receiver,
    path: PathBuf,
}

impl Log {
    /// Sends `command`'s output to the file at `path`, which appears with the first byte.
    ///
    /// # Errors
    /// When the system gives no pipe.
    pub fn attach(command: &mut Command, path: PathBuf) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let reader = Receiver::from_owned_fd(OwnedFd::from(reader))?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        Ok(Self { reader, path })
    }

    /// Copies until every writer has closed. Output that cannot be written is dropped: the program matters more.
    pub async fn copy(mut self) {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut file: Option<(File, u64)> = None;
        loop {
            let count = match self.reader.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            let bytes = chunk.get(..count).unwrap_or_default();
            file = append(&self.path, file.take(), bytes)
                .inspect_err(
                    |error| tracing::warn!(path = %self.path.display(), %error, "output was dropped"),
                )
                .ok();
        }
    }
}

fn append(path: &Path, file: Option<(File, u64)>, bytes: &[u8]) -> io::Result<(File, u64)> {
    let (mut file, size) = match file {
        Some((file, size)) if size < LOG_BYTES_MAX => (file, size),
        full => {
            if full.is_some() {
                std::fs::rename(path, path.with_extension("log.1"))?;
            }
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let size = file.metadata()?.len();
            (file, size)
        }
    };
    file.write_all(bytes)?;
    Ok((file, size + bytes.len() as u64))
}

/// The last lines of a log, at most `bytes_max` of it, with control characters made visible: programs wrote them.
pub fn tail(path: &Path, bytes_max: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes_max);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let visible = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.trim_end().chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_keeps_the_end_of_a_flood_within_its_bound() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("p.log");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo last words"]);
        let log = Log::attach(&mut command, path.clone()).unwrap();
        let mut child = command.spawn().unwrap();
        drop(command);
        log.copy().await;
        child.wait().unwrap();
        let sizes: u64 =
            std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes <= 2 * (LOG_BYTES_MAX + CHUNK_BYTES as u64), "{sizes}");
        assert!(tail(&path, 100).ends_with("xlast words"));
    }

    #[test]
    fn terminal_escapes_in_logs_are_made_visible() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("p.log");
        std::fs::write(&path, b"a\x1b[31mb\n").unwrap();
        assert_eq!(tail(&path, 100), "a\u{fffd}[31mb");
    }
}
