//! Reading a spec once into types that cannot be wrong. What the schema and the CEL rules say is not said again; this is
//! what they cannot say: decimals in a range, names that must occur elsewhere, what this version does not do yet.

use std::collections::BTreeSet;

use sealign_crds::alignment_run::{DpoStage, Optimization, SftStage, Sharding};
use sealign_crds::model::{Checkpoint, Engine, ModelSpec};
use sealign_crds::{
    AlignmentRunSpec, BenchmarkSpec, Decimal, RolloutCampaignSpec, Sampling, TaskSetSpec,
    TrajectoryForestSpec,
};
use sealign_manifest::train::ModelSource;

/// A field that cannot be meant as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Problem {
    /// Path of the field, for example `spec.stages.dpo.beta`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub problem: String,
}

impl Problem {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// Checks that a decimal lies in a range and reads it.
fn number(field: &str, value: &Decimal, is_allowed: fn(f64) -> bool, wanted: &str) -> Result<f64, Problem> {
    let number = value.to_f64();
    if is_allowed(number) {
        Ok(number)
    } else {
        Err(Problem::new(field, format!("\"{value}\" is out of range: write {wanted}")))
    }
}

fn positive(field: &str, value: &Decimal) -> Result<f64, Problem> {
    number(field, value, |n| n > 0.0 && n.is_finite(), "a number above 0")
}

fn share(field: &str, value: &Decimal) -> Result<f64, Problem> {
    number(field, value, |n| (0.0..=1.0).contains(&n), "a share from 0 to 1")
}

fn not_negative(field: &str, value: &Decimal) -> Result<f64, Problem> {
    number(field, value, |n| n >= 0.0 && n.is_finite(), "0 or a number above it")
}

/// Checks a TaskSet.
pub fn task_set(spec: &TaskSetSpec) -> Result<(), Problem> {
    let Some(mini) = &spec.source.mini else { return Ok(()) };
    let distinct: BTreeSet<&String> = mini.families.iter().collect();
    if distinct.len() < mini.families.len() {
        return Err(Problem::new("spec.source.mini.families", "a family is named twice: name each once"));
    }
    Ok(())
}

/// Checks a campaign.
pub fn campaign(field: &str, spec: &RolloutCampaignSpec) -> Result<(), Problem> {
    let mut names = BTreeSet::new();
    for (index, policy) in spec.policies.iter().enumerate() {
        let at = format!("{field}.policies[{index}]");
        if !names.insert(&policy.name) {
            return Err(Problem::new(
                format!("{at}.name"),
                format!("`{}` occurs twice: name each once", policy.name),
            ));
        }
        model(&format!("{at}.model"), &policy.model)?;
        sampling(&format!("{at}.sampling"), &policy.sampling)?;
    }
    Ok(())
}

fn sampling(field: &str, sampling: &Sampling) -> Result<(), Problem> {
    not_negative(&format!("{field}.temperature"), &sampling.temperature)?;
    number(&format!("{field}.topP"), &sampling.top_p, |n| n > 0.0 && n <= 1.0, "a mass above 0 and up to 1")?;
    Ok(())
}

fn model(field: &str, model: &ModelSpec) -> Result<(), Problem> {
    match &model.checkpoint {
        Some(spec) => checkpoint(&format!("{field}.checkpoint"), spec).map(|_| ()),
        None => Ok(()),
    }
}

/// Reads where a checkpoint is.
pub fn checkpoint(field: &str, checkpoint: &Checkpoint) -> Result<ModelSource, Problem> {
    let Checkpoint { base, adapter, serving } = checkpoint;
    if adapter.is_some() {
        let remedy = "adapters over a checkpoint are not supported by this version: merge it and name the result as base";
        return Err(Problem::new(format!("{field}.adapter"), remedy));
    }
    if serving.engine != Engine::Sealign {
        let remedy = "this version starts the engine Sealign only: run vLLM yourself and name it as endpoint";
        return Err(Problem::new(format!("{field}.serving.engine"), remedy));
    }
    let at = format!("{field}.base");
    let Some((scheme, rest)) = base.split_once(':') else {
        return Err(Problem::new(at, "write builtin:NAME, artifact:KEY or dir:PATH"));
    };
    if rest.split('/').any(|part| part == "..") {
        return Err(Problem::new(at, "`..` is not allowed: name the place directly"));
    }
    match scheme {
        "builtin" => Ok(ModelSource::Builtin(rest.to_owned())),
        "artifact" => Ok(ModelSource::Manifest(rest.to_owned())),
        "dir" => Ok(ModelSource::Directory(rest.to_owned())),
        _ => Err(Problem::new(
            at,
            format!("`{scheme}` is unknown: write builtin:NAME, artifact:KEY or dir:PATH"),
        )),
    }
}

/// Checks a forest.
pub fn forest(spec: &TrajectoryForestSpec) -> Result<(), Problem> {
    threshold("spec.pairs.threshold", &spec.pairs.threshold)?;
    let mut names = BTreeSet::new();
    for (index, name) in spec.campaign_refs.iter().map(|r| &r.name).enumerate() {
        if !names.insert(name) {
            let field = format!("spec.campaignRefs[{index}].name");
            return Err(Problem::new(field, format!("`{name}` occurs twice: name each campaign once")));
        }
    }
    for (index, import) in spec.imports.iter().enumerate() {
        if !names.insert(&import.name) {
            let field = format!("spec.imports[{index}].name");
            return Err(Problem::new(
                field,
                format!("`{}` occurs twice: give each source its own name", import.name),
            ));
        }
    }
    Ok(())
}

fn threshold(field: &str, value: &Decimal) -> Result<f64, Problem> {
    number(field, value, |n| (0.0..1.0).contains(&n), "a difference from 0 to below 1")
}

/// Checks a benchmark.
pub fn benchmark(spec: &BenchmarkSpec, name: &str) -> Result<(), Problem> {
    if let Some(spec) = &spec.model {
        model("spec.model", spec)?;
    }
    sampling("spec.sampling", &spec.sampling)?;
    match spec.baseline_refs.iter().position(|baseline| baseline.name == name) {
        Some(index) => Err(Problem::new(
            format!("spec.baselineRefs[{index}].name"),
            "a benchmark cannot be its own baseline: name another",
        )),
        None => Ok(()),
    }
}

/// A run's spec, read.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidRun {
    /// The model to align.
    pub model: ModelSource,
    /// Largest p-value that promotes, where a gate is set.
    pub p_value_max: Option<f64>,
}

