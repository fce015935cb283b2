//! The importers on small records: one test per rule of specs 5.11 C and section 6.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_trajectory::import::{Format, ImportOptions, Imported, Importer};
use sealign_trajectory::key::{KeyOptions, call_key};
use sealign_trajectory::{Action, Outcome, Trajectory, UnknownCause};
use serde_json::{Value, json};

fn import(files: &[(&str, &str)]) -> Imported {
    let mut importer = Importer::new(ImportOptions::new("set"));
    for (path, text) in files {
        importer.add(path, text.as_bytes());
    }
    importer.finish()
}

fn only(files: &[(&str, &str)]) -> Trajectory {
    let mut imported = import(files);
    assert_eq!(imported.refused, []);
    assert_eq!(imported.trajectories.len(), 1);
    imported.trajectories.remove(0)
}

fn row(task: &str, messages: &Value, report: &Value) -> String {
    json!({"instance_id": task, "run_id": "m_maxiter_5", "resolved": true, "messages": messages, "tools": [1],
           "test_result": {"git_patch": "diff", "report": report}})
    .to_string()
}

fn called(name: &str, arguments: &str) -> Value {
    json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c", "function": {"name": name, "arguments": arguments}}]})
}

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// Keys with what came back: `key <- [texts]`.
fn outline(trajectory: &Trajectory) -> Vec<String> {
    let show = |turn: &sealign_trajectory::Turn| {
        let seen = turn
            .observation
            .as_ref()
            .map(|parts| parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>());
        format!(
            "{} <- {}",
            call_key(turn, KeyOptions::default()),
            seen.map_or("nothing".to_owned(), |texts| texts.join("|"))
        )
    };
    trajectory.turns.iter().map(show).collect()
}

#[test]
fn a_swegym_row_becomes_a_trajectory() {
    let messages = json!([
        said("system", "sys"),
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]},
        called("execute_bash", r#"{"command":"ls"}"#),
        {"role": "tool", "name": "execute_bash", "content": "OBSERVATION:\nfiles"},
        said("assistant", " done "),
        said("user", "Please continue"),
        called("finish", ""),
    ]);
    let trajectory = only(&[("x.jsonl", &row("o__r-7_12", &messages, &json!({"resolved": true})))]);
    assert_eq!((trajectory.task.as_str(), trajectory.id.as_str()), ("o__r-7", "o__r-7/m_maxiter_5"));
    assert_eq!((trajectory.source.as_str(), trajectory.model.as_deref()), ("set", Some("m")));
    assert_eq!(
        trajectory.prompt.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(),
        ["sys", "a\n[image]\nb"]
    );
    assert_eq!(
        outline(&trajectory),
        [
            r#"call:execute_bash{"command":"ls"} <- files"#,
            "message:done <- Please continue",
            "call:finish{} <- nothing"
        ]
    );
    assert_eq!((trajectory.outcome, trajectory.message_count), (Outcome::Success, 7));
    assert_eq!(trajectory.patch.as_deref(), Some("diff"));
    assert!(
        trajectory.extra.contains_key("tools") && trajectory.extra["test_result"].get("git_patch").is_none()
    );
}

#[test]
fn c2_the_report_decides_what_a_swegym_outcome_is() {
    let outcome =
        |report: Value| only(&[("x.jsonl", &row("t-1", &json!([said("user", "p")]), &report))]).outcome;
    assert_eq!(
        outcome(json!({"error_eval": true, "resolved": true})),
        Outcome::Unknown(UnknownCause::Infrastructure)
    );
    for failure in ["empty_generation", "failed_apply_patch", "test_timeout"] {
        assert_eq!(outcome(json!({ failure: true })), Outcome::Failure);
    }
    assert_eq!(outcome(json!({"resolved": false})), Outcome::Failure);
    assert_eq!(outcome(json!(null)), Outcome::Success, "without a report the row's own word counts");
}

#[test]
fn c3_an_error_about_an_output_that_is_not_there_gives_an_invalid_turn() {
    let error = said("user", "Missing argument\n[Error occurred in processing last action]");
    let messages = json!([said("user", "p"), called("t", "{}"), {"role": "tool", "content": "x"}, error, called("t", "{}")]);
    let trajectory = only(&[("x.jsonl", &row("t-1", &messages, &json!(null)))]);
    let expected = [
        "call:t{} <- x",
        "invalid: <- Missing argument\n[Error occurred in processing last action]",
        "call:t{} <- nothing",
    ];
    assert_eq!(outline(&trajectory), expected);
    assert!(matches!(trajectory.turns[1].action, Action::Invalid { raw_missing: true, .. }));
    let first = json!([said("user", "p"), error]);
    assert_eq!(only(&[("x.jsonl", &row("t-1", &first, &json!(null)))]).turns.len(), 1);
    let answered = json!([said("user", "p"), called("t", "{}"), error]);
    assert_eq!(
        outline(&only(&[("x.jsonl", &row("t-1", &answered, &json!(null)))])).len(),
        1,
        "here it is the call's own result"
    );
}

