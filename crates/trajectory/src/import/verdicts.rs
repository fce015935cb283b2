//! Verdicts that lie beside the trajectories: reports of the harness and an index of the set (rule C16).
//!
//! `report.json` and `<run>.report.json` hold one report by task id; `verdicts.jsonl` and `index.jsonl` hold one row per
//! trajectory. Where both speak the report wins; where they contradict each other nothing may be concluded.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Refused;
use super::fields::truth;
use super::files::{is_line_oriented, split_path, without_gz};
use crate::json;
use crate::record::Outcome;

/// How the names of index files end.
const INDEX_ENDINGS: [&str; 2] = ["verdicts.jsonl", "index.jsonl"];

/// Two verdicts of one attempt that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{report}` says {} and `{index}` says {}; correct the one that is wrong", said(*.report_resolved), said(!.report_resolved))]
pub(super) struct Conflict {
    report: String,
    index: String,
    report_resolved: bool,
}

fn said(resolved: bool) -> &'static str {
    if resolved { "resolved" } else { "not resolved" }
}

#[derive(Clone, Debug)]
struct Verdict {
    file: String,
    resolved: bool,
}

/// All verdicts of a set.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// By folder, run (empty for `report.json`) and task.
    reports: BTreeMap<(String, String, String), Verdict>,
    /// By the trajectory's path.
    by_file: BTreeMap<String, Verdict>,
    /// By task and run (empty where the row names none), for rows that name no file.
    by_run: BTreeMap<(String, String), Verdict>,
}

/// Whether a file holds verdicts, by its name.
pub(super) fn is_verdict_file(path: &str) -> bool {
    let name = without_gz(split_path(path).1);
    INDEX_ENDINGS.iter().any(|ending| name.ends_with(ending))
        || name == "report.json"
        || name.ends_with(".report.json")
}

impl Verdicts {
    pub(super) fn read(&mut self, path: &str, bytes: &[u8], refused: &mut Vec<Refused>) {
        let mut refuse = |line: usize, reason: String| {
            let line = u64::try_from(line).unwrap_or(u64::MAX);
            refused.push(Refused { path: path.to_owned(), line, reason });
        };
        if !is_line_oriented(path) {
            match json::parse_bytes(bytes) {
                Ok(report) => self.add_report(path, &report),
                Err(error) => refuse(1, error.reason()),
            }
            return;
        }
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match json::parse_bytes(line) {
                Ok(row) => self.add_row(path, &row),
                Err(error) => refuse(index + 1, error.reason()),
            }
        }
    }

    fn add_report(&mut self, path: &str, report: &Value) {
        let (folder, name) = split_path(without_gz(path));
        let run = name.strip_suffix("report.json").unwrap_or(name).trim_end_matches('.');
        // Some harnesses write one task's report without the task around it.
        if let Some(resolved) = truth(report.get("resolved")) {
            let key = (folder.to_owned(), run.to_owned(), String::new());
            self.reports.insert(key, Verdict { file: path.to_owned(), resolved });
            return;
        }
        for (task, verdict) in report.as_object().into_iter().flatten() {
            if let Some(resolved) = truth(verdict.get("resolved")) {
                let key = (folder.to_owned(), run.to_owned(), task.clone());
                self.reports.insert(key, Verdict { file: path.to_owned(), resolved });
            }
        }
    }

    fn add_row(&mut self, path: &str, row: &Value) {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let Some(resolved) = truth(row.get("resolved")) else { return };
        let verdict = Verdict { file: path.to_owned(), resolved };
        let (folder, _) = split_path(path);
        if let Some(file) = text("file") {
            let file = if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") };
            self.by_file.insert(file, verdict);
        } else if let Some(task) = text("instance_id") {
            self.by_run.insert((task.to_owned(), text("run").unwrap_or_default().to_owned()), verdict);
        }
    }

    /// The verdict for the attempt at `path`, or `None` where none is recorded.
    pub(super) fn outcome(&self, path: &str, task: &str, run: &str) -> Result<Option<Outcome>, Conflict> {
        let folder = split_path(path).0;
        let report_key = |run: &str, task: &str| (folder.to_owned(), run.to_owned(), task.to_owned());
        let places = [report_key(run, task), report_key("", task), report_key(run, ""), report_key("", "")];
        let report = places.iter().find_map(|place| self.reports.get(place));
        let run_key = |run: &str| (task.to_owned(), run.to_owned());
        let index = self
            .by_file
            .get(path)
            .or_else(|| self.by_run.get(&run_key(run)))
            .or_else(|| self.by_run.get(&run_key("")));
        if let (Some(report), Some(index)) = (report, index)
            && report.resolved != index.resolved
        {
            return Err(Conflict {
                report: report.file.clone(),
                index: index.file.clone(),
                report_resolved: report.resolved,
            });
        }
        Ok(report.or(index).map(|verdict| if verdict.resolved { Outcome::Success } else { Outcome::Failure }))
    }
}
