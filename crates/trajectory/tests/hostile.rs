//! Truncated and hostile files: each bad record is refused with its place and the reason, and the rest goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use sealign_trajectory::import::{Format, ImportOptions, Imported, Importer, Limits};

const GOOD: &str = r#"{"instance_id":"t-1","run_id":"r","resolved":true,"messages":[{"role":"user","content":"p"},{"role":"assistant","content":"a"}]}"#;

fn import(path: &str, bytes: &[u8], limits: Limits) -> Imported {
    let mut importer = Importer::new(ImportOptions { limits, ..ImportOptions::new("set") });
    importer.add(path, bytes);
    importer.finish()
}

/// A bad line between two good ones is refused, names its line and says what is wrong.
fn check(bad: &[u8], reason: &str) {
    let bytes = [GOOD.as_bytes(), b"\n", bad, b"\r\n\n", GOOD.as_bytes()].concat();
    let imported = import("x.jsonl", &bytes, Limits::default());
    assert_eq!(imported.trajectories.len(), 2, "{reason}");
    assert_eq!(imported.refused.len(), 1, "{reason}: {:?}", imported.refused);
    let refused = &imported.refused[0];
    assert_eq!((refused.path.as_str(), refused.line), ("x.jsonl", 2));
    assert!(refused.reason.contains(reason), "{} / {reason}", refused.reason);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn broken_json_is_refused_by_line() {
    check(&GOOD.as_bytes()[..GOOD.len() / 2], "not valid JSON");
    check(b"{\"instance_id\": 1e999, \"messages\": []}", "number out of range");
    check("[".repeat(100_000).as_bytes(), "recursion limit");
    check(format!("{{\"messages\":{}", "{\"a\":".repeat(100_000)).as_bytes(), "recursion limit");
    check(b"\xff\xfe{}", "not UTF-8");
    check(b"{\"a\":\"\x00\"}", "control character");
    check(b"nonsense", "not valid JSON");
}

#[test]
fn json_that_is_no_trajectory_is_refused_by_field() {
    check(b"42", "not a JSON object");
    check(b"{\"instance_id\":\"t\",\"resolved\":true}", "`messages` is missing");
    check(b"{\"instance_id\":\"t\",\"resolved\":true,\"messages\":7}", "`messages` is not a list");
    check(b"{\"instance_id\":{},\"resolved\":true,\"messages\":[]}", "`instance_id` is not a string");
    check(b"{\"instance_id\":\"t\",\"resolved\":true,\"messages\":[7]}", "`messages[0]` is not an object");
    check(
        b"{\"instance_id\":\"t\",\"resolved\":true,\"messages\":[{\"role\":\"root\"}]}",
        "unknown role `root`",
    );
    check(
        b"{\"instance_id\":\"t\",\"resolved\":true,\"messages\":[{\"role\":\"user\",\"content\":7}]}",
        "`messages[0].content`",
    );
}

#[test]
fn odd_but_readable_json_is_read() {
    let line = r#"{"instance_id":"x","instance_id":"t-\ud800","resolved":1,"messages":[{"role":"user","content":"\udfff"}],"unknown":{"kept":true}}"#;
    let imported = import("x.jsonl", line.as_bytes(), Limits::default());
    assert_eq!(imported.refused, []);
    let trajectory = &imported.trajectories[0];
    assert_eq!(trajectory.task, "t-\u{fffd}", "the last of duplicate names wins");
    assert_eq!(trajectory.prompt[0].content, "\u{fffd}");
    assert_eq!(trajectory.extra["unknown"]["kept"], true);
}

#[test]
fn a_cut_gzip_file_keeps_the_lines_before_the_break() {
    let lines: Vec<String> =
        (0..400).map(|index| GOOD.replace("\"r\"", &format!("\"r{index}-{}\"", index * 7919))).collect();
    let lines = lines.join("\n") + "\n";
    let whole = gzip(lines.as_bytes());
    assert_eq!(import("x.jsonl.gz", &whole, Limits::default()).trajectories.len(), 400);
    let imported = import("x.jsonl.gz", &whole[..whole.len() * 2 / 3], Limits::default());
    let read = imported.trajectories.len();
    assert!(read > 10 && read < 400, "{read}");
    assert_eq!(imported.refused.len(), 1);
    assert!(imported.refused[0].reason.contains("gzip"));
    assert_eq!(imported.refused[0].line, u64::try_from(read).unwrap() + 1);
    let document = import("t/x.traj.json.gz", &gzip(b"{}")[..10], Limits::default());
    assert_eq!((document.trajectories.len(), document.refused.len()), (0, 1));
}

#[test]
fn a_gzip_bomb_is_refused_at_the_limit() {
    let limits = Limits { file_bytes: 1 << 20, ..Limits::default() };
    let imported = import("x.jsonl.gz", &gzip(&vec![b' '; 8 << 20]), limits);
    assert_eq!(imported.refused.len(), 1);
    assert!(imported.refused[0].reason.contains("larger than the limit"));
}

#[test]
fn records_messages_and_bytes_are_bounded() {
    let two = format!("{GOOD}\n{GOOD}\n");
    let refused = |limits| import("x.jsonl", two.as_bytes(), limits).refused;
    assert_eq!(refused(Limits { records: 1, ..Limits::default() }).len(), 1);
    assert_eq!(refused(Limits { record_bytes: 50, ..Limits::default() }).len(), 2);
    assert_eq!(refused(Limits { messages: 1, ..Limits::default() }).len(), 2);
    assert_eq!(refused(Limits { file_bytes: 50, ..Limits::default() }).len(), 1);
}

#[test]
fn bytes_cut_anywhere_and_flipped_anywhere_never_panic() {
    let bytes = GOOD.as_bytes();
    for end in 0..bytes.len() {
        let imported = import("x.jsonl", &bytes[..end], Limits::default());
        assert!(imported.trajectories.len() + imported.refused.len() <= 1);
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            let imported = import("x.jsonl", &flipped, Limits::default());
            assert!(imported.trajectories.len() + imported.refused.len() <= 2);
        }
    }
}

#[test]
fn every_format_survives_records_meant_for_another() {
    let records = [
        "{}",
        "[]",
        "null",
        GOOD,
        r#"{"messages":null}"#,
        r#"{"history":[{}],"instance_id":"t"}"#,
        r#"{"trajectory":[{}],"history":[1]}"#,
    ];
    for (_, format) in Format::NAMES {
        for record in records {
            for path in ["x.jsonl", "t/x.traj", "t/x.json", "t-1/x.traj.json"] {
                let mut importer = Importer::new(ImportOptions { format, ..ImportOptions::new("set") });
                importer.add(path, record.as_bytes());
                assert!(importer.finish().trajectories.len() <= 1);
            }
        }
    }
}