#[test]
fn a12_a_broken_call_makes_the_turn_invalid_and_keeps_its_text() {
    let broken = |name: &str, arguments: &str| {
        let messages = json!([said("user", "p"), called(name, arguments)]);
        outline(&only(&[("x.jsonl", &row("t-1", &messages, &json!(null)))])).remove(0)
    };
    assert_eq!(broken("t", "{\"a\":"), "invalid:t{\"a\": <- nothing");
    assert_eq!(broken("t", "[1]"), "invalid:t[1] <- nothing");
    assert_eq!(broken("t", "{\"a\":1e999}"), "invalid:t{\"a\":1e999} <- nothing");
    assert_eq!(broken("", "{}"), "invalid:{} <- nothing");
    assert_eq!(broken("t", "{\"a\":\"\\ud800\"}"), "call:t{\"a\":\"\u{fffd}\"} <- nothing");
}

#[test]
fn b2_results_come_first_and_are_matched_by_position() {
    let two = json!({"role": "assistant", "content": "go", "tool_calls": [
        {"id": "same", "function": {"name": "a", "arguments": "{}"}}, {"id": "same", "function": {"name": "b", "arguments": {}}}]});
    let messages = json!([said("user", "p"), two, {"role": "tool", "content": "1"}, said("user", "note"), {"role": "tool", "content": "2"}]);
    let trajectory = only(&[("x.jsonl", &row("t-1", &messages, &json!(null)))]);
    assert_eq!(outline(&trajectory), ["call:a{}\nb{} <- 1|2|note"]);
    let parts = trajectory.turns[0].observation.as_ref().unwrap();
    assert_eq!(
        parts.iter().map(|part| part.tool.as_deref()).collect::<Vec<_>>(),
        [Some("a"), Some("b"), None]
    );
}

#[test]
fn the_text_protocol_is_read_where_there_are_no_native_calls() {
    let messages = json!([
        said("user", "p"),
        said("assistant", "look\n\n<function=execute_bash>\n<parameter=command>\nls\n-la\n</parameter>\n"),
        said("user", "EXECUTION RESULT of [execute_bash]:\nfiles"),
        said(
            "assistant",
            "<function=str_replace_editor>\n<parameter=view_range>[1, 5]</parameter>\n<parameter=insert_line>3</parameter>\n</function> tail"
        ),
        said("assistant", "<function=oops"),
    ]);
    let trajectory = only(&[("x.jsonl", &row("t-1", &messages, &json!(null)))]);
    assert_eq!(
        outline(&trajectory),
        [
            "call:execute_bash{\"command\":\"ls\\n-la\"} <- files",
            "call:str_replace_editor{\"insert_line\":3,\"view_range\":[1,5]} <- nothing",
            "invalid:<function=oops <- nothing",
        ]
    );
    assert_eq!(trajectory.turns[0].free_text, "look");
    assert!(
        trajectory.turns[0].raw.as_ref().unwrap().ends_with("</parameter>\n"),
        "the raw text is kept before repair"
    );
}

#[test]
fn the_in_context_example_is_stripped_from_the_prompt() {
    let dashes = "-".repeat(21);
    let wrapped = format!(
        "Here's a running example of how to perform a task with the provided tools.\n\n{dashes} START OF EXAMPLE {dashes}\nx\n{dashes} END OF EXAMPLE {dashes}\n\n{dashes} NEW TASK DESCRIPTION {dashes}\nthe task\n{dashes} END OF NEW TASK DESCRIPTION {dashes}\n\nPLEASE"
    );
    let trajectory = only(&[(
        "x.jsonl",
        &row("t-1", &json!([said("system", "s"), said("user", &wrapped)]), &json!(null)),
    )]);
    assert_eq!(trajectory.prompt[1].content, "the task");
    let quoting = format!("about {dashes} NEW TASK DESCRIPTION {dashes}\nx");
    let trajectory = only(&[("x.jsonl", &row("t-1", &json!([said("user", &quoting)]), &json!(null)))]);
    assert_eq!(trajectory.prompt[0].content, quoting, "only the example's own wrapper is cut");
}

#[test]
fn c7_repeated_ids_are_numbered_in_order_of_path_and_line() {
    let line = row("t-1", &json!([said("user", "p")]), &json!(null));
    let imported = import(&[("b.jsonl", &line), ("a.jsonl", &format!("{line}\n{line}\n"))]);
    let ids = imported.trajectories.iter().map(|t| (t.origin.path.as_str(), t.origin.line, t.id.as_str()));
    assert_eq!(
        ids.collect::<Vec<_>>(),
        [
            ("a.jsonl", 1, "t-1/m_maxiter_5"),
            ("a.jsonl", 2, "t-1/m_maxiter_5#2"),
            ("b.jsonl", 1, "t-1/m_maxiter_5#3")
        ]
    );
}

fn mini(exit: &str, messages: Value) -> String {
    let mut messages = messages;
    messages
        .as_array_mut()
        .unwrap()
        .push(json!({"role": "exit", "content": "patch", "extra": {"exit_status": exit}}));
    json!({"instance_id": "o__r-1", "trajectory_format": "mini-swe-agent-1.1", "messages": messages,
           "info": {"exit_status": exit, "submission": "patch", "config": {"model": {"model_name": "m"}}}})
    .to_string()
}

