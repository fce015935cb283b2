//! `sealign-operator`: reads its environment and runs until it is told to stop or loses its lease. `sealign-operator access`
//! prints the verbs that it needs.

use std::process::ExitCode;

use sealign_operator::app;
use sealign_operator::config::Config;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("access") => {
            print!("{}", sealign_operator::access::table());
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!(
                "sealign-operator: `{other}` is unknown; give nothing to run, or `access` to print what it may do"
            );
            return ExitCode::from(2);
        }
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    let config = match Config::read(&std::env::vars().collect()) {
        Ok(config) => config,
        Err(problem) => {
            tracing::error!(%problem, "configuration");
            return ExitCode::from(2);
        }
    };
    match app::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain: the last cause is usually the one to act on.
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}
