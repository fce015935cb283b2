//! The part of `sealign plan` that says whether training fits in memory. The arithmetic is [`sealign_plan::memory`]'s; here
//! models are looked up: a folder's `config.json` where this machine can read it, else a name that is known.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use kube::core::DynamicObject;
use sealign_crds::alignment_run::{AlignmentRunSpec, Optimization};
use sealign_crds::trajectory_forest::{PairMode, TrajectoryForestSpec};
use sealign_plan::Kind;
use sealign_plan::memory::{Estimate, Example, Shape, estimate, rows};
use serde::Serialize;

use crate::output::table;
use crate::plan::spec;

/// Bytes of a `config.json`: a hundred times what one has.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a GB, as makers of GPUs and disks count.
const GIGABYTE: u64 = 1_000_000_000;

/// What one stage of a run needs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StageMemory {
    run: String,
    stage: &'static str,
    /// The model as the run names it.
    model: String,
    /// Absent where the model's shape is not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
}

/// Bytes of each process, unless said otherwise.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    /// Parameters of the model.
    parameters: u64,
    /// Parameters that are trained.
    trained: u64,
    processes: u64,
    /// Rows computed at once.
    rows: u64,
    on_gpus: bool,
    weights: u64,
    gradients: u64,
    optimizer: u64,
    gathered: u64,
    kept: u64,
    working: u64,
    head: u64,
    program: u64,
    total: u64,
    available: u64,
    fits: bool,
    /// Bytes of a node's host memory while models are read and written.
    host: u64,
}

/// What the stages of the runs among `objects` need, with GPUs of `gpu_gigabytes`.
pub fn of_objects(objects: &[(Kind, DynamicObject)], gpu_gigabytes: u64) -> Vec<StageMemory> {
    let mut stages = Vec::new();
    for (_, object) in objects.iter().filter(|(kind, _)| *kind == Kind::AlignmentRun) {
        let Some(run) = spec::<AlignmentRunSpec>(object) else { continue };
        let name = object.metadata.name.clone().unwrap_or_default();
        let shape = shape(&run.model.base);
        let mut add = |stage, optimization: &Optimization, example, anchors| {
            let rows = rows(&run.trainer, optimization, example, anchors);
            let figures =
                shape.map(|shape| figures(&shape, &run, estimate(&shape, &run.trainer, rows), gpu_gigabytes));
            stages.push(StageMemory { run: name.clone(), stage, model: run.model.base.clone(), figures });
        };
        if let Some(sft) = &run.stages.sft {
            add("sft", &sft.optimization, Example::Trajectory, 0);
        }
        if let Some(dpo) = &run.stages.dpo {
            let anchors = u64::try_from(dpo.sft_examples_per_step).unwrap_or(0);
            add("dpo", &dpo.optimization, pairs(&run, objects), anchors);
        }
    }
    stages
}

fn figures(shape: &Shape, run: &AlignmentRunSpec, estimate: Estimate, gpu_gigabytes: u64) -> Figures {
    let on_gpus = run.trainer.gpus_per_node > 0;
    let pod = u64::try_from(run.trainer.memory_mib).unwrap_or(0) << 20;
    let available = if on_gpus { gpu_gigabytes.saturating_mul(GIGABYTE) } else { pod };
    let total = estimate.total();
    // Without GPUs, reading and writing happen in the memory that training has.
    let fullest = if on_gpus { total } else { total.max(estimate.host) };
    let Estimate { processes, rows, trained, weights, gradients, optimizer, .. } = estimate;
    let Estimate { gathered, kept, working, head, program, host, .. } = estimate;
    Figures {
        parameters: shape.parameters(),
        trained,
        processes,
        rows,
        on_gpus,
        weights,
        gradients,
        optimizer,
        gathered,
        kept,
        working,
        head,
        program,
        total,
        available,
        fits: fullest <= available,
        host,
    }
}

/// What the run's pairs are: its own template says it, or the forest that it names, where that is among the objects.
fn pairs(run: &AlignmentRunSpec, objects: &[(Kind, DynamicObject)]) -> Example {
    let named = run.forest_ref.as_ref().and_then(|forest| {
        let is_it = |object: &DynamicObject| object.metadata.name.as_deref() == Some(forest.name.as_str());
        let (_, object) =
            objects.iter().find(|(kind, object)| *kind == Kind::TrajectoryForest && is_it(object))?;
        spec::<TrajectoryForestSpec>(object).map(|forest| forest.pairs.mode)
    });
    match named.or_else(|| run.forest.as_ref().map(|forest| forest.pairs.mode)) {
        Some(PairMode::WholeTrajectory) => Example::WholePair,
        Some(PairMode::Critical) | None => Example::CriticalPair,
    }
}

