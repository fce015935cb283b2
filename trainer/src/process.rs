//! The process around the work: threads, environment, exit codes.

use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::dist::launch::LaunchError;
use crate::job::JobError;
use crate::train::RunError;

/// Variable that keeps idle OpenMP threads from spinning. libgomp reads it when it is loaded, before `main`.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Threads of one operation at most when the number is left to us; beyond it small models only wait for one another.
const THREADS_MAX: usize = 8;

/// Exit code for inputs that a person has to change.
const EXIT_INPUT: u8 = 64;

/// Starts the program over with the environment that libtorch needs, once. Returns when it is in place already, or an error
/// when the program cannot be started over; working without it is slower but correct.
pub fn settle_environment() -> std::io::Result<()> {
    if std::env::var_os(WAIT_POLICY).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    Err(std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(WAIT_POLICY, "passive")
        .exec())
}

/// Sets the number of threads of one tensor operation; 0 takes the number of cores, at most 8.
pub fn set_threads(threads: usize) {
    set_threads_shared(threads, 1);
}

/// As [`set_threads`], with the cores divided among the processes of the machine.
pub fn set_threads_shared(threads: usize, processes: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = (cores / processes.max(1)).max(1);
    let count = if threads == 0 { cores.min(THREADS_MAX) } else { threads };
    tch::set_num_threads(i32::try_from(count).unwrap_or(1));
}

/// Largest resident memory of this process so far, in bytes.
pub fn peak_rss_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Resolves at SIGTERM or SIGINT.
pub async fn shutdown_signal() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// A flag that SIGTERM and SIGINT set from now on, instead of ending the process.
pub fn stop_flag() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(shutdown_signal());
            STOP.store(true, Ordering::Relaxed);
        }
    });
    &STOP
}

/// 64 when the inputs have to change, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let input = error.downcast_ref::<RunError>().is_some_and(RunError::is_input)
        || error.downcast_ref::<JobError>().is_some_and(JobError::is_input)
        || matches!(error.downcast_ref::<LaunchError>(), Some(LaunchError::Setting { .. }))
        || matches!(error.downcast_ref::<LaunchError>(), Some(LaunchError::Rank { code: Some(code), .. })
            if *code == i32::from(EXIT_INPUT))
        || error.downcast_ref::<serde_json::Error>().is_some();
    if input { EXIT_INPUT } else { 1 }
}
