//! The directory environment's shell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use sealign_agent::{Environment, EnvironmentError, FileRead, ShellOutput};
use support::{WORKDIR, environment};

const TIME: Duration = Duration::from_secs(20);

async fn runs(commands: &[&str]) -> Vec<ShellOutput> {
    let (_folder, mut environment) = environment().await;
    let mut outputs = Vec::new();
    for command in commands {
        outputs.push(environment.exec(command, TIME).await.unwrap());
    }
    outputs
}

#[tokio::test]
async fn directory_and_variables_last_from_command_to_command() {
    let outputs = runs(&["mkdir sub; cd sub; X='a b'", "echo \"$X\"; pwd; echo err >&2"]).await;
    assert_eq!(outputs[1].output, format!("a b\n{WORKDIR}/sub\nerr\n"));
    assert_eq!(outputs[1].cwd.as_deref(), Some("/workspace/repo/sub"));
    assert_eq!(outputs[1].exit_code, Some(0));
}

#[tokio::test]
async fn a_syntax_error_or_an_exit_ends_only_its_own_command() {
    let outputs = runs(&["echo 'unclosed", "cat", "(exit 3)", "cd /; exit 4", "pwd"]).await;
    assert_ne!(outputs[0].exit_code, Some(0));
    assert_eq!((outputs[1].exit_code, outputs[1].output.as_str()), (Some(0), ""));
    assert_eq!(outputs[2].exit_code, Some(3));
    assert_eq!(outputs[3].exit_code, Some(4));
    assert_eq!(outputs[4].output, format!("{WORKDIR}\n"));
}

#[tokio::test]
async fn a_command_that_runs_out_of_time_is_ended_with_what_it_started() {
    let (folder, mut environment) = environment().await;
    let begun = Instant::now();
    let command = "echo before; (sleep 3; touch late) & sleep 600";
    let output = environment.exec(command, Duration::from_secs(1)).await.unwrap();
    assert!(output.timed_out && output.exit_code.is_none() && output.output == "before\n", "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let after = environment.exec("sleep 3.5; ls", TIME).await.unwrap();
    assert_eq!(after.output, "calc.py\n");
    drop(folder);
}

#[tokio::test]
async fn endless_output_is_kept_at_both_ends() {
    let outputs = runs(&["echo first; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last"]).await;
    assert!(outputs[0].truncated && outputs[0].output.len() < 2_000_000);
    assert!(outputs[0].output.starts_with("first\n") && outputs[0].output.ends_with("\nlast\n"));
}

#[tokio::test]
async fn file_paths_may_not_leave_the_root() {
    let (_folder, mut environment) = environment().await;
    for path in ["../x", "/etc/passwd", "a/../../x", "./calc.py"] {
        let read = environment.read_file(path, 10).await;
        assert!(matches!(read, Err(EnvironmentError::Refused(_))), "{path}: {read:?}");
    }
    assert_eq!(environment.read_file("", 10).await.unwrap(), FileRead::Directory);
    assert_eq!(environment.read_file("none", 10).await.unwrap(), FileRead::Missing);
    let read = environment.read_file("calc.py", 3).await.unwrap();
    assert_eq!(read, FileRead::File { content: b"def".to_vec(), total_bytes: 32 });
}
