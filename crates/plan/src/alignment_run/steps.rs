//! The list of steps of a run, by name and need. Flat: nothing assumes that there are four.

use sealign_crds::AlignmentRunSpec;

use crate::names;

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A campaign of the run's own.
    Rollout,
    /// A forest of the run's own, or the one that it names.
    Forest,
    /// Imitate successes.
    Sft,
    /// Prefer better sides of pairs.
    Dpo,
    /// Measure a model.
    Benchmark {
        /// Position of the template in the spec.
        template: usize,
        /// `base`, `sft` or `dpo`.
        model: &'static str,
    },
    /// Write the report.
    Report,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// Name.
    pub name: String,
    /// Names of steps that have to be done first.
    pub needs: Vec<String>,
    /// What it does.
    pub task: Task,
}

/// Names of the steps that other code refers to.
pub mod name {
    /// The campaign.
    pub const ROLLOUT: &str = "rollout-0";
    /// The forest.
    pub const FOREST: &str = "forest-0";
    /// The SFT stage.
    pub const SFT: &str = "sft";
    /// The DPO stage.
    pub const DPO: &str = "dpo-0";
    /// The report.
    pub const REPORT: &str = "report";
}

/// Name of the Benchmark object of a template and a model.
pub fn benchmark_name(run: &str, template: &str, model: &str) -> String {
    names::child(run, &format!("{template}-{model}"))
}

/// The steps of a run, each after what it needs.
pub fn planned(spec: &AlignmentRunSpec) -> Vec<PlannedStep> {
    let mut steps = Vec::new();
    let mut add = |name: String, needs: &[&str], task: Task| {
        let needs = needs.iter().map(|&need| need.to_owned()).collect();
        steps.push(PlannedStep { name, needs, task });
    };
    if spec.campaign.is_some() {
        add(name::ROLLOUT.into(), &[], Task::Rollout);
        add(name::FOREST.into(), &[name::ROLLOUT], Task::Forest);
    } else {
        add(name::FOREST.into(), &[], Task::Forest);
    }
    let benchmarks = |model: &'static str, needs: &[&str], add: &mut dyn FnMut(String, &[&str], Task)| {
        for (template, benchmark) in spec.benchmarks.iter().enumerate() {
            let name = format!("bench-{}-{model}", benchmark.name);
            add(name, needs, Task::Benchmark { template, model });
        }
    };
    benchmarks("base", &[], &mut add);
    if spec.stages.sft.is_some() {
        add(name::SFT.into(), &[name::FOREST], Task::Sft);
        benchmarks("sft", &[name::SFT], &mut add);
    }
    if spec.stages.dpo.is_some() {
        let start = if spec.stages.sft.is_some() { name::SFT } else { name::FOREST };
        add(name::DPO.into(), &[name::FOREST, start], Task::Dpo);
        benchmarks("dpo", &[name::DPO], &mut add);
    }
    let all: Vec<String> = steps.iter().map(|step| step.name.clone()).collect();
    steps.push(PlannedStep { name: name::REPORT.into(), needs: all, task: Task::Report });
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn names(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = json!({
            "model": { "base": "builtin:mini-base" }, "stages": { "sft": {}, "dpo": {} },
            "campaign": { "taskSetRef": { "name": "train" },
                "policies": [{ "name": "p", "model": { "scripted": { "policy": "strong" } } }] },
            "benchmarks": [{ "name": "fresh", "taskSetRef": { "name": "eval" } }],
        });
        change(&mut spec);
        let steps = planned(&serde_json::from_value(spec).unwrap());
        for (index, step) in steps.iter().enumerate() {
            for need in &step.needs {
                assert!(
                    steps[..index].iter().any(|earlier| earlier.name == *need),
                    "{} needs {need}",
                    step.name
                );
            }
        }
        steps.into_iter().map(|step| step.name).collect()
    }

    #[test]
    fn a_whole_run_collects_merges_trains_measures_and_reports() {
        let expected = "rollout-0 forest-0 bench-fresh-base sft bench-fresh-sft dpo-0 bench-fresh-dpo report";
        assert_eq!(names(|_| ()).join(" "), expected);
    }

    #[test]
    fn stages_that_are_off_leave_no_step() {
        let without_sft = names(|spec| spec["stages"] = json!({ "dpo": {} }));
        assert_eq!(without_sft.join(" "), "rollout-0 forest-0 bench-fresh-base dpo-0 bench-fresh-dpo report");
        let without_dpo = names(|spec| spec["stages"] = json!({ "sft": {} }));
        assert_eq!(without_dpo.join(" "), "rollout-0 forest-0 bench-fresh-base sft bench-fresh-sft report");
    }

    #[test]
    fn a_forest_that_exists_needs_no_campaign() {
        let steps = names(|spec| {
            spec["campaign"] = Value::Null;
            spec["forestRef"] = json!({ "name": "f" });
            spec["benchmarks"] = json!([]);
        });
        assert_eq!(steps.join(" "), "forest-0 sft dpo-0 report");
    }
}