/// Reads a run.
pub fn alignment_run(spec: &AlignmentRunSpec) -> Result<ValidRun, Problem> {
    let model = checkpoint("spec.model", &spec.model)?;
    if let Some(template) = &spec.campaign {
        campaign("spec.campaign", template)?;
    }
    if let Some(template) = &spec.forest {
        threshold("spec.forest.pairs.threshold", &template.pairs.threshold)?;
    }
    if spec.trainer.lora.is_some() && spec.trainer.sharding == Sharding::Everything {
        let remedy = "an adapter leaves nothing worth dividing: write Nothing, or leave lora out";
        return Err(Problem::new("spec.trainer.sharding", remedy));
    }
    if let Some(stage) = &spec.stages.sft {
        sft("spec.stages.sft", stage)?;
    }
    if let Some(stage) = &spec.stages.dpo {
        dpo("spec.stages.dpo", stage)?;
    }
    let mut names = BTreeSet::new();
    for (index, template) in spec.benchmarks.iter().enumerate() {
        let field = format!("spec.benchmarks[{index}]");
        if !names.insert(template.name.as_str()) {
            let problem = format!("`{}` occurs twice: name each benchmark once", template.name);
            return Err(Problem::new(format!("{field}.name"), problem));
        }
        sampling(&format!("{field}.sampling"), &template.sampling)?;
    }
    let Some(promotion) = &spec.promotion else { return Ok(ValidRun { model, p_value_max: None }) };
    if !names.contains(promotion.benchmark.as_str()) {
        let known = names.into_iter().collect::<Vec<_>>().join(", ");
        let problem =
            format!("`{}` is none of spec.benchmarks ({known}): name one of them", promotion.benchmark);
        return Err(Problem::new("spec.promotion.benchmark", problem));
    }
    let p_value = number(
        "spec.promotion.maxPValue",
        &promotion.max_p_value,
        |n| n > 0.0 && n <= 1.0,
        "a probability above 0 and up to 1",
    )?;
    Ok(ValidRun { model, p_value_max: Some(p_value) })
}

fn sft(field: &str, stage: &SftStage) -> Result<(), Problem> {
    let SftStage { learning_rate, optimization, mask_invalid_turns: _ } = stage;
    positive(&format!("{field}.learningRate"), learning_rate)?;
    optimizer(&format!("{field}.optimization"), optimization)
}

