//! Reading trajectories that others recorded.
//!
//! An [`Importer`] takes files as bytes with their paths relative to the set's root, in any order, and gives every
//! attempt as a [`Trajectory`], joined with the verdicts that lie beside it. A record that cannot be read is refused
//! with its place and the reason; the others go on. What a format leaves open is decided by specs 5.11 C1 to C18 and
//! section 6.
//!
//! Nothing here opens files. gzip is decoded in memory within [`Limits::file_bytes`]. Each format is one module; to add
//! one, write its `read` function, give it a [`Format`] and teach `detect` its face.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::json;
use crate::record::{Origin, Outcome, Trajectory, UnknownCause};

mod conversation;
mod detect;
mod fields;
mod files;
mod verdicts;

mod intercode;
mod mini_swe_agent;
mod openai_chat;
mod openhands_completion;
mod openhands_events;
mod openhands_sdk;
mod python_literal;
mod stored;
mod swe_agent;
mod swegym;
mod tau_bench;

pub use detect::Format;
pub use fields::RecordError;
pub use files::wants;

/// How a set is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// The format, or [`Format::Auto`] to recognise it file by file.
    pub format: Format,
    /// Name of the set: becomes [`Trajectory::source`].
    pub source: String,
    /// Take `*.traj.json` files only from folders named like their task (rule C8). Off for files that a user named.
    pub require_instance_folder: bool,
    /// Bounds on what is read.
    pub limits: Limits,
}

impl ImportOptions {
    /// Recognises formats, and follows rule C8.
    pub fn new(source: impl Into<String>) -> Self {
        Self {
            format: Format::Auto,
            source: source.into(),
            require_instance_folder: true,
            limits: Limits::default(),
        }
    }
}

/// Bounds on what is read; beyond them a record or file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file after decompression: a small gzip file can hold gigabytes of zeros.
    pub file_bytes: usize,
    /// Bytes of one record.
    pub record_bytes: usize,
    /// Records of one import: what one machine holds in memory.
    pub records: usize,
    /// Messages or events of one record.
    pub messages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 2 << 30, record_bytes: 256 << 20, records: 2_000_000, messages: 100_000 }
    }
}

/// A record or file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Refused {
    /// Path as given.
    pub path: String,
    /// 1-based line, or 1 for a file that is one record.
    pub line: u64,
    /// What is wrong, in words.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, reason } = self;
        write!(formatter, "{path}:{line}: {reason}")
    }
}

/// What an import yields. Every list is in order of path, then line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// The attempts that were read.
    pub trajectories: Vec<Trajectory>,
    /// The records that were not, and why.
    pub refused: Vec<Refused>,
    /// Files that hold no trajectory and no verdict.
    pub ignored: Vec<String>,
}

/// Collects the files of one set.
#[derive(Debug)]
pub struct Importer {
    options: ImportOptions,
    drafts: Vec<Draft>,
    refused: Vec<Refused>,
    ignored: BTreeSet<String>,
    verdicts: verdicts::Verdicts,
    /// Events of formats that spread one attempt over several lines or files, by conversation.
    streams: BTreeMap<String, Vec<StreamedEvent>>,
}

#[derive(Debug)]
struct StreamedEvent {
    path: String,
    line: u64,
    event: Value,
}

/// An attempt whose id is not yet unique and whose verdict may lie in another file.
#[derive(Clone, Debug)]
struct Draft {
    trajectory: Trajectory,
    /// The run's name where verdicts of other files may apply; `None` when the record settles its outcome itself.
    run: Option<String>,
}

impl Draft {
    /// A draft that says what every format can say; the rest is filled in by its reader.
    fn new(
        place: Place<'_>,
        format: Format,
        task: String,
        run: &str,
        conversation: conversation::Conversation,
        messages: usize,
    ) -> Self {
        let trajectory = Trajectory {
            id: format!("{task}/{run}"),
            source: place.options.source.clone(),
            task,
            prompt: conversation.prompt,
            first_observation: None,
            turns: conversation.turns,
            outcome: Outcome::Unknown(UnknownCause::NoVerdict),
            patch: None,
            exit_status: None,
            model: None,
            origin: Origin {
                format: format.name().to_owned(),
                path: place.path.to_owned(),
                line: place.line,
            },
            message_count: u64::try_from(messages).unwrap_or(u64::MAX),
            extra: BTreeMap::new(),
        };
        Self { trajectory, run: None }
    }
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    path: &'a str,
    line: u64,
    options: &'a ImportOptions,
}

impl Importer {
    /// An importer without files.
    pub fn new(options: ImportOptions) -> Self {
        Self {
            options,
            drafts: Vec::new(),
            refused: Vec::new(),
            ignored: BTreeSet::new(),
            verdicts: verdicts::Verdicts::default(),
            streams: BTreeMap::new(),
        }
    }

    /// Reads one file. `path` is relative to the set's root, with `/` between its parts.
    pub fn add(&mut self, path: &str, bytes: &[u8]) {
        if !wants(path) {
            self.ignored.insert(path.to_owned());
            return;
        }
        let content = files::decode(bytes, self.options.limits.file_bytes);
        if let Some(reason) = content.broken {
            self.refuse(path, content.lines_before_break(path), reason);
        }
        if verdicts::is_verdict_file(path) {
            self.verdicts.read(path, &content.bytes, &mut self.refused);
        } else if files::is_line_oriented(path) {
            self.add_lines(path, &content.bytes);
        } else if content.broken.is_none() {
            self.add_record(path, 1, &content.bytes, None);
        }
    }

