//! What a sandbox answers that holds files in memory and runs nothing: commands print a line, and the grader's driver is answered
//! from the values that the tasks' tests expect, right ones where the fix is in. Who may ask is the caller's business.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sealign_sandbox::base64::Bytes;
use sealign_sandbox::protocol::{
    Change, ChangeKind, ChangesReply, ClaimReply, Done, EntryKind, ErrorCode, ErrorReply, ExecIsolated,
    ExecIsolatedReply, ExecReply, FileState, LimitMeans, Output, PingReply, ReadFile, ReadFileReply,
    SealReply, VERSION, WriteFiles,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::FIX;

/// What tests' calls give: by call, its value.
pub type Values = Arc<BTreeMap<String, String>>;

/// The files of one sandbox, now and when it was sealed.
#[derive(Debug, Default)]
pub struct Files {
    now: BTreeMap<String, Vec<u8>>,
    sealed: BTreeMap<String, Vec<u8>>,
}

/// A reply as it is sent.
pub fn written<T: Serialize>(reply: &T) -> Vec<u8> {
    serde_json::to_vec(reply).unwrap()
}

/// A request of our own runner.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> T {
    serde_json::from_slice(body).unwrap()
}

/// The reply to a claim that was admitted.
pub fn claim_reply() -> Vec<u8> {
    written(&ClaimReply {
        protocol: VERSION.into(),
        root: "/repo".into(),
        shell: "/bin/sh".into(),
        means: LimitMeans::Rlimits,
        limits: BTreeMap::new(),
        is_pid_one: true,
    })
}

impl Files {
    /// The reply to any request but a claim; that it is the last one after `/v1/finish` is for the caller to see.
    ///
    /// # Errors
    /// For a file that is not there, and for a path that has no script.
    pub fn answer(&mut self, path: &str, body: &[u8], values: &Values) -> Result<Vec<u8>, ErrorReply> {
        Ok(match path {
            "/v1/ping" => written(&PingReply { is_busy: false }),
            "/v1/exec" => written(&ExecReply {
                exit_code: 0,
                output: printed("done\n".into()),
                timed_out: false,
                shell_restarted: None,
                limits_hit: Vec::new(),
                wall_milliseconds: 1,
            }),
            "/v1/exec_isolated" => written(&self.grade(&read::<ExecIsolated>(body), values)),
            "/v1/write_files" => {
                for file in read::<WriteFiles>(body).files {
                    self.now.insert(file.path, file.content.0);
                }
                written(&Done {})
            }
            "/v1/read_file" => match self.now.get(&read::<ReadFile>(body).path) {
                Some(content) => written(&ReadFileReply {
                    content: Bytes(content.clone()),
                    total_bytes: content.len() as u64,
                    mode: 0o644,
                }),
                None => return Err(ErrorReply::new(ErrorCode::NotFound, "no such file")),
            },
            "/v1/seal" => {
                self.sealed = self.now.clone();
                written(&SealReply { files: self.now.len(), without_content: 0, digest: String::new() })
            }
            "/v1/changes" => written(&self.changes()),
            "/v1/finish" => written(&Done {}),
            other => {
                return Err(ErrorReply::new(ErrorCode::BadRequest, format!("{other} is not in the script")));
            }
        })
    }

    fn changes(&self) -> ChangesReply {
        let state = |content: &Vec<u8>| FileState {
            kind: EntryKind::File,
            mode: 0o644,
            bytes: content.len() as u64,
            digest: String::new(),
            content: Some(Bytes(content.clone())),
        };
        let differing = self.now.iter().filter(|(path, content)| self.sealed.get(*path) != Some(content));
        let changes = differing
            .map(|(path, content)| Change {
                path: path.clone(),
                kind: if self.sealed.contains_key(path) { ChangeKind::Modified } else { ChangeKind::Added },
                old: self.sealed.get(path).map(state),
                new: Some(state(content)),
            })
            .collect();
        ChangesReply { changes, is_truncated: false }
    }

    /// Says what the grader's driver says in Python, for calls whose values are known.
    fn grade(&self, request: &ExecIsolated, values: &Values) -> ExecIsolatedReply {
        let program = String::from_utf8(request.stdin.clone().unwrap().0).unwrap();
        let line = |name: &str| program.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let tests: Vec<[String; 3]> = serde_json::from_str(&line("CALLS = ")).unwrap();
        let nonce: String = serde_json::from_str(&line("NONCE = ")).unwrap();
        let is_fixed = self.now.contains_key(FIX);
        let mut stdout = String::new();
        for [id, _, call] in &tests {
            let result = match values.get(call) {
                Some(value) if is_fixed => format!("value {value}"),
                Some(_) => "value 'wrong'".to_owned(),
                // The negative control.
                None => "raised IndexError".to_owned(),
            };
            writeln!(stdout, "{nonce} {id} {result}").unwrap();
        }
        writeln!(stdout, "{nonce} end {}", tests.len()).unwrap();
        ExecIsolatedReply {
            exit_code: Some(0),
            signal: None,
            stdout: printed(stdout),
            stderr: Output::default(),
            timed_out: false,
            limits_hit: Vec::new(),
            wall_milliseconds: 1,
        }
    }
}

fn printed(text: String) -> Output {
    Output { total_bytes: text.len() as u64, head: text, ..Output::default() }
}
