//! `sealign plan`: what a manifest would create and what it could cost at most. It asks no cluster and runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use kube::core::DynamicObject;
use sealign_crds::alignment_run::{AlignmentRunSpec, BenchmarkTemplate};
use sealign_crds::shared::{Limits, SandboxSpec};
use sealign_crds::{BenchmarkSpec, RolloutCampaignSpec, TaskSetSpec};
use sealign_local::admission::Admission;
use sealign_manifest::group::GROUP_ITEMS_MAX;
use sealign_plan::{Kind, names};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments::PlanArguments;
use crate::documents;
use crate::error::CliError;
use crate::memory::{self, StageMemory};
use crate::output::{Format, print, print_json, table};

/// Bytes of text a token stands for, at the most that tokenizers in use give on code.
const TOKEN_BYTES: u64 = 6;
/// Copies of the conversation that the store gets: the record and the forest's.
const COPIES: u64 = 2;

/// What `sealign plan --output json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    /// Objects in order of creation; children come after their owners.
    objects: Vec<PlannedObject>,
    /// Images that sandboxes would use. Empty names stand for the suite's own.
    images: BTreeSet<String>,
    /// Sums over all objects.
    total: Amounts,
    /// What each process of a training stage holds.
    memory: Vec<StageMemory>,
}

/// One object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedObject {
    kind: &'static str,
    name: String,
    /// The object that creates it; absent for those of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// What it is for, in words.
    what: String,
    #[serde(flatten)]
    amounts: Amounts,
}

/// Upper bounds; `null` where they depend on a file that only a worker reads.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Amounts {
    /// Attempts of agents.
    attempts: Option<u64>,
    /// Gradings at most, one for each attempt that leaves a patch of its own.
    gradings: Option<u64>,
    /// Sandbox Jobs at most, without repeated rounds.
    jobs: Option<u64>,
    /// Prompt and completion tokens at most.
    tokens: Option<u64>,
    /// Scratch space of sandboxes at once, in MiB.
    scratch_mib: Option<u64>,
    /// Bytes that records may take in the store.
    store_bytes: Option<u64>,
}

impl Amounts {
    const NONE: Self = Self {
        attempts: Some(0),
        gradings: Some(0),
        jobs: Some(0),
        tokens: Some(0),
        scratch_mib: Some(0),
        store_bytes: Some(0),
    };

    fn plus(self, other: Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        Self {
            attempts: sum(self.attempts, other.attempts),
            gradings: sum(self.gradings, other.gradings),
            jobs: sum(self.jobs, other.jobs),
            tokens: sum(self.tokens, other.tokens),
            // Steps follow one another on one machine: the largest counts.
            scratch_mib: self.scratch_mib.zip(other.scratch_mib).map(|(a, b)| a.max(b)),
            store_bytes: sum(self.store_bytes, other.store_bytes),
        }
    }
}

