//! `sealign-sandbox`: reads flags, closes itself to task code, and serves. The flags are the interface to whoever builds the
//! sandbox (an init container's pod template, bubblewrap's command line); everything else is in the library.

mod flags;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: from here on no process of our user can read our memory, environment or descriptors.
    let closed = sealign_sandbox::os::set_not_dumpable();
    let flags = match closed
        .map_err(|error| error.to_string())
        .and_then(|()| flags::parse(std::env::args_os().skip(1)))
    {
        Ok(flags) => flags,
        Err(problem) => {
            eprintln!("sealign-sandbox: {problem}");
            return ExitCode::from(2);
        }
    };
    sealign_sandbox::os::set_umask(0o022);
    let served = flags.listener().and_then(|listener| {
        sealign_sandbox::os::close_all_on_exec()?;
        flags.hold_line()?;
        sealign_sandbox::server::serve(flags.config, &listener)
    });
    match served {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("sealign-sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}
