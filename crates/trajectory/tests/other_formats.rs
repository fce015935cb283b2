//! The formats beside SWE-Gym's and mini-swe-agent's, on small records (specs 6.1 to 6.6; rules A16, B4, C3, C5, C17, C18).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_trajectory::import::{ImportOptions, Imported, Importer};
use sealign_trajectory::key::{KeyOptions, call_key};
use sealign_trajectory::{Outcome, Trajectory, UnknownCause};
use serde_json::{Value, json};

fn import(files: &[(&str, String)]) -> Imported {
    let mut importer = Importer::new(ImportOptions::new("set"));
    for (path, text) in files {
        importer.add(path, text.as_bytes());
    }
    importer.finish()
}

fn only(path: &str, text: &str) -> Trajectory {
    let mut imported = import(&[(path, text.to_owned())]);
    assert_eq!(imported.refused, []);
    assert_eq!(imported.trajectories.len(), 1);
    imported.trajectories.remove(0)
}

/// Keys with what came back: `key <- texts`.
fn outline(trajectory: &Trajectory) -> Vec<String> {
    let show = |turn: &sealign_trajectory::Turn| {
        let texts = turn
            .observation
            .as_ref()
            .map(|parts| parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>());
        format!(
            "{} <- {}",
            call_key(turn, KeyOptions::default()),
            texts.map_or("nothing".to_owned(), |texts| texts.join("|"))
        )
    };
    trajectory.turns.iter().map(show).collect()
}

fn act(id: u64, action: &str, args: &Value) -> Value {
    json!({"id": id, "source": "agent", "action": action, "args": args})
}

fn saw(cause: u64, observation: &str, content: &str) -> Value {
    json!({"cause": cause, "source": "agent", "observation": observation, "content": content, "extras": {}})
}

fn events_row(history: &Value) -> String {
    json!({"instance_id": "o__r-1", "history": history, "test_result": {"git_patch": "diff"}, "error": null})
        .to_string()
}

#[test]
fn openhands_events_become_turns_and_bookkeeping_vanishes() {
    let history = json!([
        {"id": 0, "source": "agent", "action": "system", "args": {"content": "sys"}},
        {"id": 1, "source": "user", "action": "message", "args": {"content": "task"}},
        {"id": 2, "source": "user", "action": "recall", "args": {}},
        {"id": 3, "source": "environment", "observation": "recall", "cause": 2, "content": "context"},
        act(4, "run", &json!({"command": "git init", "hidden": true})),
        {"cause": 4, "observation": "run", "content": "hidden", "extras": {"hidden": true}},
        act(5, "run", &json!({"command": "ls", "thought": "look", "is_input": false})),
        {"cause": 5, "observation": "run", "content": "a", "extras": {"metadata": {"exit_code": 0, "working_dir": "/w", "py_interpreter_path": "/py", "prefix": "<", "suffix": ">"}}},
        {"id": 6, "source": "agent", "observation": "error", "content": "bad call"},
        act(7, "read", &json!({"path": "/w/a", "view_range": null})),
        saw(7, "read", "text"),
        act(8, "edit", &json!({"command": "insert", "path": "/w/a", "insert_line": 1, "new_str": "x", "file_text": null})),
        act(9, "think", &json!({"thought": "hm"})),
        saw(8, "edit", "edited"),
        saw(9, "think", "logged"),
        act(10, "message", &json!({"content": "done"})),
        {"id": 11, "source": "user", "action": "message", "args": {"content": "go on"}},
        {"id": 12, "source": "agent", "action": "condensation", "args": {}},
        act(13, "finish", &json!({"outputs": {}, "thought": "bye"})),
    ]);
    let trajectory = only("x.jsonl", &events_row(&history));
    assert_eq!(
        trajectory.prompt.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(),
        ["sys", "task"]
    );
    assert_eq!(
        outline(&trajectory),
        [
            "call:execute_bash{\"command\":\"ls\"} <- <a>\n[Current working directory: /w]\n[Python interpreter: /py]\n[Command finished with exit code 0]",
            "invalid: <- bad call\n[Error occurred in processing last action]",
            "call:str_replace_editor{\"command\":\"view\",\"path\":\"/w/a\"} <- text",
            "call:str_replace_editor{\"command\":\"insert\",\"insert_line\":1,\"new_str\":\"x\",\"path\":\"/w/a\"} <- edited",
            "call:think{\"thought\":\"hm\"} <- logged",
            "message:done <- go on",
            "call:finish{} <- nothing",
        ]
    );
    assert_eq!(trajectory.turns[0].free_text, "look");
    assert_eq!(
        trajectory.turns.iter().map(|turn| turn.condensed_before).collect::<Vec<_>>(),
        [false, false, false, false, false, false, true]
    );
    assert_eq!(
        (trajectory.outcome, trajectory.patch.as_deref()),
        (Outcome::Unknown(UnknownCause::NoVerdict), Some("diff"))
    );
}