/// Shows what a manifest would do.
///
/// # Errors
/// [`CliError::Manifest`].
pub fn run(arguments: &PlanArguments) -> Result<ExitCode, CliError> {
    let objects = documents::read(&arguments.manifest, &Admission::new()?)?;
    documents::check_references(&arguments.manifest, &objects)?;
    let memory = memory::of_objects(&objects, arguments.gpu_memory_gb);
    let plan = Planner::new(&objects).plan(&objects, memory);
    match arguments.output {
        Format::Json => print_json(&plan)?,
        Format::Table => print(&text(&plan)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What attempts of a kind are made of.
struct Work<'a> {
    tasks: Option<u64>,
    samples: u64,
    limits: &'a Limits,
    sandbox: &'a SandboxSpec,
    parallelism: i32,
    graded: bool,
    budget: Option<u64>,
}

impl Work<'_> {
    fn amounts(&self) -> Amounts {
        let attempts = self.tasks.map(|tasks| tasks.saturating_mul(self.samples));
        let per_attempt = u64::try_from(self.limits.tokens).unwrap_or(0);
        let bytes = u64::try_from(self.limits.context_tokens).unwrap_or(0) * TOKEN_BYTES * COPIES;
        let at_once = u64::try_from(self.parallelism).unwrap_or(1);
        let scratch = u64::try_from(self.sandbox.disk_mib).unwrap_or(0);
        let rounds = if self.graded { 2 } else { 1 };
        Amounts {
            attempts,
            gradings: if self.graded { attempts } else { Some(0) },
            jobs: self.tasks.map(|tasks| groups(tasks, self.samples) * rounds),
            tokens: attempts
                .map(|attempts| attempts.saturating_mul(per_attempt))
                .map(|most| self.budget.map_or(most, |budget| budget.min(most))),
            scratch_mib: Some(attempts.map_or(at_once, |attempts| attempts.min(at_once)) * scratch),
            store_bytes: attempts.map(|attempts| attempts.saturating_mul(bytes)),
        }
    }
}

/// Groups that the attempts at `tasks` fill, where those of one task stay together as long as they fit.
fn groups(tasks: u64, samples: u64) -> u64 {
    let room = GROUP_ITEMS_MAX as u64;
    let tasks_a_group = room / samples.max(1);
    if tasks_a_group == 0 { tasks * samples.div_ceil(room) } else { tasks.div_ceil(tasks_a_group) }
}

struct Planner {
    /// Tasks of each TaskSet, where its spec says how many.
    tasks: BTreeMap<String, Option<u64>>,
    objects: Vec<PlannedObject>,
    images: BTreeSet<String>,
}

/// The spec of an object.
pub fn spec<T: DeserializeOwned>(object: &DynamicObject) -> Option<T> {
    // Admission has checked it against the schema that this type has made.
    serde_json::from_value(object.data.get("spec")?.clone()).ok()
}

impl Planner {
    fn new(objects: &[(Kind, DynamicObject)]) -> Self {
        let mut tasks = BTreeMap::new();
        for (_, object) in objects.iter().filter(|(kind, _)| *kind == Kind::TaskSet) {
            let count = spec::<TaskSetSpec>(object).and_then(|spec| task_count(&spec));
            tasks.insert(object.metadata.name.clone().unwrap_or_default(), count);
        }
        Self { tasks, objects: Vec::new(), images: BTreeSet::new() }
    }

    fn plan(mut self, objects: &[(Kind, DynamicObject)], memory: Vec<StageMemory>) -> Plan {
        for (kind, object) in objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            match kind {
                Kind::TaskSet => self.task_set(&name, object),
                Kind::RolloutCampaign => {
                    if let Some(spec) = spec::<RolloutCampaignSpec>(object) {
                        self.campaign(name, None, &spec);
                    }
                }
                Kind::TrajectoryForest => {
                    self.add(*kind, name, None, "merge attempts, extract critical pairs", Amounts::NONE);
                }
                Kind::AlignmentRun => self.run(&name, object),
                Kind::Benchmark => self.benchmark(&name, object),
                Kind::Job => {}
            }
        }
        let total = self.objects.iter().fold(Amounts::NONE, |sum, one| sum.plus(one.amounts));
        Plan { objects: self.objects, images: self.images, total, memory }
    }

    fn add(
        &mut self,
        kind: Kind,
        name: String,
        owner: Option<&str>,
        what: impl Into<String>,
        amounts: Amounts,
    ) {
        let (owner, what) = (owner.map(str::to_owned), what.into());
        self.objects.push(PlannedObject { kind: kind.name(), name, owner, what, amounts });
    }

    fn task_set(&mut self, name: &str, object: &DynamicObject) {
        let Some(spec) = spec::<TaskSetSpec>(object) else { return };
        let tasks = self.tasks.get(name).copied().flatten();
        let repeats = u64::try_from(spec.health.repeats).unwrap_or(0);
        let gradings = if repeats == 0 { Some(0) } else { tasks.map(|tasks| tasks * 2 * repeats) };
        let source = &spec.source;
        let image = match &spec.image.template {
            Some(template) => template.clone(),
            None if source.mini.is_some() => "built in: python3".to_owned(),
            None if source.human_eval_fix.is_some() => "built in: python3".to_owned(),
            None => "named by each row".to_owned(),
        };
        self.images.insert(image);
        let amounts = Amounts {
            gradings,
            jobs: gradings.map(|gradings| gradings.div_ceil(GROUP_ITEMS_MAX as u64)),
            ..Amounts::NONE
        };
        let count = tasks.map_or_else(|| "tasks of a file".to_owned(), |tasks| format!("{tasks} tasks"));
        self.add(
            Kind::TaskSet,
            name.to_owned(),
            None,
            format!("{count}, health checked {repeats} times"),
            amounts,
        );
    }

    fn campaign(&mut self, name: String, owner: Option<&str>, spec: &RolloutCampaignSpec) {
        let work = Work {
            tasks: self.tasks.get(&spec.task_set_ref.name).copied().flatten(),
            samples: u64::try_from(spec.samples_per_task).unwrap_or(0),
            limits: &spec.limits,
            sandbox: &spec.sandbox,
            parallelism: spec.parallelism,
            graded: spec.grading == sealign_crds::rollout_campaign::Grading::Tests,
            budget: spec.budget.as_ref().and_then(|budget| u64::try_from(budget.tokens).ok()),
        };
        let policies: Vec<&str> = spec.policies.iter().map(|policy| policy.name.as_str()).collect();
        let what = format!(
            "{} attempts at each task of {} by {}",
            spec.samples_per_task,
            spec.task_set_ref.name,
            policies.join(", ")
        );
        self.add(Kind::RolloutCampaign, name, owner, what, work.amounts());
    }

    fn benchmark(&mut self, name: &str, object: &DynamicObject) {
        let Some(spec) = spec::<BenchmarkSpec>(object) else { return };
        let tasks = self.tasks.get(&spec.task_set_ref.name).copied().flatten();
        let work = Work {
            tasks,
            samples: 1,
            limits: &spec.limits,
            sandbox: &spec.sandbox,
            parallelism: spec.parallelism,
            graded: true,
            budget: None,
        };
        if spec.predictions.is_some() {
            let amounts = Amounts { attempts: Some(0), tokens: Some(0), ..work.amounts() };
            let what = format!("a file of predictions on {}", spec.task_set_ref.name);
            return self.add(Kind::Benchmark, name.to_owned(), None, what, amounts);
        }
        let what = format!("a model on {}", spec.task_set_ref.name);
        self.add(Kind::Benchmark, name.to_owned(), None, what, Amounts::NONE);
        let what = "one attempt at each task".to_owned();
        self.add(Kind::RolloutCampaign, name.to_owned(), Some(name), what, work.amounts());
    }

    fn run(&mut self, name: &str, object: &DynamicObject) {
        let Some(spec) = spec::<AlignmentRunSpec>(object) else { return };
        self.add(Kind::AlignmentRun, name.to_owned(), None, "collect, merge, train, measure", Amounts::NONE);
        if let Some(campaign) = &spec.campaign {
            self.campaign(names::child(name, "rollout-0"), Some(name), campaign);
            let what = "merge attempts, extract critical pairs";
            self.add(Kind::TrajectoryForest, names::child(name, "forest-0"), Some(name), what, Amounts::NONE);
        }
        let stages = [("sft", spec.stages.sft.is_some()), ("dpo", spec.stages.dpo.is_some())];
        for (stage, _) in stages.into_iter().filter(|(_, is_on)| *is_on) {
            let job = format!("{name}: {stage}");
            let amounts = Amounts { jobs: Some(1), ..Amounts::NONE };
            self.add(Kind::Job, job, Some(name), format!("train on {} nodes", spec.trainer.nodes), amounts);
        }
        let models =
            std::iter::once("base").chain(stages.into_iter().filter(|(_, on)| *on).map(|(stage, _)| stage));
        for model in models {
            for template in &spec.benchmarks {
                self.measured(name, template, model);
            }
        }
    }

    fn measured(&mut self, run: &str, template: &BenchmarkTemplate, model: &str) {
        let name = names::child(run, &format!("{}-{model}", template.name));
        let work = Work {
            tasks: self.tasks.get(&template.task_set_ref.name).copied().flatten(),
            samples: 1,
            limits: &template.limits,
            sandbox: &template.sandbox,
            parallelism: template.parallelism,
            graded: true,
            budget: None,
        };
        let what = format!("the {model} model on {}", template.task_set_ref.name);
        self.add(Kind::Benchmark, name.clone(), Some(run), what, Amounts::NONE);
        self.add(
            Kind::RolloutCampaign,
            name.clone(),
            Some(&name),
            "one attempt at each task",
            work.amounts(),
        );
    }
}

