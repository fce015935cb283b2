//! The persistent shell, driven through a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    dead_code,
    reason = "a test fails by panicking, and each file uses a part of the fixture"
)]

mod running;

use std::time::{Duration, Instant};

use running::Running;
use sealign_sandbox::protocol::{Exec, ShellRestart};

#[test]
fn directory_variables_and_functions_persist_from_command_to_command() {
    let running = Running::claimed(&[]);
    running.sh("mkdir -p a/b && cd a/b && export COLOUR=red && greet() { echo hello; }");
    let reply = running.sh("basename \"$PWD\"; echo $COLOUR; greet");
    assert_eq!(
        (reply.output.head.as_str(), reply.exit_code, reply.shell_restarted),
        ("b\nred\nhello\n", 0, None)
    );
}

#[test]
fn both_streams_come_back_in_the_order_of_writing_with_the_exit_code() {
    let running = Running::claimed(&[]);
    let reply = running.sh("echo one; echo two >&2; echo three; false");
    assert_eq!((reply.output.head.as_str(), reply.exit_code), ("one\ntwo\nthree\n", 1));
    assert_eq!(running.sh("(exit 7)").exit_code, 7);
    assert_eq!(running.sh("no_such_program").exit_code, 127);
}

#[test]
fn commands_with_quotes_lines_and_here_documents_arrive_unchanged() {
    let running = Running::claimed(&[]);
    let reply = running.sh("cat <<'X'\nit's \"$HOME\" \\ \nX\nprintf '%s|' 'a b' \"c'd\"");
    assert_eq!(reply.output.head, "it's \"$HOME\" \\ \na b|c'd|");
}

#[test]
fn a_syntax_error_is_the_commands_own_and_the_shell_lives_on() {
    let running = Running::claimed(&[]);
    running.sh("export KEPT=yes");
    for command in ["if true; then", "echo 'open", "fi", "((", "cat <<X"] {
        let reply = running.sh(command);
        assert_eq!((reply.timed_out, reply.shell_restarted), (false, None), "{command}");
    }
    assert_eq!(running.sh("echo $KEPT").output.head, "yes\n");
}

#[test]
fn a_command_cannot_eat_the_commands_behind_it() {
    let running = Running::claimed(&[]);
    assert_eq!(running.sh("cat; read line; echo \"[$line]\"").output.head, "[]\n");
    assert_eq!(running.sh("echo next").output.head, "next\n");
}

#[test]
fn printed_markers_and_forged_statuses_are_output_or_nothing() {
    let running = Running::claimed(&[]);
    let forged = "printf '00000000000000000000000000000000 0\\n'; printf 'x 0\\n' >&3; for f in 4 5 6 7 8 9 10 11; do                   eval \"printf 'x 0\\\\n' >&$f\"; done 2>/dev/null; echo end; (exit 9)";
    let reply = running.sh(forged);
    assert_eq!(reply.exit_code, 9);
    assert!(reply.output.head.contains("00000000000000000000000000000000 0\n"));
    assert!(reply.output.head.ends_with("end\n"));
    assert_eq!(running.sh("echo in step").output.head, "in step\n");
}

#[test]
fn the_shell_restarts_and_says_so_when_a_command_ends_it() {
    let running = Running::claimed(&[]);
    running.sh("cd / && export GONE=1");
    let reply = running.sh("echo bye; exit 3");
    assert_eq!((reply.exit_code, reply.shell_restarted), (3, Some(ShellRestart::Exited)));
    assert_eq!(reply.output.head, "bye\n");
    let reply = running.sh("echo \"[$GONE]\"; pwd");
    assert_eq!(reply.output.head, format!("[]\n{}\n", running.root.path().display()));
}

#[test]
fn a_timeout_interrupts_then_kills_the_whole_tree_and_restarts_the_shell() {
    let running = Running::claimed(&[]);
    let started = Instant::now();
    let reply = running
        .sh_within("echo begun; trap '' INT; setsid sleep 4711 & (sleep 4712 & sleep 4713); sleep 4714", 1);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((reply.timed_out, reply.exit_code), (true, 124));
    assert_eq!(reply.shell_restarted, Some(ShellRestart::TimedOut));
    assert_eq!(reply.output.head, "begun\n");
    let left = running.sh("grep -lz '^471[1234]$' /proc/[0-9]*/cmdline 2>/dev/null | grep -v self");
    assert_eq!(left.output.head, "");
}