#[test]
fn events_of_one_model_response_are_one_turn_with_the_models_own_calls() {
    let call = |name: &str| json!({"function": {"name": name, "arguments": "{\"n\":1}"}});
    let response = json!({"id": "r1", "choices": [{"message": {"content": "both", "tool_calls": [call("a"), call("b")]}}]});
    let part = |id: u64| json!({"id": id, "source": "agent", "action": "run", "args": {"command": "ignored"}, "tool_call_metadata": {"function_name": "a", "model_response": response}});
    let history = json!([{"source": "user", "action": "message", "args": {"content": "p"}}, part(1), saw(1, "run", "1"), part(2), saw(2, "run", "2")]);
    let trajectory = only("x.jsonl", &events_row(&history));
    assert_eq!(outline(&trajectory), ["call:a{\"n\":1}\nb{\"n\":1} <- 1|2"]);
}

#[test]
fn pairs_of_events_and_bare_lists_are_read_and_the_editor_in_python_is_the_editor() {
    let edit = json!({"source": "agent", "action": "run_ipython", "args": {"code": "print(file_editor(**{'command': 'view', 'path': '/a/'}))"}});
    let other = json!({"source": "agent", "action": "run_ipython", "args": {"code": "1 + 1"}});
    let answer = json!({"observation": "run_ipython", "content": "ok"});
    let task = json!({"source": "user", "action": "message", "args": {"content": "p"}});
    let pairs = json!([[task, {"observation": "null", "content": ""}], [edit, answer], [other, answer]]);
    let expected = [
        "call:str_replace_editor{\"command\":\"view\",\"path\":\"/a\"} <- ok",
        "call:execute_ipython_cell{\"code\":\"1 + 1\"} <- ok",
    ];
    assert_eq!(outline(&only("x.jsonl", &events_row(&pairs))), expected);
    let flat: Vec<Value> =
        pairs.as_array().unwrap().iter().flat_map(|pair| pair.as_array().unwrap().clone()).collect();
    assert_eq!(outline(&only("t-1.json", &Value::Array(flat).to_string())), expected);
}

fn sdk_events() -> Vec<Value> {
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    let acted = |id: &str, response: &str, call: Value| {
        json!({"kind": "ActionEvent", "id": id, "thought": text("why"), "tool_name": "terminal",
        "tool_call": call, "action": {"kind": "ExecuteBashAction", "command": "typed"}, "llm_response_id": response})
    };
    let saw = |observation: Value| json!({"kind": "ObservationEvent", "id": "o", "tool_name": "terminal", "observation": observation});
    let written = json!({"id": "c", "name": "terminal", "arguments": "{\"command\":\"written\"}"});
    vec![
        json!({"kind": "SystemPromptEvent", "id": "s", "system_prompt": {"type": "text", "text": "sys"}}),
        json!({"kind": "MessageEvent", "id": "m", "source": "user", "llm_message": {"role": "user", "content": text("task")}, "extended_content": text("more")}),
        acted("1", "r1", written.clone()),
        acted("2", "r1", written),
        saw(
            json!({"kind": "ExecuteBashObservation", "output": "out", "error": false, "timeout": false, "metadata": {"exit_code": 1}}),
        ),
        saw(json!({"kind": "ThinkObservation", "content": text("thought")})),
        json!({"kind": "Condensation", "id": "c", "summary": "s"}),
        acted("3", "r2", Value::Null),
        json!({"kind": "AgentErrorEvent", "id": "e", "tool_name": "terminal", "error": "refused"}),
    ]
}