fn task_count(spec: &TaskSetSpec) -> Option<u64> {
    let count = u64::try_from(spec.source.mini.as_ref()?.count).ok()?;
    let limit = spec.selection.limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(count);
    Some(count.min(limit))
}

fn text(plan: &Plan) -> String {
    let cell = |amount: Option<u64>| match amount {
        None => "?".to_owned(),
        Some(0) => String::new(),
        Some(amount) => amount.to_string(),
    };
    let row = |kind: &str, name: &str, what: &str, a: &Amounts| {
        let mib = a.store_bytes.map(|bytes| bytes.div_ceil(1 << 20));
        let cells = [a.attempts, a.gradings, a.jobs, a.tokens, a.scratch_mib, mib].map(cell);
        [kind.to_owned(), name.to_owned(), what.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<String>> = plan
        .objects
        .iter()
        .map(|one| {
            let indent = if one.owner.is_some() { "  " } else { "" };
            row(one.kind, &format!("{indent}{}", one.name), &one.what, &one.amounts)
        })
        .collect();
    rows.push(row("", "total at most", "", &plan.total));
    let header =
        ["KIND", "NAME", "WHAT", "ATTEMPTS", "GRADINGS", "JOBS", "TOKENS", "SCRATCH MiB", "STORE MiB"];
    let images: Vec<&str> = plan.images.iter().map(String::as_str).collect();
    let memory = memory::text(&plan.memory);
    format!("{}\n\nimages: {}{memory}", table(&header, rows), images.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_at_one_task_share_a_group_where_they_fit() {
        assert_eq!(groups(90, 16), 23);
        assert_eq!(groups(120, 1), 2);
        assert_eq!(groups(3, 40), 3);
        assert_eq!(groups(2, 100), 4);
    }

    #[test]
    fn what_a_file_decides_stays_unknown_in_every_sum() {
        let unknown = Amounts { attempts: None, ..Amounts::NONE };
        let sum = Amounts { attempts: Some(3), jobs: Some(2), ..Amounts::NONE }.plus(unknown);
        assert_eq!((sum.attempts, sum.jobs), (None, Some(2)));
    }
}