/// The shape of a model by what a run calls it; `None` where neither its configuration nor its name is known here.
fn shape(base: &str) -> Option<Shape> {
    let (scheme, place) = base.split_once(':')?;
    let read = (scheme == "dir").then(|| of_folder(Path::new(place))).flatten();
    read.or_else(|| Shape::known(place))
}

fn of_folder(folder: &Path) -> Option<Shape> {
    let mut text = String::new();
    File::open(folder.join("config.json")).ok()?.take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
    Shape::from_config(&serde_json::from_str(&text).ok()?).ok()
}

/// The stages as a table with its notes; empty without any.
pub fn text(stages: &[StageMemory]) -> String {
    if stages.is_empty() {
        return String::new();
    }
    let mut known = Vec::new();
    let mut notes = Vec::new();
    for one in stages {
        let Some(figures) = &one.figures else {
            let known = "give a folder whose config.json can be read here, or a name that is known";
            notes.push(format!(
                "{}: {}: unknown model {}: no arithmetic ({known})",
                one.run, one.stage, one.model
            ));
            continue;
        };
        known.push(line(one, figures));
        if figures.host > 0 {
            let (host, stage) = (gigabytes(figures.host), one.stage);
            notes.push(format!(
                "{}: {stage}: reading and writing models takes {host} GB of a node's own memory",
                one.run
            ));
        }
    }
    let on_gpus = stages.iter().filter_map(|one| one.figures.as_ref()).any(|figures| figures.on_gpus);
    if on_gpus {
        notes.push("the figures for GPUs are computed; this version has not run on one yet".to_owned());
    }
    let header = [
        "STAGE",
        "PARAMETERS",
        "TRAINED",
        "PROCESSES",
        "ROWS",
        "WEIGHTS",
        "GRADIENTS",
        "OPTIMIZER",
        "GATHERED",
        "KEPT",
        "WORKING",
        "HEAD",
        "PROGRAM",
        "TOTAL",
        "OF",
        "",
    ];
    let mut parts =
        vec!["\n\nmemory of each training process at its fullest, by arithmetic, in GB:".to_owned()];
    if !known.is_empty() {
        parts.push(table(&header, known));
    }
    parts.extend(notes);
    parts.join("\n")
}

fn line(one: &StageMemory, figures: &Figures) -> Vec<String> {
    let bytes = [
        figures.weights,
        figures.gradients,
        figures.optimizer,
        figures.gathered,
        figures.kept,
        figures.working,
        figures.head,
        figures.program,
        figures.total,
        figures.available,
    ];
    let numbers = [figures.parameters, figures.trained, figures.processes, figures.rows];
    let mut cells = vec![format!("{}: {}", one.run, one.stage)];
    cells.extend(numbers.iter().map(u64::to_string));
    cells.extend(bytes.into_iter().map(gigabytes));
    cells.push(if figures.fits { "fits" } else { "does not fit" }.to_owned());
    cells
}

/// GB with one digit behind the point, and two where it is less than one.
fn gigabytes(bytes: u64) -> String {
    let hundredths = (bytes + GIGABYTE / 200) / (GIGABYTE / 100);
    if hundredths < 100 {
        return format!("0.{hundredths:02}");
    }
    let tenths = (bytes + GIGABYTE / 20) / (GIGABYTE / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_to_what_matters() {
        for (bytes, text) in [
            (0, "0.00"),
            (12_345_678, "0.01"),
            (994_999_999, "0.99"),
            (995_000_000, "1.0"),
            (78_093_000_000, "78.1"),
        ] {
            assert_eq!(gigabytes(bytes), text);
        }
    }

    #[test]
    fn a_shape_comes_from_the_folder_or_from_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("Qwen2.5-0.5B");
        let base = format!("dir:{}", place.display());
        assert_eq!(shape(&base), Shape::known("Qwen2.5-0.5B"), "it cannot be read");
        std::fs::create_dir(&place).unwrap();
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100,
        });
        std::fs::write(place.join("config.json"), config.to_string()).unwrap();
        assert_eq!(shape(&base).unwrap().layers, 2, "what is there counts more than a name");
        assert!(shape("builtin:mini-base").is_some());
        assert_eq!(shape("artifact:demo/alignmentruns/a-1a2b3c4d/steps/sft/model/manifest.json"), None);
    }
}
