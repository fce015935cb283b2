//! JSONL rows to token examples, split into training and validation.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sealign_batch::conversation::{EncodeError, Encoder};
use sealign_batch::order::{SplitError, validation_tasks};
use sealign_batch::{Encoded, EncodedPair, PairExample, SftExample, Truncation};
use sealign_manifest::Digest;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::checkpoint::digest_of;
use super::settings::{Stage, StageSettings, TrainConfig};

/// Longest row that is read, in bytes: two orders of magnitude above a trajectory of 32k tokens.
const ROW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why the data cannot be used. Found before anything is trained or written.
#[derive(Debug, Error)]
pub enum DataError {
    /// The stage's input list is empty.
    #[error("{field} is empty; stage {stage} needs at least one JSONL file there")]
    NoFiles {
        /// Name of the list.
        field: &'static str,
        /// Name of the stage.
        stage: &'static str,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is not JSON, or too long.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A row cannot be encoded.
    #[error("{path}, line {line}: the row cannot be used")]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The reason.
        source: EncodeError,
    },
    /// No example is left.
    #[error(
        "no example is left to train on: {rows} rows were read and dropped ({dropped}); raise context or give other data"
    )]
    Empty {
        /// Rows read.
        rows: usize,
        /// Counts by reason.
        dropped: String,
    },
    /// The split has no validation or no training task.
    #[error("the data cannot be split into training and validation")]
    Split(#[from] SplitError),
}

/// An example of either stage.
#[derive(Clone, Debug)]
pub enum Example {
    /// A trajectory.
    Trajectory(Encoded),
    /// A preference.
    Pair(EncodedPair),
}

/// Examples with the task of each.
#[derive(Debug, Default)]
pub struct ExampleSet {
    /// The examples.
    pub examples: Vec<Example>,
    /// Task of each example.
    pub tasks: Vec<String>,
    /// Tokens of each before sharing.
    pub lengths: Vec<usize>,
}

/// Everything a run trains on.
#[derive(Debug, Default)]
pub struct Data {
    /// Training examples.
    pub train: ExampleSet,
    /// Validation examples.
    pub validation: ExampleSet,
    /// SFT examples that DPO steps are anchored on; none of a validation task.
    pub anchors: ExampleSet,
    /// Counts.
    pub report: DataReport,
    /// Digest of each input file.
    pub digests: BTreeMap<String, Digest>,
}

/// What became of the rows.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataReport {
    /// Rows read.
    pub rows: usize,
    /// Training examples.
    pub training: usize,
    /// Validation examples.
    pub validation: usize,
    /// Trajectories that were cut to the context.
    pub cut: usize,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Tokens of training and validation examples before sharing.
    pub tokens: usize,
    /// Share of these tokens that one trie over all of them would save, 0 to 1.
    pub shared_share: f64,
    /// Anchor examples.
    pub anchors: usize,
}

impl Example {
    /// Tokens before sharing.
    pub fn tokens(&self) -> usize {
        self.sequences().map(|sequence| sequence.ids.len()).sum()
    }

    /// The sequences: one of a trajectory; chosen and rejected of a pair.
    pub fn sequences(&self) -> impl Iterator<Item = &Encoded> {
        let (first, second) = match self {
            Self::Trajectory(encoded) => (encoded, None),
            Self::Pair(pair) => (&pair.chosen, Some(&pair.rejected)),
        };
        std::iter::once(first).chain(second)
    }
}

impl ExampleSet {
    fn push(&mut self, task: String, example: Example) {
        self.lengths.push(example.tokens());
        self.tasks.push(task);
        self.examples.push(example);
    }

    /// Moves the examples of the given tasks into a second set.
    fn split(self, chosen: impl Fn(&str) -> bool) -> (Self, Self) {
        let (mut kept, mut moved) = (Self::default(), Self::default());
        for (task, example) in self.tasks.into_iter().zip(self.examples) {
            if chosen(&task) { moved.push(task, example) } else { kept.push(task, example) }
        }
        (kept, moved)
    }
}

/// Reads and encodes the files of a run and splits them by task.
pub fn load(config: &TrainConfig, encoder: &Encoder<'_>) -> Result<Data, DataError> {
    let settings = &config.settings;
    let mut data = Data::default();
    let (files, field, stage) = match settings.stage {
        Stage::Sft => (&config.sft, "sft", "sft"),
        Stage::Dpo => (&config.preferences, "preferences", "dpo"),
    };
    if files.is_empty() {
        return Err(DataError::NoFiles { field, stage });
    }
    let mut all = ExampleSet::default();
    for path in files {
        let mut loader = Loader { settings, encoder, path, report: &mut data.report, into: &mut all };
        let digest = match settings.stage {
            Stage::Sft => loader.read(Loader::trajectory)?,
            Stage::Dpo => loader.read(Loader::pair)?,
        };
        data.digests.insert(input_name(field, path), digest);
    }
    if all.examples.is_empty() {
        let dropped: Vec<String> =
            data.report.dropped.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        return Err(DataError::Empty { rows: data.report.rows, dropped: dropped.join(", ") });
    }
    let validation =
        validation_tasks(all.tasks.iter().map(String::as_str), settings.validation_share, settings.seed)?;
    let validation: std::collections::BTreeSet<String> = validation.into_iter().map(str::to_owned).collect();
    data.report.shared_share = shared_share(&all);
    data.report.tokens = all.lengths.iter().sum();
    (data.train, data.validation) = all.split(|task| validation.contains(task));
    (data.report.training, data.report.validation) =
        (data.train.examples.len(), data.validation.examples.len());
    if settings.stage == Stage::Dpo && settings.anchor.is_some() {
        load_anchors(config, encoder, &mut data, |task| validation.contains(task))?;
    }
    Ok(data)
}

