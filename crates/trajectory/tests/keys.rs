//! Canonical keys and normalised observations: one test per rule of specs 5.11 A and B.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_trajectory::key::{KeyOptions, call_key, full_text_key, normalise_path};
use sealign_trajectory::observe::{Normaliser, unwrap};
use sealign_trajectory::stuck::{Stuck, stuck};
use sealign_trajectory::{Action, Message, ObservationPart, Role, ToolCall, Trajectory, Turn};
use serde_json::{Value, json};

fn turn(action: Action) -> Turn {
    Turn {
        raw: None,
        free_text: "  a\r\nthought ".to_owned(),
        action,
        observation: None,
        condensed_before: false,
    }
}

fn calls(calls: &[(&str, Value)]) -> Turn {
    let call = |(name, arguments): &(&str, Value)| ToolCall {
        name: (*name).to_owned(),
        arguments: arguments.as_object().unwrap().clone(),
    };
    turn(Action::Calls { calls: calls.iter().map(call).collect() })
}

fn check(name: &str, arguments: Value, key: &str) {
    assert_eq!(call_key(&calls(&[(name, arguments)]), KeyOptions::default()), key);
}

#[test]
fn a1_a_key_says_what_kind_of_action_it_is() {
    check("execute_bash", json!({"command": "ls"}), r#"call:execute_bash{"command":"ls"}"#);
    let two = calls(&[("execute_bash", json!({"command": "ls"})), ("think", json!({"thought": "hm"}))]);
    assert_eq!(
        call_key(&two, KeyOptions::default()),
        "call:execute_bash{\"command\":\"ls\"}\nthink{\"thought\":\"hm\"}"
    );
    assert_eq!(
        full_text_key(&two, KeyOptions::default()),
        "call:execute_bash{\"command\":\"ls\"}\nthink{\"thought\":\"hm\"}\n\na\nthought"
    );
    let message = turn(Action::Message);
    assert_eq!(call_key(&message, KeyOptions::default()), "message:a\nthought");
    assert_eq!(full_text_key(&message, KeyOptions::default()), "message:a\nthought");
    let invalid = turn(Action::Invalid { text: " <function=\r\n".to_owned(), raw_missing: false });
    assert_eq!(call_key(&invalid, KeyOptions::default()), "invalid:<function=");
}

#[test]
fn a2_null_members_are_dropped_at_the_top_level_only() {
    check("t", json!({"b": null, "a": {"c": null}, "n": 1.0}), r#"call:t{"a":{"c":null},"n":1}"#);
}

#[test]
fn a3_strings_are_trimmed_except_those_that_are_file_content() {
    check(
        "t",
        json!({"x": "\u{a0} a\r\nb\t", "y": [" c "], "z": {" k ": " d "}}),
        "call:t{\"x\":\"a\\nb\",\"y\":[\"c\"],\"z\":{\" k \":\"d\"}}",
    );
    check("t", json!({"old_str": "\n\n a \n\n"}), "call:t{\"old_str\":\"\\n a \\n\"}");
    check(
        "t",
        json!({"new_str": "\r\na\r\n", "file_text": "\n"}),
        "call:t{\"file_text\":\"\",\"new_str\":\"a\"}",
    );
    check("t", json!({"in": {"old_str": " a "}}), "call:t{\"in\":{\"old_str\":\"a\"}}");
    check("t", json!({"x": "a\rb\r"}), "call:t{\"x\":\"a\\rb\"}");
    check("t", json!({"x": "\u{1f}a\u{1f}"}), "call:t{\"x\":\"\\u001fa\\u001f\"}");
}

#[test]
fn a4_only_the_editors_path_is_normalised() {
    let cases = [
        ("/a//b/./c/", "/a/b/c"),
        ("//a", "/a"),
        ("/a/../b", "/b"),
        ("/../..", "/"),
        ("a/..", "."),
        ("", "."),
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("./a", "a"),
    ];
    for (path, normalised) in cases {
        assert_eq!(normalise_path(path), normalised, "{path}");
    }
    check("str_replace_editor", json!({"path": " /a//b/ "}), r#"call:str_replace_editor{"path":"/a/b"}"#);
    check(
        "execute_bash",
        json!({"command": "cat /a//b", "path": "/a//b"}),
        r#"call:execute_bash{"command":"cat /a//b","path":"/a//b"}"#,
    );
}

#[test]
fn a6_temporary_paths_are_one_name_unless_told_otherwise() {
    check(
        "t",
        json!({"x": "/tmp/tmpAb_9/f /tmp/tmp /tmp/tmpz\n"}),
        r#"call:t{"x":"/tmp/tmp<X>/f /tmp/tmp /tmp/tmp<X>"}"#,
    );
    let kept = KeyOptions { unify_temporary_paths: false };
    assert_eq!(call_key(&calls(&[("t", json!({"x": "/tmp/tmpAb"}))]), kept), r#"call:t{"x":"/tmp/tmpAb"}"#);
    assert_eq!(Normaliser::standard(false).text("/tmp/tmpAb"), "/tmp/tmpAb");
}

#[test]
fn a9_to_a11_ignored_arguments_do_not_count() {
    check("finish", json!({"message": "done", "task_completed": "true"}), "call:finish{}");
    check(
        "execute_bash",
        json!({"command": "ls", "timeout": 9, "security_risk": "LOW"}),
        r#"call:execute_bash{"command":"ls"}"#,
    );
    for unset in [json!(false), json!(null), json!(""), json!("False"), json!(" false ")] {
        check(
            "execute_bash",
            json!({"command": "y", "is_input": unset}),
            r#"call:execute_bash{"command":"y"}"#,
        );
    }
    for set in [json!(true), json!("true"), json!("True"), json!(1)] {
        check(
            "execute_bash",
            json!({"command": "y", "is_input": set}),
            r#"call:execute_bash{"command":"y","is_input":true}"#,
        );
    }
}

#[test]
fn a14_aliases_are_one_tool_and_names_keep_their_case() {
    for alias in ["terminal", "bash", "execute_bash"] {
        check(alias, json!({}), "call:execute_bash{}");
    }
    check("file_editor", json!({"path": "/a/"}), r#"call:str_replace_editor{"path":"/a"}"#);
    check("Bash", json!({}), "call:Bash{}");
}

#[test]
fn b3_what_differs_between_two_runs_is_replaced_in_order() {
    let normaliser = Normaliser::standard(true);
    let cases = [
        ("a \t\r\nb\t", "a\nb"),
        ("2024-03-09T10:11:12.345Z end", "<time> end"),
        ("2024-03-09 10:11,", "<time>,"),
        ("2024-03-09 10:11:12,123 x", "<time> x"),
        ("2024-03-09 10:11:12 +0200", "<time> +0200"),
        ("Sat, Mar  9 10:11:12 2024", "<time>"),
        ("Sat Mar 9 10:11", "<time>"),
        ("-rw-r--r-- Mar  9 2024 f", "-rw-r--r-- <time> f"),
        ("at 10:11:12.5!", "at <time>!"),
        ("3 passed in 0.12s", "3 passed in <duration>"),
        ("in 12s, in 12 s", "in <duration>, in 12 s"),
        ("<X at 0x7F00ab>", "<X at <address>>"),
        ("pid 12, PID=3, process: 9 Process #7", "pid <pid>, PID=<pid>, process: <pid> Process #<pid>"),
        ("/tmp/tmpa1/x", "/tmp/tmp<X>/x"),
        ("é10:11:12é", "é<time>é"),
    ];
    for (text, normalised) in cases {
        assert_eq!(normaliser.text(text), normalised, "{text}");
    }
}

#[test]
fn b4_the_scaffolds_wrapper_is_no_part_of_the_observation() {
    assert_eq!(unwrap("OBSERVATION:\nOBSERVATION:\nx"), (None, "OBSERVATION:\nx"));
    assert_eq!(unwrap("EXECUTION RESULT of [finish]:\nx"), (Some("finish"), "x"));
    assert_eq!(unwrap("x OBSERVATION:\n"), (None, "x OBSERVATION:\n"));
}

#[test]
fn c5_the_prompt_is_compared_after_normalisation() {
    let normaliser = Normaliser::standard(true);
    let prompt = |text: &str| vec![Message { role: Role::User, content: text.to_owned() }];
    let digest = |text: &str| normaliser.prompt_digest(&prompt(text));
    assert_eq!(digest("in /tmp/tmpab now"), digest("in /tmp/tmpcd now "));
    assert_ne!(digest("a"), digest("b"));
    assert_eq!(digest("a"), sealign_trajectory::key::digest("[\"a\"]"));
}

#[test]
fn three_equal_actions_are_stuck_whatever_came_back() {
    let measure = |words: &[&str]| {
        let turns = words.iter().map(|word| match *word {
            "~" => turn(Action::Invalid { text: String::new(), raw_missing: true }),
            word => calls(&[("bash", json!({"command": word}))]),
        });
        let mut trajectory: Trajectory = serde_json::from_value(json!({
            "id": "a", "source": "s", "task": "t", "prompt": [], "turns": [], "outcome": "failure",
            "origin": {"format": "f", "path": "p", "line": 1}, "message_count": 0,
        }))
        .unwrap();
        trajectory.turns = turns.collect();
        trajectory.turns.iter_mut().enumerate().for_each(|(index, turn)| {
            turn.free_text = index.to_string();
            turn.observation = Some(vec![ObservationPart { tool: None, text: index.to_string() }]);
        });
        stuck(&trajectory, KeyOptions::default())
    };
    assert_eq!(measure(&["a", "a", "a"]), Stuck { anywhere: true, at_end: true });
    assert_eq!(measure(&["a", "a", "a", "b"]), Stuck { anywhere: true, at_end: false });
    assert_eq!(measure(&["a", "a", "b", "a"]), Stuck::default());
    assert_eq!(measure(&["~", "~", "~"]), Stuck::default());
    assert_eq!(measure(&["a", "a"]), Stuck::default());
}