    /// Numbers repeated ids, joins verdicts and orders everything.
    pub fn finish(mut self) -> Imported {
        self.close_streams();
        let place = |draft: &Draft| (draft.trajectory.origin.path.clone(), draft.trajectory.origin.line);
        self.drafts.sort_by_cached_key(place);
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let mut trajectories = Vec::with_capacity(self.drafts.len());
        for Draft { mut trajectory, run } in self.drafts {
            let count = seen.entry(trajectory.id.clone()).or_default();
            *count += 1;
            if *count > 1 {
                trajectory.id = format!("{}#{count}", trajectory.id);
            }
            if let Some(run) = run {
                match self.verdicts.outcome(&trajectory.origin.path, &trajectory.task, &run) {
                    Ok(outcome) => {
                        trajectory.outcome = outcome.unwrap_or(Outcome::Unknown(UnknownCause::NoVerdict));
                    }
                    Err(conflict) => {
                        let Trajectory { origin, .. } = trajectory;
                        self.refused.push(Refused {
                            path: origin.path,
                            line: origin.line,
                            reason: conflict.to_string(),
                        });
                        continue;
                    }
                }
            }
            trajectories.push(trajectory);
        }
        self.refused.sort();
        Imported { trajectories, refused: self.refused, ignored: self.ignored.into_iter().collect() }
    }

    fn add_lines(&mut self, path: &str, bytes: &[u8]) {
        let mut known = None;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if !line.trim_ascii().is_empty() {
                let number = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
                known = self.add_record(path, number, line, known).or(known);
            }
        }
    }

    /// Reads one record, and returns its format so that a line that looks like nothing is read as its neighbours are.
    fn add_record(&mut self, path: &str, line: u64, bytes: &[u8], known: Option<Format>) -> Option<Format> {
        if bytes.len() > self.options.limits.record_bytes {
            self.refuse(
                path,
                line,
                format!("the record is longer than {} bytes", self.options.limits.record_bytes),
            );
            return None;
        }
        let value = match json::parse_bytes(bytes) {
            Ok(value) => value,
            Err(error) => {
                self.refuse(path, line, error.reason());
                return None;
            }
        };
        let is_bookkeeping = matches!(files::split_path(path).1, "base_state.json" | "metadata.json");
        let named = (self.options.format != Format::Auto).then_some(self.options.format);
        let Some(format) = named.or_else(|| detect::detect(path, &value)).or(known) else {
            if is_bookkeeping {
                self.ignored.insert(path.to_owned());
            } else {
                self.refuse(path, line, RecordError::Unrecognised.to_string());
            }
            return None;
        };
        if format == Format::OpenhandsSdk {
            let stream = self.streams.entry(openhands_sdk::conversation_of(path).to_owned()).or_default();
            stream.push(StreamedEvent { path: path.to_owned(), line, event: value });
            return Some(format);
        }
        if !self.is_in_place(path, format, &value) {
            self.ignored.insert(path.to_owned());
            return Some(format);
        }
        let place = Place { path, line, options: &self.options };
        match read(format, value, place) {
            Ok(drafts) => self.keep(path, line, drafts),
            Err(error) => self.refuse(path, line, error.to_string()),
        }
        Some(format)
    }

    /// Reads the conversations whose events have all been collected.
    fn close_streams(&mut self) {
        for (conversation, mut events) in std::mem::take(&mut self.streams) {
            events.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
            let options = self.options.clone();
            let place = Place { path: &conversation, line: 1, options: &options };
            let events: Vec<Value> = events.into_iter().map(|streamed| streamed.event).collect();
            match openhands_sdk::read(&events, &conversation, place) {
                Ok(draft) => self.keep(&conversation, 1, vec![draft]),
                Err(error) => self.refuse(&conversation, 1, error.to_string()),
            }
        }
    }

    fn is_in_place(&self, path: &str, format: Format, value: &Value) -> bool {
        format != Format::MiniSweAgent
            || !self.options.require_instance_folder
            || mini_swe_agent::is_in_instance_folder(path, value)
    }

    fn keep(&mut self, path: &str, line: u64, drafts: Vec<Draft>) {
        if self.drafts.len() + drafts.len() > self.options.limits.records {
            self.refuse(
                path,
                line,
                format!("more than {} records in one import", self.options.limits.records),
            );
        } else {
            self.drafts.extend(drafts);
        }
    }

    fn refuse(&mut self, path: &str, line: u64, reason: impl Into<String>) {
        self.refused.push(Refused { path: path.to_owned(), line, reason: reason.into() });
    }
}

fn read(format: Format, value: Value, place: Place<'_>) -> Result<Vec<Draft>, RecordError> {
    match format {
        Format::Auto => Err(RecordError::Unrecognised),
        Format::Swegym => swegym::read(value, place).map(|draft| vec![draft]),
        Format::MiniSweAgent => mini_swe_agent::read(value, place).map(|draft| vec![draft]),
        Format::Stored => stored::read(value, place).map(|draft| vec![draft]),
        Format::OpenhandsEvents => openhands_events::read(value, place).map(|draft| vec![draft]),
        // Streams are collected and read at the end.
        Format::OpenhandsSdk => Ok(Vec::new()),
        Format::OpenhandsCompletion => openhands_completion::read(value, place).map(|draft| vec![draft]),
        Format::SweAgent => swe_agent::read(value, place).map(|draft| vec![draft]),
        Format::OpenaiChat => openai_chat::read(value, place).map(|draft| vec![draft]),
        Format::TauBench => tau_bench::read(value, place).map(|draft| vec![draft]),
        Format::Intercode => intercode::read(value, place),
    }
}
