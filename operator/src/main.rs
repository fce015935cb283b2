//! `sealign-operator`: reads its environment and runs until it is told to stop or loses its lease.

use std::process::ExitCode;

use sealign_operator::app;
use sealign_operator::config::Config;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
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