#[test]
fn sdk_streams_are_read_from_one_file_and_from_a_folder_of_events() {
    let expected = [
        "call:execute_bash{\"command\":\"written\"}\nexecute_bash{\"command\":\"written\"} <- out\nfalse\n1\nfalse|thought",
        "call:execute_bash{\"command\":\"typed\"} <- refused",
    ];
    let lines: Vec<String> = sdk_events().iter().map(Value::to_string).collect();
    let one_file = only("o__r-1/conv.events.jsonl", &lines.join("\n"));
    assert_eq!(outline(&one_file), expected);
    assert_eq!((one_file.task.as_str(), one_file.id.as_str()), ("o__r-1", "o__r-1/conv"));
    assert_eq!(one_file.prompt[1].content, "task\nmore");
    assert_eq!(one_file.turns.iter().map(|turn| turn.condensed_before).collect::<Vec<_>>(), [false, true]);
    let mut files: Vec<(String, String)> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| (format!("o__r-1/conv/events/event-{index:05}-0a1b2c3d.json"), line.clone()))
        .collect();
    files.reverse();
    let files: Vec<(&str, String)> = files.iter().map(|(path, line)| (path.as_str(), line.clone())).collect();
    let folder = import(&files);
    assert_eq!((folder.trajectories.len(), folder.refused.len()), (1, 0));
    assert_eq!(outline(&folder.trajectories[0]), expected);
    assert_eq!(folder.trajectories[0].id, "o__r-1/conv");
}

#[test]
fn swe_agent_demonstrations_are_left_out_and_the_report_beside_the_file_counts() {
    let record = json!({"environment": "e", "trajectory": [{"action": "x"}], "info": {"exit_status": "submitted", "submission": "diff"}, "history": [
        {"role": "system", "content": "sys"},
        {"role": "assistant", "content": "demo", "action": "demo", "is_demo": true},
        {"role": "user", "content": "task"},
        {"role": "assistant", "content": "why\n```\nopen a.py 3\n```", "thought": "why", "action": "open a.py 3\n"},
        {"role": "user", "content": "opened"},
        {"role": "assistant", "content": "no command", "thought": "", "action": ""},
    ]});
    let report = json!({"o__r-1": {"resolved": true}}).to_string();
    let imported = import(&[("o__r-1/o__r-1.traj", record.to_string()), ("o__r-1/report.json", report)]);
    let trajectory = &imported.trajectories[0];
    assert_eq!(
        outline(trajectory),
        ["call:open{\"command\":\"open a.py 3\"} <- opened", "invalid:no command <- nothing"]
    );
    assert_eq!(
        (trajectory.outcome, trajectory.task.as_str(), trajectory.patch.as_deref()),
        (Outcome::Success, "o__r-1", Some("diff"))
    );
    assert_eq!(trajectory.turns[0].free_text, "why");
    let failed = record.to_string().replace("\"submitted\"", "\"exit_api\"");
    assert_eq!(only("o__r-1/o__r-1.traj", &failed).outcome, Outcome::Unknown(UnknownCause::Infrastructure));
}

#[test]
fn nebius_rows_take_the_last_fenced_block_as_the_command() {
    let row = json!({"instance_id": "o__r-1", "target": true, "model_name": "m", "exit_status": "submitted", "generated_patch": "d", "trajectory": [
        {"role": "system", "system_prompt": "sys", "text": null},
        {"role": "user", "text": "task"},
        {"role": "ai", "text": "```\nnot this\n```\nbut\n```bash\nls\n```"},
        {"role": "user", "text": "files"},
    ]});
    let trajectory = only("x.jsonl", &row.to_string());
    assert_eq!(outline(&trajectory), ["call:ls{\"command\":\"ls\"} <- files"]);
    assert_eq!((trajectory.outcome, trajectory.prompt[0].content.as_str()), (Outcome::Success, "sys"));
}

