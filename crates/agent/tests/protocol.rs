//! The text call protocol: what becomes a call, what is refused and in which words, what hostile text does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use proptest::prelude::*;
use sealign_agent::harness::openhands::call::{Call, Reading, read};
use sealign_agent::harness::openhands::{Profile, tools};
use serde_json::json;
use support::{bash, call};

fn read_024(text: &str) -> Reading {
    read(text, tools(Profile::OpenHands024))
}

fn problem(text: &str) -> String {
    match read_024(text) {
        Reading::Invalid(problem) => problem,
        other => panic!("{text:?} was read as {other:?}"),
    }
}

fn command(text: &str) -> (String, String) {
    match read_024(text) {
        Reading::Call { call, free_text } => match call.meant {
            Call::Bash(request) => (free_text, request.command),
            other => panic!("{other:?}"),
        },
        other => panic!("{text:?} was read as {other:?}"),
    }
}

#[test]
fn free_text_stands_before_the_call_and_what_follows_is_dropped() {
    let text = format!("I look first.\n\n{}\nand then I would", bash("ls"));
    assert_eq!(command(&text), ("I look first.".into(), "ls".into()));
}

#[test]
fn a_call_that_its_stop_sequence_cut_off_is_completed() {
    let whole = bash("ls\npwd");
    for cut in ["</function>", "function>", "</function"] {
        let text = whole.strip_suffix("</function>").unwrap().to_owned()
            + "</function>".strip_suffix(cut).unwrap_or("");
        assert_eq!(command(&text).1, "ls\npwd", "{text:?}");
    }
}

#[test]
fn of_two_calls_the_first_complete_one_counts_and_nothing_is_repaired() {
    assert_eq!(command(&format!("{}\n{}", bash("first"), bash("second"))).1, "first");
    let text = format!("{}\n<function=execute_bash>\n<parameter=command>x</parameter>", bash("first"));
    assert_eq!(command(&text).1, "first");
    problem("<function=execute_bash>\n<function=execute_bash>\n<parameter=command>x</parameter>");
}

#[test]
fn the_slip_of_a_name_and_value_in_the_tag_is_read_as_meant() {
    assert_eq!(command("<function=execute_bash>\n<parameter=command=ls</parameter>\n</function>").1, "ls");
}

#[test]
fn text_without_a_call_is_a_message() {
    for text in ["", "done", "</function>", "<parameter=a>b</parameter>", "<function"] {
        assert_eq!(read_024(text), Reading::Message, "{text:?}");
    }
}

#[test]
fn refusals_name_what_is_wrong_in_the_words_of_the_protocol() {
    assert_eq!(
        problem(&call("python", &[])),
        "Function 'python' not found in available tools: ['execute_bash', 'finish', 'str_replace_editor']"
    );
    assert_eq!(
        problem(&call("execute_bash", &[("cmd", "ls")])),
        "Parameter 'cmd' is not allowed for function 'execute_bash'. Allowed parameters: {'command', 'is_input'}"
    );
    assert_eq!(
        problem(&call("str_replace_editor", &[("command", "view")])),
        "Missing required parameters for function 'str_replace_editor': {'path'}"
    );
    assert_eq!(
        problem(&call("execute_bash", &[("command", "ls"), ("is_input", "maybe")])),
        "Parameter 'is_input' is expected to be one of ['true', 'false']."
    );
    let edit = |name, value| {
        problem(&call("str_replace_editor", &[("command", "insert"), ("path", "/a"), (name, value)]))
    };
    assert_eq!(edit("insert_line", "two"), "Parameter 'insert_line' is expected to be an integer.");
    assert_eq!(edit("view_range", "1-5"), "Parameter 'view_range' is expected to be an array.");
    problem("<function=execute_bash");
}

#[test]
fn integers_and_arrays_get_their_types_in_the_record() {
    let text = call(
        "str_replace_editor",
        &[("command", "view"), ("path", "/a"), ("insert_line", "3"), ("view_range", "[1, -1]")],
    );
    let Reading::Call { call, .. } = read_024(&text) else { panic!() };
    assert_eq!(call.written.arguments["insert_line"], json!(3));
    assert_eq!(call.written.arguments["view_range"], json!([1, -1]));
}

#[test]
fn finish_and_think_follow_the_profile() {
    let think = call("think", &[("thought", "hm")]);
    assert!(matches!(read_024(&think), Reading::Invalid(_)));
    let Reading::Call { call: read_call, .. } = read(&think, tools(Profile::OpenHands028)) else { panic!() };
    assert_eq!(read_call.meant, Call::Think);
    let bare = call("finish", &[]);
    assert!(matches!(read_024(&bare), Reading::Call { .. }));
    assert!(matches!(read(&bare, tools(Profile::OpenHands028)), Reading::Invalid(_)));
}

#[test]
fn huge_and_hostile_texts_are_read_in_bounded_time() {
    let begun = std::time::Instant::now();
    for text in [
        "<function=".repeat(100_000),
        "<function=a>\n<parameter=b>".repeat(30_000),
        format!("<function={}>\n</function>", "x".repeat(1_000_000)),
        format!("<function=execute_bash>\n{}</function>", "<parameter=command>".repeat(50_000)),
        format!(
            "<function=execute_bash>\n<parameter=command>{}</parameter>",
            "\u{0}\u{202e}é".repeat(100_000)
        ),
    ] {
        if let Reading::Invalid(problem) = read_024(&text) {
            assert!(problem.len() < 1_000, "{}", problem.len());
        }
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// Texts made of the protocol's own pieces, where parsers break.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<function=".to_owned()),
        Just("<function=execute_bash>\n".to_owned()),
        Just("<function=str_replace_editor>".to_owned()),
        Just("<parameter=command>".to_owned()),
        Just("<parameter=view_range>[1,2".to_owned()),
        Just("<parameter=insert_line>99999999999999999999".to_owned()),
        Just("</parameter>".to_owned()),
        Just("</function>".to_owned()),
        Just("</".to_owned()),
        Just(">".to_owned()),
        "\\PC{0,8}",
        "[\\x00-\\x20é\u{1F600}]{0,4}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in pieces()) {
        for profile in [Profile::OpenHands024, Profile::OpenHands028, Profile::Compact] {
            let _ = read(&text, tools(profile));
        }
    }

    #[test]
    fn a_written_command_is_read_back(command in "[^<>]{1,40}") {
        prop_assume!(!command.trim().is_empty());
        match read_024(&bash(&command)) {
            Reading::Call { call, .. } => prop_assert_eq!(
                call.meant,
                Call::Bash(sealign_agent::harness::openhands::call::BashRequest {
                    command: command.trim().to_owned(), is_input: false,
                })
            ),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
