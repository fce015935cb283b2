//! The process around a worker: environment, logging, exit code.
//!
//! The environment is read here and nowhere else. A worker whose input cannot be used leaves a rejection in the store
//! before it exits with 64, so that the object fails with the worker's own words.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use sealign_agent::{Clock, SystemClock};
use sealign_manifest::ObjectKeys;
use sealign_manifest::group::Rejection;
use sealign_plan::config::{
    CONFIG_VARIABLE, POD_DIRECTORY_VARIABLE, Report, Run, STORE_VARIABLE, Work, WorkerConfig,
};
use sealign_plan::resources::worker::HEALTH_PORT;
use sealign_storage::{ArtifactStore, Store, StoreOptions};

use crate::error::{EXIT_FAILED, WorkerError};
use crate::resolve::{self, Suites};
use crate::runner::folder::FolderDirectory;
use crate::runner::meters::{MeteredModels, MeteredStore, Meters};
use crate::runner::models::CampaignModels;
use crate::runner::network::NetworkDoors;
use crate::runner::pods::PodDirectory;
use crate::runner::standing::{self, Standing};
use crate::runner::watched::WatchedDirectory;
use crate::runner::{self, Ports};
use crate::{forest, report, saving};

/// Environment variable with patterns of image references that task sets may use, separated by commas; `*` stands for
/// any text. Every image is allowed when it is absent.
pub const IMAGES_VARIABLE: &str = "SEALIGN_ALLOWED_IMAGES";
/// Environment variable with the image of suites whose files come with their tasks; any with `python3` will do.
pub const PYTHON_IMAGE_VARIABLE: &str = "SEALIGN_PYTHON_IMAGE";
/// Environment variable with what is said of its interpreter in environment digests.
pub const INTERPRETER_VARIABLE: &str = "SEALIGN_INTERPRETER";
/// Beginning of the environment variables with API keys; the ordinal of the policy follows.
const KEY_VARIABLE: &str = "SEALIGN_MODEL_KEY_";
/// Exit code of a wrong call.
const EXIT_USAGE: u8 = 2;

type Variables = BTreeMap<String, String>;

/// Runs the worker that the arguments name.
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let command = std::env::args().nth(1).unwrap_or_default();
    if !["resolve", "run", "build-forest", "report"].contains(&command.as_str()) {
        tracing::error!(
            "usage: sealign-worker resolve|run|build-forest|report, with SEALIGN_CONFIG and SEALIGN_STORE set"
        );
        return ExitCode::from(EXIT_USAGE);
    }
    // Variables that are not text are none of ours.
    let variables: Variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let code = runtime.block_on(async {
        tokio::select! {
            code = work(&command, &variables) => code,
            () = terminated() => {
                tracing::info!("SIGTERM: what is recorded stays, another round goes on");
                // The code of a process that SIGTERM ended.
                143
            }
        }
    });
    // What is still in hand would only delay the end: its record does not exist, so it will be done again.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn work(command: &str, variables: &Variables) -> u8 {
    let (config, store) = match prepare(variables) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!("{error}");
            return EXIT_USAGE;
        }
    };
    let Err(error) = dispatch(command, &config, &store, variables).await else { return 0 };
    tracing::error!(error = %chain(&error), "the worker stops");
    if let WorkerError::Rejected(message) = &error
        && let Some(keys) = keys_of(&config)
    {
        let rejection = Rejection { message: message.chars().take(MESSAGE_CHARS).collect() };
        let key = keys.rejection(command);
        if let Err(error) = saving::settle_json(&*store, &key, &rejection).await {
            tracing::error!(error = %chain(&error), "the rejection could not be written");
            return EXIT_FAILED;
        }
    }
    error.exit_code()
}

/// Characters of a rejection at most: a condition's message, with room.
const MESSAGE_CHARS: usize = 2_000;

fn prepare(variables: &Variables) -> Result<(WorkerConfig, Arc<dyn ArtifactStore>), String> {
    let variable = |name: &str| variables.get(name).ok_or_else(|| format!("the variable {name} is not set"));
    let config = serde_json::from_str(variable(CONFIG_VARIABLE)?)
        .map_err(|error| format!("{CONFIG_VARIABLE} holds no worker configuration: {error}"))?;
    let options = StoreOptions { variables: variables.clone(), ..StoreOptions::default() };
    let store = Store::open(variable(STORE_VARIABLE)?, &options).map_err(|error| chain(&error))?;
    Ok((config, Arc::new(store)))
}

