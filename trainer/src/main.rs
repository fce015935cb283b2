//! `sealign-trainer`: train a stage, serve a model, make a model with fresh weights.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sealign_trainer::dist::launch::{self, Launch};
use sealign_trainer::dist::{Group, World};
use sealign_trainer::model::tensors::SaveType;
use sealign_trainer::model::{Decoder, directory, init};
use sealign_trainer::placement::Placement;
use sealign_trainer::pretrain::{PretrainSettings, pretrain};
use sealign_trainer::serve::{EngineOptions, ServeOptions, serve};
use sealign_trainer::train::metrics::MetricsSink;
use sealign_trainer::train::settings::StageSettings;
use sealign_trainer::train::{self, LocalSink, SilentSink, TrainConfig};
use sealign_trainer::{job, probe, process};

/// Trains and serves SEAlign models on libtorch.
#[derive(Parser)]
#[command(name = "sealign-trainer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one stage (SFT or DPO); continues where an interrupted run with the same inputs stopped.
    Train {
        /// JSON file with the run's configuration; `-` reads standard input.
        #[arg(long)]
        config: PathBuf,
        /// Print nothing while training.
        #[arg(long)]
        quiet: bool,
        /// Address of a Prometheus endpoint, `/metrics`; none by default.
        #[arg(long)]
        metrics: Option<SocketAddr>,
    },
    /// Writes a model folder from a checkpoint of a run.
    Export {
        /// The run's configuration, as for `train`.
        #[arg(long)]
        config: PathBuf,
        /// Steps after which the checkpoint was written; the newest whole one by default.
        #[arg(long)]
        step: Option<usize>,
        /// Number format of the weights.
        #[arg(long, value_enum, default_value = "f32")]
        save_type: SaveChoice,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Starts the processes of one machine, with torchrun's environment, and ends all when one fails.
    Launch {
        /// Processes on this machine: one per device.
        #[arg(long)]
        nproc: usize,
        /// Machines; one launcher runs on each.
        #[arg(long, default_value_t = 1)]
        nnodes: usize,
        /// Number of this machine, from 0.
        #[arg(long, default_value_t = 0)]
        node_rank: usize,
        /// Host of rank 0.
        #[arg(long, default_value = "127.0.0.1")]
        master_addr: String,
        /// Port of the rendezvous; 0 takes a free one on a single machine.
        #[arg(long, default_value_t = 0)]
        master_port: u16,
        /// The subcommand to run in every process, such as `train --config FILE`.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Serves a model folder over OpenAI's chat completions.
    Serve {
        /// Model folder in Hugging Face layout.
        #[arg(long)]
        model: PathBuf,
        /// Address to listen on; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:8000")]
        listen: SocketAddr,
        /// File that gets the server's URL once it accepts requests.
        #[arg(long)]
        address_file: Option<PathBuf>,
        /// Name of the model in requests; the folder's name by default.
        #[arg(long)]
        name: Option<String>,
        /// Longest prompt and answer in tokens; the model's own limit by default.
        #[arg(long)]
        context: Option<usize>,
        /// Requests that are decoded together.
        #[arg(long, default_value_t = EngineOptions::default().batch_max)]
        batch_max: usize,
        /// Memory for the prefixes of finished requests, in MiB.
        #[arg(long, default_value_t = 1024)]
        cache_mib: usize,
        /// CPU threads of one operation; 0 takes the number of cores, at most 8.
        #[arg(long, default_value_t = 0)]
        threads: usize,
    },
    /// Runs the training step that the environment describes, with inputs and results in the store.
    Step,
    /// Serves the model that the environment describes.
    ServeModel,
    /// Writes a model folder with seeded random weights.
    Init {
        /// `config.json` of the model.
        #[arg(long)]
        config: PathBuf,
        /// Seed of the weights.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Folder whose tokenizer files are copied.
        #[arg(long)]
        tokenizer: Option<PathBuf>,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Pretrains the built-in base model on generated texts.
    Pretrain {
        /// Seed of texts, weights and order.
        #[arg(long, default_value_t = 1)]
        seed: u32,
        /// Tokens to train on, copying drills not counted.
        #[arg(long, default_value_t = 16_000_000)]
        tokens: usize,
        /// Threads of libtorch; 0 takes what the machine has.
        #[arg(long, default_value_t = 0)]
        threads: usize,
        /// Folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Computes logits, losses, gradients and loss curves of given token ids, for comparison with other programs.
    #[command(hide = true)]
    Probe {
        /// JSON file with the request.
        #[arg(long)]
        request: PathBuf,
        /// Folder for the results.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Number formats by their names on the command line.
#[derive(Clone, Copy, clap::ValueEnum)]
enum SaveChoice {
    F32,
    Bf16,
}

fn main() -> ExitCode {
    if let Err(error) = process::settle_environment() {
        eprintln!("sealign-trainer: {error}");
    }
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sealign-trainer: {error:#}");
            ExitCode::from(process::exit_code(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train { config, quiet, metrics } => train_stage(&config, quiet, metrics),
        Command::Export { config, step, save_type, out } => {
            let save_type = match save_type {
                SaveChoice::F32 => SaveType::F32,
                SaveChoice::Bf16 => SaveType::Bf16,
            };
            let manifest = train::checkpoint_model(&read_config(&config)?, step, save_type, &out)?;
            println!("step {}: {}", manifest.step, out.display());
            Ok(())
        }
        Command::Launch { nproc, nnodes, node_rank, master_addr, master_port, command } => {
            let launch = Launch {
                local_size: nproc,
                machines: nnodes,
                machine: node_rank,
                master_address: master_addr,
                master_port,
            };
            launch_processes(&launch, &command)
        }
        Command::Serve { model, listen, address_file, name, context, batch_max, cache_mib, threads } => {
            process::set_threads(threads);
            let engine = EngineOptions {
                batch_max: batch_max.max(1),
                cache_bytes: cache_mib.saturating_mul(1 << 20),
                ..EngineOptions::default()
            };
            serve_model(ServeOptions { model, name, listen, address_file, context, engine })
        }
        Command::Step => {
            let scratch = tempfile::tempdir().context("no folder for scratch files")?;
            Ok(job::step::run(scratch.path())?)
        }
        Command::ServeModel => {
            let scratch = tempfile::tempdir().context("no folder for scratch files")?;
            process::set_threads(0);
            serve_model(job::serve::options(scratch.path())?)
        }
        Command::Init { config, seed, tokenizer, out } => {
            init_model(&config, seed, tokenizer.as_deref(), &out)
        }
        Command::Pretrain { seed, tokens, threads, out } => pretrain_base(seed, tokens, threads, out),
        Command::Probe { request, out } => probe::run(&request, &out),
    }
}

fn read_config(path: &Path) -> anyhow::Result<TrainConfig> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("the configuration cannot be read from standard input")?;
        text
    } else {
        std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?
    };
    serde_json::from_str(&text).with_context(|| format!("{} is not a training configuration", path.display()))
}

fn train_stage(path: &Path, quiet: bool, metrics: Option<SocketAddr>) -> anyhow::Result<()> {
    let config = read_config(path)?;
    let world = World::from_environment()?;
    let local_size = world.as_ref().map_or(1, |world| world.local_size);
    process::set_threads_shared(config.settings.threads, local_size);
    let group = match &world {
        Some(world) => {
            config.settings.check().map_err(train::RunError::from)?;
            launch::follow_launcher();
            let StageSettings { device, precision, collective_timeout_seconds, .. } = config.settings;
            let placement = Placement::find(device, precision, world.local_rank)?;
            Group::gloo(world, Duration::from_secs(collective_timeout_seconds))?.on(placement.device)?
        }
        None => Group::alone(),
    };
    if !group.leads() {
        train::run_in(&group, &config, &mut SilentSink)?;
        return Ok(());
    }
    let mut sink = LocalSink::open(&config.output, quiet)
        .with_context(|| format!("{} cannot be written", config.output.display()))?;
    let summary = match metrics {
        Some(address) => {
            let (mut sink, bound) = MetricsSink::listen(address, &mut sink).with_context(|| {
                format!("{address} cannot be listened on; choose another --metrics address")
            })?;
            if !quiet {
                println!("metrics: http://{bound}/metrics");
            }
            train::run_in(&group, &config, &mut sink)?
        }
        None => train::run_in(&group, &config, &mut sink)?,
    };
    let complete = if summary.already_complete { "already complete" } else { "finished" };
    println!(
        "{complete}: step {} of {}, {}",
        summary.manifest.step,
        summary.manifest.steps,
        summary.model.display()
    );
    Ok(())
}

fn launch_processes(launch: &Launch, command: &[String]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
    let make = || {
        let mut process = std::process::Command::new(&program);
        process.args(command);
        process
    };
    Ok(launch.run(make, process::stop_flag())?)
}

fn serve_model(options: ServeOptions) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    // The decoding thread does the work; two more accept requests and tokenise.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(options, process::shutdown_signal()))?;
    Ok(())
}

fn pretrain_base(seed: u32, tokens: usize, threads: usize, out: PathBuf) -> anyhow::Result<()> {
    process::set_threads(threads);
    let command = format!("sealign-trainer pretrain --seed {seed} --tokens {tokens}");
    let settings = PretrainSettings { seed, tokens, out, command };
    let made = pretrain(&settings, &mut |line| println!("{line}"))?;
    println!("{} steps, weights {}: {}", made.steps, made.digest, settings.out.display());
    Ok(())
}

fn init_model(config: &Path, seed: u64, tokenizer: Option<&Path>, out: &Path) -> anyhow::Result<()> {
    let folder = if config.is_dir() { config } else { config.parent().unwrap_or(Path::new(".")) };
    let config = directory::read_config(folder)?;
    let weights = init::random(&config, seed)?;
    let model = Decoder::trainable(config, weights);
    let provenance = train::export::Provenance {
        inputs: std::collections::BTreeMap::new(),
        step: 0,
        steps: 0,
        metrics: [("seed".to_owned(), seed.into())].into(),
    };
    train::export::write_model(out, &model, tokenizer.unwrap_or(folder), SaveType::F32, provenance)?;
    println!("{} parameters, seed {seed}: {}", model.config.parameters(), out.display());
    Ok(())
}