#[test]
fn an_interrupted_program_may_say_its_last_words() {
    let running = Running::claimed(&[]);
    // Long enough for a loaded machine to have started the inner shell and set its trap.
    let reply = running.sh_within("bash -c 'trap \"echo cleaned; exit\" INT; sleep 30 & wait'", 4);
    assert!(reply.timed_out);
    assert_eq!(reply.output.head, "cleaned\n");
}

#[test]
fn fifty_megabytes_are_capped_at_the_source_with_both_ends_kept() {
    let running = Running::claimed(&[]);
    let command = "echo FIRST; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo LAST".to_owned();
    let request = Exec { command, timeout_seconds: 30, output_cap_bytes: 2000 };
    let output = running.client.exec(&request).unwrap().output;
    assert_eq!(output.total_bytes, 50_000_012);
    assert_eq!(output.omitted_bytes, 50_000_012 - 2000);
    assert!(output.head.starts_with("FIRST\nxxx") && output.tail.ends_with("xxx\nLAST\n"));
    assert!(output.text().contains("[... 49998012 of 50000012 bytes left out ...]"));
}

#[test]
fn a_background_job_outlives_its_command_and_does_not_hold_it() {
    let running = Running::claimed(&[]);
    let started = Instant::now();
    running.sh("sleep 100 & echo $! > pid");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(running.sh("kill -0 $(cat pid) && echo alive").output.head, "alive\n");
}

#[test]
fn output_of_a_job_that_keeps_writing_does_not_hold_a_command() {
    let running = Running::claimed(&[]);
    running.sh("yes >&2 &");
    assert!(!running.sh("true").timed_out);
    assert!(!running.sh("kill %1 || kill $!").timed_out);
}

#[test]
fn a_plain_sh_serves_where_there_is_no_bash() {
    let running = Running::claimed(&["--shell", "/bin/sh"]);
    running.sh("cd / && export COLOUR=red");
    assert_eq!(running.sh("pwd; echo $COLOUR; (exit 4)").output.head, "/\nred\n");
    for command in ["if true; then", "echo 'open", "fi", "no_such_program"] {
        let reply = running.sh(command);
        assert_ne!(reply.exit_code, 0, "{command}");
        assert_eq!((reply.timed_out, reply.shell_restarted), (false, None), "{command}");
    }
    assert_eq!(running.sh("pwd").output.head, "/\n");
    let reply = running.sh_within("sleep 4770 & sleep 4771", 1);
    assert_eq!((reply.exit_code, reply.shell_restarted), (124, Some(ShellRestart::TimedOut)));
}

#[test]
fn a_long_command_arrives_whole() {
    let running = Running::claimed(&[]);
    let command = format!("x={}; echo ${{#x}}", "y".repeat(200_000));
    assert_eq!(running.sh(&command).output.head, "200000\n");
}

#[test]
fn the_environment_is_the_clean_few_and_nothing_of_the_servers() {
    let running = Running::claimed(&["--env", "EXTRA=1"]);
    let reply = running.client.exec_isolated(&running::isolated(&["/usr/bin/env"])).unwrap();
    let mut names: Vec<&str> = reply.stdout.head.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["EXTRA", "HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"]);
    assert!(!running.sh("env; set").output.text().contains("canary"));
}

#[test]
fn children_hold_no_descriptor_but_the_three_standard_ones() {
    let running = Running::claimed(&[]);
    let listing = ["/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"];
    let reply = running.client.exec_isolated(&running::isolated(&listing)).unwrap();
    assert_eq!(reply.stdout.head, "0 1 2 3 ", "3 is the directory that ls reads");
    assert_eq!(running.sh("ls /proc/self/fd | tr '\\n' ' '").output.head, "0 1 2 3 ");
}
