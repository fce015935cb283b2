//! Entry point: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use sealign_cli::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Programs of the product log to standard error in the same way; quiet unless asked.
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEALIGN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match arguments.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", sealign_cli::error::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}
