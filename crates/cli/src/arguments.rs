//! What the command line may say.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::CliError;
use crate::output::Format;
use crate::{export, gc, get, grade, pages, plan, run, trajectories, verify};

/// Aligns software-engineering agents: rollouts, forests of trajectories, SFT and DPO on critical actions, benchmarks.
#[derive(Debug, Parser)]
#[command(name = "sealign", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a manifest on this machine until everything in it has ended. Run again, it goes on where it was.
    Run(RunArguments),
    /// Shows what a manifest would create and cost, without running anything.
    Plan(PlanArguments),
    /// Shows objects of a run.
    Get(GetArguments),
    /// Reads trajectories that other programs recorded, and stores them in one format.
    Import(ImportArguments),
    /// Builds a forest from trajectories: statistics, critical pairs, training rows and a viewer.
    Forest(ForestArguments),
    /// Grades a file of predictions with the tests of a suite, in sandboxes.
    Grade(GradeArguments),
    /// Prints a tree of a run's forest, and says where the page with all of them is.
    View(ViewArguments),
    /// Prints the reports of a run.
    Report(PageArguments),
    /// Walks the lineage of a run's results and compares every digest on the way.
    Verify(PageArguments),
    /// Writes what a run made as files that other programs read.
    Export(ExportArguments),
    /// Removes artifacts that nothing needs any more. Only says what would go, unless `--yes` is given.
    Gc(GcArguments),
}

/// Arguments of `sealign run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// YAML file with the objects.
    pub manifest: PathBuf,
    /// Folder that holds the run; `.sealign/<name of the manifest>` when not given.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Sandboxes at once, of all campaigns together.
    #[arg(long, default_value_t = sealign_local::engine::SANDBOXES_MAX)]
    pub sandboxes: usize,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArguments {
    /// YAML file with the objects.
    pub manifest: PathBuf,
    /// Memory of a GPU in GB, for runs that train on GPUs.
    #[arg(long, default_value_t = 80)]
    pub gpu_memory_gb: u64,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign get`.
#[derive(Clone, Debug, Args)]
pub struct GetArguments {
    /// Kind, plural or short name (`align`, `rcamp`, ...); all kinds when not given.
    pub kind: Option<String>,
    /// Name of one object.
    pub name: Option<String>,
    /// Folder that holds the run.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Also the columns that `kubectl get -o wide` shows.
    #[arg(long)]
    pub wide: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArguments {
    /// Format of the files; `auto` looks at their content.
    #[arg(long, default_value = "auto")]
    pub format: String,
    /// Files and folders.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Folder for `trajectories.jsonl`, `refused.jsonl` and `summary.json`.
    #[arg(long)]
    pub out: PathBuf,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign forest`.
#[derive(Clone, Debug, Args)]
pub struct ForestArguments {
    /// Imported trajectories, or raw files and folders.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// When two actions are one node: `call`, `full_text` or `call_and_observation`.
    #[arg(long, default_value = "call")]
    pub node_key: String,
    /// Scores must differ by more than this.
    #[arg(long, default_value = "0.5")]
    pub threshold: String,
    /// Format of raw files; `auto` looks at their content.
    #[arg(long, default_value = "auto")]
    pub format: String,
    /// Folder for the trees, pairs, training rows, statistics and the viewer; nothing is written without it.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign grade`.
#[derive(Clone, Debug, Args)]
pub struct GradeArguments {
    /// The suite: `humanevalfix`.
    #[arg(long)]
    pub suite: String,
    /// The suite's rows, one JSON object a line.
    #[arg(long)]
    pub rows: PathBuf,
    /// Predictions, one JSON object a line with `task_id` and `solution`.
    #[arg(long)]
    pub predictions: PathBuf,
    /// Folder that holds the run; a temporary one when not given.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Sandboxes at once.
    #[arg(long, default_value_t = 8)]
    pub parallelism: usize,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign report` and `verify`, and of `view`.
#[derive(Clone, Debug, Args)]
pub struct PageArguments {
    /// Name of one object; all that have something to show when not given.
    pub name: Option<String>,
    /// Folder that holds the run.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Open the page with the desktop's browser (`xdg-open`).
    #[arg(long)]
    pub open: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign view`.
#[derive(Clone, Debug, Args)]
pub struct ViewArguments {
    /// The forest.
    #[command(flatten)]
    pub page: PageArguments,
    /// Task whose tree is printed; the first with a pair when not given.
    #[arg(long)]
    pub task: Option<String>,
}

/// What `sealign export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Exported {
    /// Examples of a forest for supervised fine-tuning: `messages`, one conversation a line.
    Sft,
    /// Preference pairs of a forest: `prompt`, `chosen`, `rejected`.
    Dpo,
    /// Attempts of a campaign, as `sealign import` writes them.
    Trajectories,
    /// A model of an alignment run, in Hugging Face layout.
    Model,
    /// The low-rank adapter of an alignment run with `trainer.lora`, in PEFT's layout.
    Adapter,
}

/// Arguments of `sealign export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArguments {
    /// What to write.
    #[arg(value_enum)]
    pub what: Exported,
    /// Name of the forest, campaign or alignment run; the only one when not given.
    pub name: Option<String>,
    /// For a model or an adapter, the training step that made it (`sft`, `dpo-0`); the last one when not given.
    #[arg(long)]
    pub step: Option<String>,
    /// Folder that holds the run.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Folder for the files, which must not be there yet.
    #[arg(long)]
    pub out: PathBuf,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `sealign gc`.
#[derive(Clone, Debug, Args)]
pub struct GcArguments {
    /// Folder that holds the run; what its objects need stays.
    #[arg(long, conflicts_with = "store")]
    pub state: Option<PathBuf>,
    /// URL of a store instead of a state folder (`s3://...`, `file://...`); what `--root` names stays.
    #[arg(long)]
    pub store: Option<String>,
    /// Key of a manifest that stays with everything that it rests on. May be given often.
    #[arg(long)]
    pub root: Vec<String>,
    /// Hours after its writing in which nothing is deleted; 0 for a state folder and 24 for a store when not given.
    #[arg(long)]
    pub grace_hours: Option<u64>,
    /// Delete, instead of saying what would be deleted.
    #[arg(long)]
    pub yes: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Format,
}

impl Arguments {
    /// Does what was asked.
    ///
    /// # Errors
    /// [`CliError`], to be printed.
    pub fn run(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Run(arguments) => run::run(&arguments),
            Command::Plan(arguments) => plan::run(&arguments),
            Command::Get(arguments) => get::run(&arguments),
            Command::Import(arguments) => trajectories::import(&arguments),
            Command::Forest(arguments) => trajectories::forest(&arguments),
            Command::Grade(arguments) => grade::run(&arguments),
            Command::View(arguments) => pages::view(&arguments),
            Command::Report(arguments) => pages::report(&arguments),
            Command::Verify(arguments) => verify::run(&arguments),
            Command::Export(arguments) => export::run(&arguments),
            Command::Gc(arguments) => gc::run(&arguments),
        }
    }
}
