//! A line to whoever built the sandbox: a pipe of which the other end closes when that process ends, however it ends.
//!
//! A signal at the parent's death would come too late for a sandbox that is still being built when its parent dies.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use crate::os;

/// Exit code when the process at the other end is gone. Nobody is left to read it.
pub const EXIT_ORPHANED: i32 = 12;

/// Ends this process, and as PID 1 everything in the sandbox, once the other end of `line` closes.
///
/// # Errors
/// When the system gives no thread.
pub fn end_with(line: OwnedFd) -> io::Result<()> {
    // The server's own thread for SIGTERM is to be the only one that receives it.
    os::block_sigterm()?;
    std::thread::Builder::new().name("life".to_owned()).spawn(move || {
        let mut line = File::from(line);
        let mut byte = [0];
        loop {
            match line.read(&mut byte) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => std::process::exit(EXIT_ORPHANED),
            }
        }
    })?;
    Ok(())
}