fn load_anchors(
    config: &TrainConfig,
    encoder: &Encoder<'_>,
    data: &mut Data,
    is_validation: impl Fn(&str) -> bool,
) -> Result<(), DataError> {
    if config.sft.is_empty() {
        return Err(DataError::NoFiles { field: "sft", stage: "dpo with an anchor" });
    }
    let (mut anchors, mut report) = (ExampleSet::default(), DataReport::default());
    for path in &config.sft {
        let mut loader =
            Loader { settings: &config.settings, encoder, path, report: &mut report, into: &mut anchors };
        data.digests.insert(input_name("sft", path), loader.read(Loader::trajectory)?);
    }
    (data.anchors, _) = anchors.split(is_validation);
    data.report.anchors = data.anchors.examples.len();
    if data.anchors.examples.is_empty() {
        return Err(DataError::NoFiles {
            field: "sft (outside of validation tasks)",
            stage: "dpo with an anchor",
        });
    }
    Ok(())
}

fn input_name(field: &str, path: &Path) -> String {
    format!("{field}/{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Share of tokens that one trie over everything would save: what sharing could give at best.
fn shared_share(all: &ExampleSet) -> f64 {
    let sequences: Vec<sealign_batch::SequenceInput<'_>> = all
        .examples
        .iter()
        .flat_map(Example::sequences)
        .map(|encoded| sealign_batch::SequenceInput { ids: &encoded.ids, weights: &encoded.weights })
        .collect();
    sealign_batch::PackedBatch::pack(&sequences, sealign_batch::Layout::TreePacked).saved_share()
}

struct Loader<'run> {
    settings: &'run StageSettings,
    encoder: &'run Encoder<'run>,
    path: &'run Path,
    report: &'run mut DataReport,
    into: &'run mut ExampleSet,
}

impl Loader<'_> {
    /// Reads the file's rows and returns its digest.
    fn read(&mut self, add: fn(&mut Self, &Value) -> Result<(), EncodeError>) -> Result<Digest, DataError> {
        let read_error = |source| DataError::Read { path: self.path.to_owned(), source };
        let file = std::fs::File::open(self.path).map_err(read_error)?;
        let mut reader = BufReader::new(file);
        let mut hasher = sha2::Sha256::default();
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read = reader
                .by_ref()
                .take(ROW_BYTES_MAX)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| DataError::Read { path: self.path.to_owned(), source })?;
            if read == 0 {
                break;
            }
            sha2::Digest::update(&mut hasher, &bytes);
            let fail = |reason: String| DataError::Line { path: self.path.to_owned(), line, reason };
            if bytes.last() != Some(&b'\n') && bytes.len() as u64 >= ROW_BYTES_MAX {
                return Err(fail(format!("the row is longer than {ROW_BYTES_MAX} bytes; shorten it")));
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let row: Value =
                serde_json::from_slice(&bytes).map_err(|error| fail(format!("not JSON: {error}")))?;
            self.report.rows += 1;
            add(self, &row).map_err(|source| DataError::Row { path: self.path.to_owned(), line, source })?;
        }
        Ok(digest_of(hasher))
    }

    fn trajectory(&mut self, row: &Value) -> Result<(), EncodeError> {
        let example = SftExample::from_row(row)?;
        let (encoded, truncation) = example.encode(self.encoder, self.settings.context)?;
        if self.keep(truncation) {
            self.into.push(example.task, Example::Trajectory(encoded));
        }
        Ok(())
    }

    fn pair(&mut self, row: &Value) -> Result<(), EncodeError> {
        let condensed = row.get("prefix_condensed").and_then(Value::as_bool) == Some(true);
        if condensed && !self.settings.include_condensed_prefixes {
            self.drop_row("prefixCondensed");
            return Ok(());
        }
        let example = PairExample::from_row(row)?;
        let (pair, truncation) = example.encode(self.encoder, self.settings.context)?;
        if self.keep(truncation) {
            self.into.push(example.task, Example::Pair(pair));
        }
        Ok(())
    }

    fn keep(&mut self, truncation: Truncation) -> bool {
        match truncation {
            Truncation::Whole => true,
            Truncation::Cut => {
                self.report.cut += 1;
                true
            }
            Truncation::TooLong => self.drop_row("tooLong"),
            Truncation::NoLoss => self.drop_row("noLoss"),
        }
    }

    fn drop_row(&mut self, reason: &str) -> bool {
        *self.report.dropped.entry(reason.to_owned()).or_default() += 1;
        false
    }
}
