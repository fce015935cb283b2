//! Carries out a grading plan in a temporary directory with the machine's own Python. Good enough for tests whose
//! patches are our own; real gradings run in sandboxes.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sealign_manifest::Task;
use sealign_tasks::grade::{GradingPlan, Judgement, Planned, RunOutput, TestRun, plan};

pub fn grade(task: &Task, patch: &str) -> Judgement {
    match plan(task, patch, "nonce-of-this-test").unwrap() {
        Planned::Decided(judgement) => judgement,
        Planned::Run(plan) => carry_out(&plan),
    }
}

fn carry_out(plan: &GradingPlan) -> Judgement {
    let root = tempfile::tempdir().unwrap();
    for file in &plan.files {
        let path = root.path().join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.content).unwrap();
    }
    let outputs: Vec<RunOutput> = plan.runs.iter().map(|run| execute(root.path(), run)).collect();
    plan.judge(&outputs)
}

fn execute(root: &Path, run: &TestRun) -> RunOutput {
    let mut child = Command::new(&run.argv[0])
        .args(&run.argv[1..])
        .current_dir(root)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(run.stdin.as_bytes()).unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let deadline = Instant::now() + Duration::from_secs(u64::from(run.timeout_seconds));
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            timed_out = true;
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    // A solution that never ends has a process of its own, which outlives the one that was ended.
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    RunOutput { exit_code: status.code(), timed_out, stdout: reader.join().unwrap() }
}
