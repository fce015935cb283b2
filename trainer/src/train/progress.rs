//! What a run tells while it works: a log of JSON lines, one progress file, short lines for people.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sealign_manifest::train::TrainProgress;
use serde_json::{Map, Value, json};

use super::tensorboard::EventFile;

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

/// Says nothing: the sink of the processes that do not lead.
#[derive(Clone, Copy, Debug)]
pub struct SilentSink;

impl ArtifactSink for SilentSink {
    fn progress(&mut self, _progress: &TrainProgress) -> std::io::Result<()> {
        Ok(())
    }

    fn log(&mut self, _record: &Map<String, Value>) -> std::io::Result<()> {
        Ok(())
    }

    fn checkpoint(&mut self, _step: usize, _folder: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes `metrics.jsonl`, `progress.json` and TensorBoard's events into a folder and prints a line for evaluations and every tenth step.
#[derive(Debug)]
pub struct LocalSink {
    folder: PathBuf,
    files: Option<Files>,
    quiet: bool,
}

/// What is appended to.
#[derive(Debug)]
struct Files {
    log: std::fs::File,
    events: EventFile,
}

/// Steps between printed lines.
const PRINT_EVERY: u64 = 10;

impl LocalSink {
    /// A sink for a folder; `quiet` prints nothing. Nothing is created before there is something to write, so that a run
    /// that is refused leaves no trace.
    pub fn open(folder: &Path, quiet: bool) -> std::io::Result<Self> {
        Ok(Self { folder: folder.to_owned(), files: None, quiet })
    }

    fn files(&mut self) -> std::io::Result<&mut Files> {
        match &mut self.files {
            Some(files) => Ok(files),
            empty => {
                std::fs::create_dir_all(&self.folder)?;
                let mut options = std::fs::OpenOptions::new();
                let log = options.create(true).append(true).open(self.folder.join("metrics.jsonl"))?;
                let events = EventFile::create(&self.folder.join("tensorboard"), now())?;
                Ok(empty.insert(Files { log, events }))
            }
        }
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
        self.files()?;
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
        if let Some(step) = record.get("step").and_then(Value::as_u64) {
            let values = record.iter().filter(|(name, _)| *name != "step");
            let numbers = values.filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
            self.files()?.events.scalars(now(), step, numbers)?;
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.files()?.log.write_all(&line)
    }

    fn checkpoint(&mut self, _step: usize, _folder: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

/// Seconds since 1970, for the time axis of charts.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
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
