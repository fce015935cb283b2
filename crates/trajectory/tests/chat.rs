//! Training-time messages and rows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_trajectory::Trajectory;
use sealign_trajectory::chat::{ChatOptions, ChatTurn, decision, prefix, to_chat};
use sealign_trajectory::export::{PreferenceRow, SftRow, parse_rows, sft_row, write_rows};
use sealign_trajectory::protocol::{Parsed, parse, render_call};
use serde_json::json;

fn trajectory() -> Trajectory {
    let call = |command: &str| json!({"name": "execute_bash", "arguments": {"command": command}});
    serde_json::from_value(json!({
        "id": "a", "source": "s", "task": "t", "outcome": "success", "message_count": 9,
        "origin": {"format": "f", "path": "p", "line": 1},
        "prompt": [{"role": "system", "content": "sys"}, {"role": "user", "content": "task"}],
        "turns": [
            {"free_text": "look", "action": {"kind": "calls", "calls": [call("ls"), call("pwd\n")]},
             "observation": [{"tool": "execute_bash", "text": "files"}, {"tool": "execute_bash", "text": "/"}, {"text": "go on"}]},
            {"raw": "<function=execute_bash>\n<parameter=command>x</parameter>\n", "action": {"kind": "calls", "calls": [call("x")]},
             "observation": [{"tool": "execute_bash", "text": ""}]},
            {"action": {"kind": "invalid", "text": "<func"}, "observation": [{"text": "what?"}]},
            {"action": {"kind": "invalid", "text": "", "raw_missing": true}, "observation": [{"text": "lost"}]},
            {"free_text": "done", "action": {"kind": "message"}},
        ],
    }))
    .unwrap()
}

/// `role: content` with `*` before what is trained on.
fn show(turns: &[ChatTurn]) -> Vec<String> {
    let show = |turn: &ChatTurn| {
        let mark = if turn.trainable { "*" } else { "" };
        format!(
            "{mark}{:?} {}: {}",
            turn.role,
            turn.model_turn.map_or("-".to_owned(), |turn| turn.to_string()),
            turn.content
        )
    };
    turns.iter().map(show).collect()
}

#[test]
fn a_trajectory_is_rendered_in_the_text_protocol() {
    let expected = [
        "System -: sys",
        "User -: task",
        "*Assistant 0: look\n\n<function=execute_bash>\n<parameter=command>ls</parameter>\n</function>",
        "User -: EXECUTION RESULT of [execute_bash]:\nfiles",
        "*Assistant 0: <function=execute_bash>\n<parameter=command>\npwd\n\n</parameter>\n</function>",
        "User -: EXECUTION RESULT of [execute_bash]:\n/",
        "User -: go on",
        "*Assistant 1: <function=execute_bash>\n<parameter=command>x</parameter>\n",
        "User -: EXECUTION RESULT of [execute_bash]:\n",
        "Assistant 2: <func",
        "User -: what?",
        "User -: lost",
        "*Assistant 4: done",
    ];
    assert_eq!(show(&to_chat(&trajectory(), &ChatOptions::default())), expected);
}

#[test]
fn prefix_and_decision_are_the_two_parts_of_a_pair() {
    let (trajectory, options) = (trajectory(), ChatOptions::default());
    let whole = to_chat(&trajectory, &options);
    assert_eq!(prefix(&trajectory, 0, &options), whole[..2]);
    assert_eq!(prefix(&trajectory, 1, &options), whole[..7]);
    assert_eq!(decision(&trajectory, 0, &options), whole[2..5], "the last result belongs to what follows");
    assert_eq!(decision(&trajectory, 1, &options), whole[7..8]);
    assert_eq!(decision(&trajectory, 9, &options), []);
}

#[test]
fn invalid_turns_are_trained_on_only_when_asked_and_a_suffix_goes_to_the_system_message() {
    let options = ChatOptions { mask_invalid: false, system_suffix: Some(" + tools".to_owned()) };
    let shown = show(&to_chat(&trajectory(), &options));
    assert_eq!(shown[0], "System -: sys + tools");
    assert_eq!(shown[9], "*Assistant 2: <func");
}

#[test]
fn rows_are_written_and_read_back_and_only_masked_turns_carry_a_mask() {
    let row = sft_row(&trajectory(), &ChatOptions::default());
    assert_eq!((row.instance_id.as_str(), row.trajectory_id.as_str()), ("t", "s/a"));
    let text = write_rows(std::slice::from_ref(&row)).unwrap();
    assert_eq!(text.matches("\"train\":false").count(), 1);
    assert_eq!(parse_rows::<SftRow>(&format!("\n{text}\n")).unwrap(), [row]);
    assert!(parse_rows::<SftRow>(&format!("{text}{{}}")).unwrap_err().to_string().contains("line 2"));
    let minimal = json!({"prompt": [], "chosen": [{"role": "assistant", "content": "x"}], "rejected": [], "score_chosen": "1/1",
        "score_rejected": "0/1", "support_chosen": 1, "support_rejected": 1, "instance_id": "t", "depth": 0, "node_id": "n",
        "prefix_divergent": false, "other": 1});
    assert!(parse_rows::<PreferenceRow>(&minimal.to_string()).unwrap()[0].chosen[0].train);
}

#[test]
fn a_rendered_call_parses_back() {
    let text = "free\n\n<function=str_replace_editor>\n<parameter=path>/a</parameter>\n<parameter=new_str>\na\nb\n</parameter>\n<parameter=view_range>[1,2]</parameter>\n</function>";
    let Parsed::Call { free_text, call } = parse(text) else { panic!("no call") };
    assert_eq!(free_text, "free");
    assert_eq!(format!("{free_text}\n\n{}", render_call(&call)), text);
}

#[test]
fn a_cut_stop_word_is_repaired_only_when_one_call_was_begun() {
    assert!(matches!(parse("<function=f>\n</"), Parsed::Call { .. }));
    assert!(matches!(parse("<function=f>\n"), Parsed::Call { .. }));
    assert_eq!(parse("<function=f>\n<function=g>\n"), Parsed::Invalid);
    assert!(
        matches!(parse("<function=f>\n</function>\n<function=g>"), Parsed::Call { call, .. } if call.name == "f")
    );
    assert_eq!(parse("no call"), Parsed::Message);
}