const REPORT: &str = "o__r-1/run.report.json";
const RUN: &str = "o__r-1/run.traj.json";

fn mini_outcome(exit: &str, others: &[(&str, &str)]) -> Outcome {
    let record = mini(exit, json!([said("user", "p")]));
    let mut files = vec![(RUN, record.as_str())];
    files.extend(others);
    only(&files).outcome
}

#[test]
fn c2_c16_a_mini_swe_agent_outcome_comes_from_report_or_index() {
    let report = r#"{"o__r-1": {"resolved": true}}"#;
    let index = |resolved: &str| {
        format!(r#"{{"instance_id":"o__r-1","run":"run","file":"{RUN}","resolved":{resolved}}}"#)
    };
    assert_eq!(mini_outcome("Submitted", &[(REPORT, report)]), Outcome::Success);
    assert_eq!(mini_outcome("Submitted", &[("verdicts.jsonl", &index("false"))]), Outcome::Failure);
    assert_eq!(
        mini_outcome("Submitted", &[("verdicts.jsonl", &index("null")), (REPORT, report)]),
        Outcome::Success
    );
    assert_eq!(
        mini_outcome("Submitted", &[("verdicts.jsonl", &index("null"))]),
        Outcome::Unknown(UnknownCause::NoVerdict)
    );
    assert_eq!(mini_outcome("LimitsExceeded", &[(REPORT, report)]), Outcome::Success);
    assert_eq!(mini_outcome("Timeout", &[(REPORT, report)]), Outcome::Unknown(UnknownCause::Infrastructure));
    let record = mini("Submitted", json!([said("user", "p")]));
    let imported = import(&[(RUN, &record), (REPORT, report), ("verdicts.jsonl", &index("false"))]);
    assert_eq!(imported.trajectories, []);
    let reason = imported.refused[0].to_string();
    assert!(reason.contains(REPORT) && reason.contains("verdicts.jsonl"), "{reason}");
}

#[test]
fn c8_a_mini_swe_agent_file_lies_in_the_folder_of_its_task() {
    let record = mini("Submitted", json!([said("user", "p")]));
    let imported = import(&[("example.traj.json", &record), ("other/x.traj.json", &record), (RUN, &record)]);
    assert_eq!(imported.trajectories.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["o__r-1/run"]);
    assert_eq!(imported.ignored, ["example.traj.json", "other/x.traj.json"]);
    let mut named =
        Importer::new(ImportOptions { require_instance_folder: false, ..ImportOptions::new("set") });
    named.add("example.traj.json", record.as_bytes());
    assert_eq!(named.finish().trajectories[0].id, "o__r-1/example");
}

#[test]
fn c15_recorded_actions_stand_in_for_missing_calls_and_fences_for_both() {
    let recorded = json!({"role": "assistant", "content": "go", "extra": {"actions": [{"command": "ls"}, {"command": "pwd"}]}});
    let fenced = said("assistant", "THOUGHT\n```bash\nls -la\n```\n");
    let messages = json!([
        said("user", "p"),
        recorded,
        said("user", "out"),
        fenced,
        said("user", "out"),
        said("assistant", "none"),
        said("user", "error")
    ]);
    let record = mini("Submitted", messages);
    let trajectory = only(&[(RUN, &record)]);
    assert_eq!(
        outline(&trajectory),
        [
            "call:execute_bash{\"command\":\"ls\"}\nexecute_bash{\"command\":\"pwd\"} <- out",
            "call:execute_bash{\"command\":\"ls -la\"} <- out",
            "invalid:none <- error",
        ]
    );
    assert_eq!(trajectory.message_count, 7, "the exit message does not count");
}

#[test]
fn a_format_error_of_mini_swe_agent_stands_for_the_output_that_it_dropped() {
    let error =
        json!({"role": "user", "content": "Tool call error", "extra": {"interrupt_type": "FormatError"}});
    let record = mini(
        "Submitted",
        json!([said("user", "p"), called("bash", "{\"command\":\"ls\"}"), {"role": "tool", "content": "x"}, error]),
    );
    assert_eq!(
        outline(&only(&[(RUN, &record)])),
        ["call:execute_bash{\"command\":\"ls\"} <- x", "invalid: <- Tool call error"]
    );
}

#[test]
fn a_stored_trajectory_reads_back_as_it_was() {
    let trajectory =
        only(&[("x.jsonl", &row("t-1", &json!([said("user", "p"), called("t", "{}")]), &json!(null)))]);
    let line = serde_json::to_string(&trajectory).unwrap();
    assert_eq!(only(&[("stored.jsonl", &line)]), trajectory);
}

#[test]
fn formats_have_names() {
    for (name, format) in Format::NAMES {
        assert_eq!((Format::from_name(name), format.name()), (Some(format), name));
    }
    assert_eq!(Format::from_name("mini_swe_agent"), Some(Format::MiniSweAgent));
    assert_eq!(Format::from_name("csv"), None);
}
