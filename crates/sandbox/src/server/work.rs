//! The requests that do something, one at a time: bounds are checked here, then the organ that the request names does it.

use std::io::Read as _;
use std::sync::{Arc, Mutex, TryLockError};

use crate::files::{RelativePath, Root};
use crate::isolated;
use crate::launcher::Launcher;
use crate::protocol::{COMMAND_BYTES_MAX, ExecIsolatedReply, ExecReply, SealReply};
use crate::protocol::{
    Call, Changes, Claim, Done, ErrorCode, ErrorReply, Exec, ExecIsolated, FILES_MAX, Finish, List,
    OUTPUT_CAP_BYTES_MAX, Ping, ReadFile, RemoveFiles, Seal, TIMEOUT_SECONDS_MAX, WriteFiles,
};
use crate::shell::{self, Shell};
use crate::tree::{self, Sealed};
use crate::watch::Watch;

/// Most arguments and most variables of an isolated program.
const WORDS_MAX: usize = 4096;
/// Variables that would reach into the loader or look like ours.
const REFUSED_VARIABLES: [&str; 2] = ["SEALIGN_", "LD_"];

/// What requests work on.
pub(super) struct Workbench {
    root: Root,
    launcher: Launcher,
    watch: Arc<Watch>,
    shell: Option<Shell>,
    sealed: Option<Sealed>,
}

/// Largest body of a request to `path`, or `None` where there is no such request.
pub(super) fn body_limit(path: &str) -> Option<usize> {
    let limit = match path {
        Claim::PATH => Claim::BODY_BYTES_MAX,
        Ping::PATH => Ping::BODY_BYTES_MAX,
        Exec::PATH => Exec::BODY_BYTES_MAX,
        ExecIsolated::PATH => ExecIsolated::BODY_BYTES_MAX,
        WriteFiles::PATH => WriteFiles::BODY_BYTES_MAX,
        RemoveFiles::PATH => RemoveFiles::BODY_BYTES_MAX,
        ReadFile::PATH => ReadFile::BODY_BYTES_MAX,
        List::PATH => List::BODY_BYTES_MAX,
        Seal::PATH => Seal::BODY_BYTES_MAX,
        Changes::PATH => Changes::BODY_BYTES_MAX,
        Finish::PATH => Finish::BODY_BYTES_MAX,
        _ => return None,
    };
    Some(limit)
}

/// Parses `body`, does `act`, serialises what it returns.
pub(super) fn run<C: Call>(
    body: &[u8],
    act: impl FnOnce(C) -> Result<C::Reply, ErrorReply>,
) -> Result<Vec<u8>, ErrorReply> {
    let request: C = serde_json::from_slice(body)
        .map_err(|error| ErrorReply::new(ErrorCode::BadRequest, format!("body of {}: {error}", C::PATH)))?;
    let reply = act(request)?;
    serde_json::to_vec(&reply)
        .map_err(|error| ErrorReply::new(ErrorCode::Io, format!("serialise the reply: {error}")))
}

/// Does the request to `path`, unless another is at work.
pub(super) fn dispatch(work: &Mutex<Workbench>, path: &str, body: &[u8]) -> Result<Vec<u8>, ErrorReply> {
    let mut bench = match work.try_lock() {
        Ok(bench) => bench,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return Err(ErrorReply::new(
                ErrorCode::Busy,
                "another request is at work; send one after the other",
            ));
        }
    };
    match path {
        Exec::PATH => run(body, |request| bench.exec(&request)),
        ExecIsolated::PATH => run(body, |request| bench.exec_isolated(&request)),
        WriteFiles::PATH => run(body, |request: WriteFiles| {
            at_most("files", request.files.len(), FILES_MAX)?;
            bench.root.write(&request).map(|()| Done {})
        }),
        RemoveFiles::PATH => run(body, |request: RemoveFiles| {
            at_most("paths", request.paths.len(), FILES_MAX)?;
            bench.root.remove(&request).map(|()| Done {})
        }),
        ReadFile::PATH => run(body, |request| bench.root.read(&request)),
        List::PATH => run(body, |request| bench.root.list(&request)),
        Seal::PATH => run(body, |request| bench.seal(request)),
        Changes::PATH => run(body, |request| match &bench.sealed {
            Some(sealed) => tree::changes(&bench.root, sealed, &request),
            None => Err(ErrorReply::new(ErrorCode::NotSealed, "changes: send a seal first")),
        }),
        Finish::PATH => run(body, |_: Finish| Ok(Done {})),
        _ => Err(ErrorReply::new(ErrorCode::BadRequest, format!("path {path:?}: not of this protocol"))),
    }
}

