//! Runs of several processes: as one process would compute, and ended promptly when one of them dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::training_folder;
use sealign_batch::order::{Grouping, StepSize};
use sealign_trainer::model::tensors;
use sealign_trainer::train::settings::{Anchor, Sharding};
use sealign_trainer::train::{Stage, StageSettings, TrainConfig};
use serde_json::Value;

/// Processes of a run, and what each holds; `Whole` in one process is the reference.
#[derive(Clone, Copy)]
enum Layout {
    Whole(usize),
    Parts(usize),
}

struct Bench {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let (folder, model) = training_folder(false);
        Self { folder, model }
    }

    fn settings(stage: Stage) -> StageSettings {
        let mut settings = StageSettings::new(stage);
        settings.max_epochs = 2;
        settings.max_steps = Some(8);
        settings.batch = StepSize::Examples(8);
        settings.grouping = Grouping::Task;
        settings.microbatch_tokens = 300;
        settings.learning_rate = Some(1e-3);
        settings.weight_decay = 0.1;
        settings.validation_share = 0.2;
        settings.context = 400;
        settings.seed = 3;
        settings.threads = 1;
        settings.collective_timeout_seconds = 120;
        if stage == Stage::Dpo {
            settings.anchor = Some(Anchor { examples: 3, weight: 0.5 });
        }
        settings
    }

    /// Writes a configuration and returns its path.
    fn write(&self, output: &str, mut settings: StageSettings, layout: Layout) -> PathBuf {
        if matches!(layout, Layout::Parts(_)) {
            settings.sharding = Sharding::Everything;
        }
        let path = |name: &str| self.folder.path().join(name);
        let preferences = if settings.stage == Stage::Dpo { vec![path("pairs.jsonl")] } else { Vec::new() };
        let config = TrainConfig {
            model: self.model.clone(),
            model_name: None,
            tokenizer: None,
            sft: vec![path("sft.jsonl")],
            preferences,
            output: path(output),
            settings,
        };
        let file = path(&format!("{output}.json"));
        std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
        file
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn command(config: &Path, layout: Layout) -> Command {
    let (Layout::Whole(count) | Layout::Parts(count)) = layout;
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealign-trainer"));
    command.env("OMP_WAIT_POLICY", "passive").stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(name);
    }
    if count > 1 {
        command.args(["launch", "--nproc", &count.to_string(), "--"]);
    }
    command.args(["train", "--quiet", "--config"]).arg(config);
    command
}

fn finish(config: &Path, layout: Layout) -> Output {
    let output = command(config, layout).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A member of every step's record, and of every evaluation.
fn figures(output: &Path, member: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|record| record[member].as_f64())
        .collect()
}

