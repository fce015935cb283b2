//! `sealign-worker resolve | run | build-forest | report`: what runs in the pods.

use std::process::ExitCode;

fn main() -> ExitCode {
    sealign_worker::process::main()
}