impl Workbench {
    pub(super) fn new(root: Root, launcher: Launcher, watch: Arc<Watch>) -> Self {
        Self { root, launcher, watch, shell: None, sealed: None }
    }

    fn exec(&mut self, request: &Exec) -> Result<ExecReply, ErrorReply> {
        at_most("command", request.command.len(), COMMAND_BYTES_MAX)?;
        without_nul("command", &request.command)?;
        check_timeout(request.timeout_seconds)?;
        at_most("outputCapBytes", request.output_cap_bytes, OUTPUT_CAP_BYTES_MAX)?;
        let nonce =
            nonce().map_err(|error| ErrorReply::new(ErrorCode::Io, format!("read /dev/urandom: {error}")))?;
        shell::exec(&mut self.shell, &self.launcher, &self.watch, request, &nonce)
    }

    fn exec_isolated(&mut self, request: &ExecIsolated) -> Result<ExecIsolatedReply, ErrorReply> {
        check_timeout(request.timeout_seconds)?;
        at_most("stdoutCapBytes", request.stdout_cap_bytes, OUTPUT_CAP_BYTES_MAX)?;
        at_most("stderrCapBytes", request.stderr_cap_bytes, OUTPUT_CAP_BYTES_MAX)?;
        at_most("argv", request.argv.len(), WORDS_MAX)?;
        at_most("env", request.env.len(), WORDS_MAX)?;
        if request.argv.first().is_none_or(String::is_empty) {
            return Err(ErrorReply::new(ErrorCode::BadRequest, "argv: needs a program"));
        }
        for word in request.argv.iter().chain(request.env.keys()).chain(request.env.values()) {
            without_nul("argv and env", word)?;
        }
        for name in request.env.keys() {
            if name.is_empty()
                || name.contains('=')
                || REFUSED_VARIABLES.iter().any(|start| name.starts_with(start))
            {
                return Err(ErrorReply::new(ErrorCode::BadRequest, format!("env: {name:?} is not allowed")));
            }
        }
        if let Some(shell) = self.shell.take() {
            shell.end(&self.launcher);
        }
        if !request.cwd.is_empty() {
            self.root.check_directory(&RelativePath::parse(&request.cwd)?, &request.cwd)?;
        }
        isolated::run(&self.launcher, &self.watch, request)
    }

    fn seal(&mut self, request: Seal) -> Result<SealReply, ErrorReply> {
        let (sealed, reply) = tree::seal(&self.root, request)?;
        self.sealed = Some(sealed);
        Ok(reply)
    }
}

fn at_most(field: &str, value: usize, limit: usize) -> Result<(), ErrorReply> {
    if value <= limit {
        return Ok(());
    }
    Err(ErrorReply::new(ErrorCode::TooLarge, format!("{field}: {value} is over {limit}")))
}

fn check_timeout(seconds: u64) -> Result<(), ErrorReply> {
    if (1..=TIMEOUT_SECONDS_MAX).contains(&seconds) {
        return Ok(());
    }
    let text = format!("timeoutSeconds: {seconds} is not within 1 and {TIMEOUT_SECONDS_MAX}");
    Err(ErrorReply::new(ErrorCode::BadRequest, text))
}

fn without_nul(field: &str, text: &str) -> Result<(), ErrorReply> {
    if text.contains('\0') {
        Err(ErrorReply::new(ErrorCode::BadRequest, format!("{field}: has a NUL in it")))
    } else {
        Ok(())
    }
}

/// 128 random bits in hexadecimal.
fn nonce() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