fn dpo(field: &str, stage: &DpoStage) -> Result<(), Problem> {
    let DpoStage { learning_rate, beta, sft_examples_per_step: _, sft_weight, optimization } = stage;
    positive(&format!("{field}.learningRate"), learning_rate)?;
    positive(&format!("{field}.beta"), beta)?;
    not_negative(&format!("{field}.sftWeight"), sft_weight)?;
    optimizer(&format!("{field}.optimization"), optimization)
}

fn optimizer(field: &str, optimization: &Optimization) -> Result<(), Problem> {
    let Optimization {
        max_epochs: _,
        max_steps: _,
        batch_size: _,
        tokens_per_step: _,
        context_tokens: _,
        schedule: _,
        warmup_ratio,
        final_ratio,
        adam_beta1,
        adam_beta2,
        weight_decay,
        clip_norm,
        validation_percent: _,
        checkpoint_steps: _,
    } = optimization;
    let below_one = |name: &str, value: &Decimal| {
        number(&format!("{field}.{name}"), value, |n| (0.0..1.0).contains(&n), "a number from 0 to below 1")
    };
    share(&format!("{field}.warmupRatio"), warmup_ratio)?;
    share(&format!("{field}.finalRatio"), final_ratio)?;
    below_one("adamBeta1", adam_beta1)?;
    below_one("adamBeta2", adam_beta2)?;
    not_negative(&format!("{field}.weightDecay"), weight_decay)?;
    positive(&format!("{field}.clipNorm"), clip_norm)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(change: impl FnOnce(&mut Value)) -> Result<ValidRun, Problem> {
        let mut spec = json!({
            "model": { "base": "builtin:mini-base" }, "forestRef": { "name": "f" },
            "stages": { "sft": {}, "dpo": {} },
            "benchmarks": [{ "name": "fresh", "taskSetRef": { "name": "eval" } }],
            "promotion": { "benchmark": "fresh" },
        });
        change(&mut spec);
        alignment_run(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_run_is_read_into_its_model_and_its_gate() {
        let read = run(|_| ()).unwrap();
        assert_eq!(read.model, ModelSource::Builtin("mini-base".into()));
        assert_eq!(read.p_value_max, Some(0.05));
    }

    #[test]
    fn each_problem_names_its_field_and_what_to_write() {
        type Change = fn(&mut Value);
        let cases: [(&str, &str, Change); 8] = [
            ("spec.stages.dpo.beta", "above 0", |s| s["stages"]["dpo"]["beta"] = json!("-0.1")),
            ("spec.stages.sft.learningRate", "above 0", |s| s["stages"]["sft"]["learningRate"] = json!("0")),
            ("spec.stages.sft.optimization.warmupRatio", "0 to 1", |s| {
                s["stages"]["sft"]["optimization"] = json!({ "warmupRatio": "2" });
            }),
            ("spec.promotion.benchmark", "(fresh)", |s| s["promotion"]["benchmark"] = json!("stale")),
            ("spec.promotion.maxPValue", "probability", |s| s["promotion"]["maxPValue"] = json!("0")),
            ("spec.benchmarks[1].name", "once", |s| {
                let twice = vec![s["benchmarks"][0].clone(); 2];
                s["benchmarks"] = json!(twice);
            }),
            ("spec.model.base", "`..`", |s| s["model"]["base"] = json!("dir:/a/../b")),
            ("spec.trainer.sharding", "write Nothing", |s| {
                s["trainer"] = json!({ "lora": { "rank": 8, "alpha": 16 }, "sharding": "Everything" });
            }),
        ];
        for (field, remedy, change) in cases {
            let problem = run(change).unwrap_err();
            assert_eq!(problem.field, field);
            assert!(problem.problem.contains(remedy), "{problem}");
        }
    }

    #[test]
    fn what_this_version_does_not_do_is_said_with_the_way_round() {
        let vllm = run(|s| s["model"]["serving"] = json!({ "engine": "Vllm" })).unwrap_err();
        assert!(vllm.problem.contains("endpoint"), "{vllm}");
        let adapter = run(|s| s["model"]["adapter"] = json!("dir:/x")).unwrap_err();
        assert!(adapter.problem.contains("merge"), "{adapter}");
    }

    #[test]
    fn policies_of_one_name_are_refused() {
        let policy = json!({ "name": "p", "model": { "scripted": { "policy": "strong" } } });
        let spec = json!({ "taskSetRef": { "name": "t" }, "policies": [policy, policy] });
        let problem = campaign("spec", &serde_json::from_value(spec).unwrap()).unwrap_err();
        assert_eq!(problem.field, "spec.policies[1].name");
    }
}