#[test]
fn chat_rows_may_lack_everything_but_their_messages() {
    let messages = json!([{"role": "developer", "content": "sys"}, {"role": "user", "content": "task"}, {"role": "assistant", "content": "hi", "weight": 0}]);
    let bare = only("x.jsonl", &json!({"messages": messages}).to_string());
    assert_eq!(bare.task, format!("prompt-{}", sealign_trajectory::key::digest("task")));
    assert_eq!(bare.outcome, Outcome::Unknown(UnknownCause::NoVerdict));
    let full = json!({"messages": messages.to_string(), "instance_id": "o__r.0123abcd.x", "traj_id": "o.r", "resolved": true, "model": "m", "patch": "d"});
    let full = only("x.jsonl", &full.to_string());
    assert_eq!(
        (full.id.as_str(), full.outcome, full.model.as_deref()),
        ("o__r.0123abcd.x/o.r", Outcome::Success, Some("m"))
    );
}

#[test]
fn completion_logs_end_with_their_response() {
    let log = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "task"}]}], "response": {"model": "m", "choices": [{"message": {"role": "assistant", "content": "done"}}]}});
    let files = [
        ("t-1.last_completion.json", log.to_string()),
        ("t-1.report.json", json!({"t-1": {"resolved": false}}).to_string()),
    ];
    let imported = import(&files);
    let trajectory = &imported.trajectories[0];
    assert_eq!(
        (trajectory.task.as_str(), trajectory.outcome, trajectory.model.as_deref()),
        ("t-1", Outcome::Failure, Some("m"))
    );
    assert_eq!(outline(trajectory), ["message:done <- nothing"]);
    assert_eq!(only("llm_completions/t-2/1.json", &log.to_string()).task, "t-2");
}

#[test]
fn a_simulated_users_opening_is_observation_zero_and_success_is_a_reward_of_one() {
    let row = |reward: f64| {
        json!({"task_id": 3, "trial": 1, "reward": reward, "traj": [
        {"role": "system", "content": "policy"}, {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "bye"}]}).to_string()
    };
    let trajectory = only("x.jsonl", &row(1.0));
    assert_eq!(
        (trajectory.id.as_str(), trajectory.outcome, trajectory.prompt.len()),
        ("3/trial-1", Outcome::Success, 1)
    );
    assert_eq!(trajectory.first_observation.as_ref().unwrap()[0].text, "hello");
    let chat =
        sealign_trajectory::chat::to_chat(&trajectory, &sealign_trajectory::chat::ChatOptions::default());
    assert_eq!(
        chat.iter().map(|turn| turn.content.as_str()).collect::<Vec<_>>(),
        ["policy", "hello", "hi", "bye"]
    );
    assert_eq!(only("x.jsonl", &row(0.99)).outcome, Outcome::Failure);
}

#[test]
fn intercode_files_hold_many_attempts_with_parallel_lists() {
    let attempt = |reward: f64| {
        json!({"query": "q", "dataset": "./data/nl2bash_fs_1.json", "summary": {"max_reward": reward},
        "turn_history": {"actions": ["ls", "pwd"], "observations": ["files", null]}})
    };
    let imported = import(&[("gpt-4.json", json!({"0": attempt(1.0), "7": attempt(0.5)}).to_string())]);
    assert_eq!(imported.refused, []);
    let ids: Vec<_> = imported.trajectories.iter().map(|t| (t.id.as_str(), t.outcome)).collect();
    assert_eq!(ids, [("nl2bash_fs_1/0/gpt-4", Outcome::Success), ("nl2bash_fs_1/7/gpt-4", Outcome::Failure)]);
    assert_eq!(
        outline(&imported.trajectories[0]),
        [
            "call:execute_bash{\"command\":\"ls\"} <- files",
            "call:execute_bash{\"command\":\"pwd\"} <- nothing"
        ]
    );
}

#[test]
fn what_is_not_recognised_is_refused_and_bookkeeping_is_ignored() {
    let imported = import(&[
        ("notes.json", "{\"a\":1}".to_owned()),
        ("conv/base_state.json", "{\"a\":1}".to_owned()),
        ("README.md", String::new()),
    ]);
    assert_eq!(imported.refused.len(), 1);
    assert!(imported.refused[0].to_string().starts_with("notes.json:1: the format is not recognised"));
    assert_eq!(imported.ignored, ["README.md", "conv/base_state.json"]);
}