fn worst_relative(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    assert!(!left.is_empty());
    left.iter().zip(right).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

fn worst_weight(left: &Path, right: &Path) -> f64 {
    let read = |folder: &Path| tensors::read(&folder.join("model/model.safetensors")).unwrap();
    let (left, right) = (read(left), read(right));
    assert_eq!(left.len(), right.len());
    left.iter()
        .map(|(name, tensor)| {
            let other = &right[name];
            (tensor - other).abs().max().double_value(&[]) / other.abs().max().double_value(&[])
        })
        .fold(0.0, f64::max)
}

#[test]
fn two_and_four_processes_with_whole_or_divided_parameters_compute_what_one_computes() {
    let bench = Bench::new();
    for stage in [Stage::Sft, Stage::Dpo] {
        let name = |suffix: &str| format!("{stage:?}-{suffix}").to_lowercase();
        let alone = bench.write(&name("alone"), Bench::settings(stage), Layout::Whole(1));
        finish(&alone, Layout::Whole(1));
        let reference = bench.output(&name("alone"));
        for (suffix, layout) in [
            ("whole-2", Layout::Whole(2)),
            ("whole-4", Layout::Whole(4)),
            ("parts-2", Layout::Parts(2)),
            ("parts-4", Layout::Parts(4)),
        ] {
            let config = bench.write(&name(suffix), Bench::settings(stage), layout);
            finish(&config, layout);
            let output = bench.output(&name(suffix));
            for member in ["loss", "gradientNorm", "validationLoss"] {
                let worst = worst_relative(&figures(&output, member), &figures(&reference, member));
                println!("{} {member}: {worst:.1e}", name(suffix));
                assert!(worst < 1e-5, "{} {member}: {worst:e}", name(suffix));
            }
            let worst = worst_weight(&output, &reference);
            println!("{} weights: {worst:.1e}", name(suffix));
            assert!(worst < 1e-4, "{} weights: {worst:e}", name(suffix));
        }
    }
}

/// The process of the given rank that the launcher started.
fn find_rank(launcher: &Child, rank: usize) -> Option<u32> {
    let wanted = [format!("RANK={rank}"), format!("SEALIGN_LAUNCHER_PID={}", launcher.id())];
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let variables: Vec<&[u8]> = environment.split(|byte| *byte == 0).collect();
        wanted.iter().all(|text| variables.contains(&text.as_bytes())).then_some(pid)
    })
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits until something holds, at most a minute.
fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_process_ends_the_run_within_seconds_and_the_next_run_ends_with_the_same_bytes() {
    let bench = Bench::new();
    for layout in [Layout::Whole(2), Layout::Parts(2)] {
        let name = if matches!(layout, Layout::Whole(_)) { "whole" } else { "parts" };
        let settings = || {
            let mut settings = Bench::settings(Stage::Sft);
            (settings.max_epochs, settings.max_steps) = (40, Some(60));
            settings.checkpoint_steps = Some(10);
            settings
        };
        let undisturbed = bench.write(&format!("{name}-undisturbed"), settings(), layout);
        finish(&undisturbed, layout);
        let config = bench.write(name, settings(), layout);
        let launcher = command(&config, layout).spawn().unwrap();
        let checkpoint = bench.output(name).join("checkpoints/step-00000010");
        wait_for("a checkpoint", || checkpoint.exists().then_some(()));
        let pid = wait_for("rank 1", || find_rank(&launcher, 1));
        kill(pid);
        let killed = Instant::now();
        let output = launcher.wait_with_output().unwrap();
        let seconds = killed.elapsed().as_secs_f64();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(message.contains("rank 1 was killed by signal 9"), "{message}");
        println!("{name}: reported after {seconds:.1} s");
        assert!(seconds < 10.0, "reported after {seconds} s");
        assert!(!bench.output(name).join("model").exists());
        let report = finish(&config, layout);
        assert!(String::from_utf8_lossy(&report.stdout).contains("step"), "the run reports its end");
        let weights = |name: &str| std::fs::read(bench.output(name).join("model/model.safetensors")).unwrap();
        assert_eq!(weights(name), weights(&format!("{name}-undisturbed")), "{name}");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let bench = Bench::new();
    let settings = || {
        let mut settings = Bench::settings(Stage::Sft);
        (settings.max_epochs, settings.max_steps) = (40, Some(30));
        settings.checkpoint_steps = Some(10);
        settings
    };
    let config = bench.write("out", settings(), Layout::Parts(2));
    let mut launcher = command(&config, Layout::Parts(2)).spawn().unwrap();
    let checkpoint = bench.output("out").join("checkpoints/step-00000010");
    wait_for("a checkpoint", || checkpoint.exists().then_some(()));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    // The processes of the killed launcher notice by themselves; one process takes over.
    finish(&config, Layout::Whole(1));
    let reference = bench.write("reference", settings(), Layout::Whole(1));
    finish(&reference, Layout::Whole(1));
    let worst = worst_weight(&bench.output("out"), &bench.output("reference"));
    assert!(worst < 1e-3, "{worst:e}");
}

#[test]
fn nonsense_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let config = bench.write("out", Bench::settings(Stage::Sft), Layout::Whole(1));
    let refused = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sealign-trainer"))
            .args(arguments)
            .args(["train", "--quiet", "--config"])
            .arg(&config)
            .env("OMP_WAIT_POLICY", "passive")
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(!bench.output("out").exists(), "something was written");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["launch", "--nproc", "0", "--"], &[]).contains("--nproc must be between 1 and 64"));
    assert!(
        refused(&["launch", "--nproc", "1", "--nnodes", "2", "--"], &[])
            .contains("--master-port must be set")
    );
    assert!(refused(&[], &[("WORLD_SIZE", "2")]).contains("RANK is not set"));
}

#[test]
fn a_missing_nccl_library_is_named() {
    let world = sealign_trainer::dist::World {
        rank: 0,
        size: 1,
        local_rank: 0,
        local_size: 1,
        master_address: "127.0.0.1".to_owned(),
        master_port: std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
    };
    let gloo = sealign_trainer::dist::Group::gloo(&world, Duration::from_secs(20)).unwrap();
    let error = gloo.nccl("libnccl-is-not-here.so.2", 0).unwrap_err().to_string();
    assert!(error.contains("open NCCL") && error.contains("libnccl-is-not-here.so.2"), "{error}");
}
