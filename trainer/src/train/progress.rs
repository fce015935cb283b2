//! What a run tells while it works: a log of JSON lines, one progress file, short lines for people.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sealign_manifest::train::TrainProgress;
use serde_json::{Map, Value, json};

/// Where progress and finished checkpoints go. The local one keeps everything in the output folder; a worker's also carries
/// checkpoints to the object store.
pub trait ArtifactSink {
    /// Called after every optimiser step.
    fn progress(&mut self, progress: &TrainProgress) -> std::io::Result<()>;

    /// One record for the log: an object with a member `event`.
    fn log(&mut self, record: &Map<String, Value>) -> std::io::Result<()>;

    /// A checkpoint folder is whole on disk. An error stops the run.
    fn checkpoint(&mut self, step: usize, folder: &Path) -> std::io::Result<()>;
}

/// Writes `metrics.jsonl` and `progress.json` into a folder and prints a line for evaluations and every tenth step.
#[derive(Debug)]
pub struct LocalSink {
    folder: PathBuf,
    log: std::fs::File,
    quiet: bool,
}

/// Steps between printed lines.
const PRINT_EVERY: u64 = 10;

impl LocalSink {
    /// Opens the log for appending; `quiet` prints nothing.
    pub fn open(folder: &Path, quiet: bool) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("metrics.jsonl"))?;
        Ok(Self { folder: folder.to_owned(), log, quiet })
    }

    fn print(&self, line: &str) {
        if !self.quiet {
            // A closed pipe must not end a training run.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}

impl ArtifactSink for LocalSink {
    fn progress(&mut self, progress: &TrainProgress) -> std::io::Result<()> {
        if progress.step.is_multiple_of(PRINT_EVERY) || progress.step == progress.steps || progress.step == 1
        {
            self.print(&line(progress));
        }
        // Overwritten by rename and never flushed: a hint that may be lost, but is never half written.
        let partial = self.folder.join("progress.json.partial");
        std::fs::write(&partial, serde_json::to_vec(progress)?)?;
        std::fs::rename(&partial, self.folder.join("progress.json"))
    }

    fn log(&mut self, record: &Map<String, Value>) -> std::io::Result<()> {
        let event = record.get("event").and_then(Value::as_str).unwrap_or_default();
        if event != "step" {
            let figures: Vec<String> = record
                .iter()
                .filter(|(name, value)| *name != "event" && !value.is_object())
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            self.print(&format!("{event}: {}", figures.join(", ")));
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.log.write_all(&line)
    }

    fn checkpoint(&mut self, _step: usize, _folder: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

fn line(progress: &TrainProgress) -> String {
    let mut line = format!("step {}/{}", progress.step, progress.steps);
    for (name, value) in [
        ("loss", progress.loss),
        ("margin", progress.reward_margin),
        ("accuracy", progress.accuracy),
        ("tokens/s", progress.tokens_per_second),
    ] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(line, "  {name} {value:.4}");
        }
    }
    line
}

/// A log record with its event name.
pub fn record(event: &str, members: Value) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("event".to_owned(), json!(event));
    if let Value::Object(members) = members {
        record.extend(members);
    }
    record
}