async fn dispatch(
    command: &str,
    config: &WorkerConfig,
    store: &Arc<dyn ArtifactStore>,
    variables: &Variables,
) -> Result<(), WorkerError> {
    match (command, config) {
        ("resolve", WorkerConfig::ResolveTasks(config)) => {
            resolve::tasks::resolve(&**store, config, &suites(variables)).await
        }
        ("resolve", WorkerConfig::ResolvePlan(config)) => resolve::plan(&**store, config).await,
        ("run", WorkerConfig::Run(config)) => run(config, store, variables).await,
        ("build-forest", WorkerConfig::BuildForest(config)) => forest::build(&**store, config).await,
        ("report", WorkerConfig::Report(config)) => report::write(&**store, config).await,
        _ => Err(WorkerError::Premise(format!("{CONFIG_VARIABLE} is not a configuration of `{command}`"))),
    }
}

fn suites(variables: &Variables) -> Suites {
    let own = Suites::default();
    let variable = |name: &str| variables.get(name).cloned();
    Suites {
        allowed_images: variable(IMAGES_VARIABLE).map_or(own.allowed_images, |list| {
            list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect()
        }),
        python_image: variable(PYTHON_IMAGE_VARIABLE).unwrap_or(own.python_image),
        interpreter: variable(INTERPRETER_VARIABLE).unwrap_or(own.interpreter),
    }
}

/// Runs the runner: over a folder of pods where one is named, else in a cluster, where it also answers the kubelet and
/// Prometheus.
async fn run(config: &Run, store: &Arc<dyn ArtifactStore>, variables: &Variables) -> Result<(), WorkerError> {
    if let Some(folder) = variables.get(POD_DIRECTORY_VARIABLE) {
        let pods = FolderDirectory::new(folder.as_str(), config.owner.uid.as_str());
        return runner::run(config, &ports(config, store, Arc::new(pods), variables)?).await;
    }
    let premise = |problem: String| WorkerError::Premise(problem);
    let meters = Arc::new(Meters::new(&config.owner).map_err(|error| premise(error.to_string()))?);
    let client = cluster_client().await.map_err(premise)?;
    let pods = Arc::new(WatchedDirectory::start(client, &config.owner));
    let mut ports = ports(config, store, pods, variables)?;
    ports.store = Arc::new(MeteredStore::new(ports.store, meters.clone()));
    ports.models = Arc::new(MeteredModels::new(ports.models, meters.clone()));
    let (standing, shown) = tokio::sync::watch::channel(Standing::default());
    tokio::select! {
        ended = runner::run_showing(config, &ports, standing) => ended,
        served = standing::serve(HEALTH_PORT, shown, meters) => {
            let reason = served.err().map_or_else(|| "it ended".into(), |error| error.to_string());
            Err(premise(format!("port {HEALTH_PORT} of the readiness probe: {reason}")))
        }
    }
}

/// The API server of the cluster that this pod runs in, or of the kubeconfig that KUBECONFIG names.
async fn cluster_client() -> Result<kube::Client, String> {
    let problem = |error: &dyn std::error::Error| {
        format!(
            "{POD_DIRECTORY_VARIABLE} is not set and there is no cluster: run in a pod with a token, or set KUBECONFIG: {}",
            chain(error)
        )
    };
    let configuration = kube::Config::infer().await.map_err(|error| problem(&error))?;
    kube::Client::try_from(configuration).map_err(|error| problem(&error))
}

fn ports(
    config: &Run,
    store: &Arc<dyn ArtifactStore>,
    pods: Arc<dyn PodDirectory>,
    variables: &Variables,
) -> Result<Ports, WorkerError> {
    let policies = match &config.work {
        Work::Campaign(spec) => spec.policies.as_slice(),
        Work::Health(_) | Work::Predictions(_) => &[],
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    Ok(Ports {
        store: store.clone(),
        pods,
        doors: Arc::new(NetworkDoors),
        models: Arc::new(CampaignModels::new(policies, |ordinal| key_file(ordinal, variables))?),
        clock,
    })
}

/// The model client reads keys from files, so that a mounted secret may rotate; a key in a variable gets a private one.
fn key_file(ordinal: usize, variables: &Variables) -> Option<PathBuf> {
    let key = variables.get(&format!("{KEY_VARIABLE}{ordinal}"))?;
    let path = std::env::temp_dir().join(format!("sealign-model-key-{}-{ordinal}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
    file.write_all(key.as_bytes()).ok()?;
    Some(path)
}

fn keys_of(config: &WorkerConfig) -> Option<ObjectKeys> {
    match config {
        WorkerConfig::ResolveTasks(config) => Some(config.keys.clone()),
        WorkerConfig::ResolvePlan(config) => Some(config.keys.clone()),
        WorkerConfig::Run(config) => Some(config.keys.clone()),
        WorkerConfig::BuildForest(config) => Some(config.keys.clone()),
        WorkerConfig::Report(Report::Benchmark(config)) => Some(config.keys.clone()),
        WorkerConfig::Report(Report::Alignment(config)) => Some(config.keys.clone()),
        WorkerConfig::Train(_) | WorkerConfig::Serve(_) => None,
    }
}

/// An error and its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
