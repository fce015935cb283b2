//! Showing a run that goes on: bars on a terminal, a line now and then elsewhere. Always on standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::core::DynamicObject;
use sealign_local::log::tail;
use sealign_local::notice::Notice;
use sealign_local::objects::ObjectKey;
use sealign_local::shape::shown;
use sealign_local::standing::Standing;
use sealign_reconcile::port::Kind;
use serde_json::Value;

use crate::cost::CostWatch;
use crate::output::tell;

/// Least time between two lines about one object that only counted on.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Bytes of a failed program's log that are shown.
const LOG_SHOWN_BYTES: u64 = 2_000;
/// Failed pods that are told one by one; after these a campaign's own figures have to do.
const FAILURES_TOLD_MAX: usize = 10;

/// Shows a run.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    bars: Option<MultiProgress>,
    lines: BTreeMap<ObjectKey, Line>,
    costs: CostWatch,
    failures: usize,
    began: Instant,
}

struct Line {
    word: &'static str,
    text: String,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Bars where standard error is a terminal, lines otherwise.
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let (lines, costs, began) = (BTreeMap::new(), CostWatch::default(), Instant::now());
        Self(Arc::new(Mutex::new(State { bars, lines, costs, failures: 0, began })))
    }

    /// Looks at all objects.
    pub fn look(&self, objects: &[(Kind, DynamicObject)]) {
        let mut state = self.lock();
        for (kind, object) in objects {
            let key = ObjectKey::new(
                *kind,
                object.metadata.namespace.as_deref().unwrap_or_default(),
                object.metadata.name.as_deref().unwrap_or_default(),
            );
            if *kind == Kind::RolloutCampaign {
                state.costs.note(&key, object);
            }
            state.show(&key, object);
        }
    }

    /// Takes a notice of the embedded cluster.
    pub fn notice(&self, notice: Notice) {
        let mut state = self.lock();
        match notice {
            Notice::PodFailed { zone, pod, log } => {
                state.failures += 1;
                if state.failures > FAILURES_TOLD_MAX {
                    return;
                }
                let code = pod.exit_code.map_or_else(String::new, |code| format!(" with exit code {code}"));
                state.say(&format!("{zone} pod {} failed{code}: {}", pod.name, shown(&pod.reason)));
                let words = tail(&log, LOG_SHOWN_BYTES);
                if !words.is_empty() {
                    state.say(&format!(
                        "  {}\n  (all of it: {})",
                        words.replace('\n', "\n  "),
                        log.display()
                    ));
                }
            }
            Notice::JobRefused { problem } => state.say(&problem),
            Notice::SandboxMeans { line } => state.say(&format!("sandboxes: {line}")),
            Notice::Event { object, is_warning: true, reason, note } => {
                state.say(&format!("warning: {object}: {reason}: {note}"));
            }
            Notice::Event { .. } => {}
        }
    }

    /// Takes the bars away and gives what the campaigns cost.
    pub fn finish(&self) -> Vec<sealign_report::Cost> {
        let mut state = self.lock();
        if let Some(bars) = state.bars.take() {
            let _gone = bars.clear();
        }
        state.costs.costs()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn show(&mut self, key: &ObjectKey, object: &DynamicObject) {
        let standing = Standing::of(key.kind, object);
        let text = describe(key.kind, object, &standing);
        let (word, now) = (standing.word(), Instant::now());
        let known = self.lines.get(key);
        if known.is_some_and(|line| line.text == text && line.word == word) {
            return;
        }
        let is_due =
            known.is_none_or(|line| line.word != word || now.duration_since(line.told) >= LINE_EVERY);
        let mut bar = known.and_then(|line| line.bar.clone());
        match &self.bars {
            Some(bars) => {
                let bar = bar.get_or_insert_with(|| bars.add(new_bar(key)));
                draw(bar, object, &standing, &text);
            }
            None if is_due => {
                let seconds = self.began.elapsed().as_secs();
                tell(&format!("[{seconds:>4} s] {} {}: {word}{text}", key.kind.name(), key.name));
            }
            None => return,
        }
        self.lines.insert(key.clone(), Line { word, text, told: now, bar });
    }

    fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| tell(text)),
            None => tell(text),
        }
    }
}

fn new_bar(key: &ObjectKey) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{prefix:42!} {bar:24} {pos:>5}/{len:5} {wide_msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_prefix(format!("{} {}", key.kind.name(), key.name));
    bar
}

fn draw(bar: &ProgressBar, object: &DynamicObject, standing: &Standing, text: &str) {
    let (done, all) = counts(object);
    bar.set_length(all.max(1));
    bar.set_position(if *standing == Standing::Succeeded { all.max(1) } else { done });
    bar.set_message(format!("{}{text}", standing.word()));
}

/// Done and all of what an object counts.
fn counts(object: &DynamicObject) -> (u64, u64) {
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_u64);
    if let (Some(done), Some(all)) = (number("/status/recorded"), number("/status/attempts")) {
        return (done, all);
    }
    let progress = object.data.pointer("/status/progress").and_then(Value::as_str);
    let pair = progress.and_then(|text| text.split_once('/'));
    pair.and_then(|(done, all)| Some((done.parse().ok()?, all.parse().ok()?))).unwrap_or((0, 0))
}

/// What there is to say about an object, with a separator in front; empty where its standing says it all.
fn describe(kind: Kind, object: &DynamicObject, standing: &Standing) -> String {
    let field = |name: &str| object.data.pointer(&format!("/status/{name}")).filter(|value| !value.is_null());
    let shown_as = |name: &str, unit: &str| {
        field(name).map(|value| format!("{}{unit}", value.as_str().map_or_else(|| value.to_string(), shown)))
    };
    let parts: Vec<Option<String>> = match kind {
        Kind::TaskSet => vec![shown_as("taskCount", " tasks"), shown_as("quarantined", " put aside")],
        Kind::RolloutCampaign => vec![
            field("recorded").zip(field("attempts")).map(|(done, all)| format!("{done}/{all} attempts")),
            shown_as("graded", " graded"),
            field("outcomes").and_then(|o| o.get("Resolved")).map(|count| format!("{count} resolved")),
        ],
        Kind::TrajectoryForest => {
            vec![shown_as("afterFiltering", " trajectories"), shown_as("criticalPairs", " pairs")]
        }
        Kind::AlignmentRun => {
            vec![shown_as("stage", ""), shown_as("progress", " steps"), shown_as("loss", " loss")]
        }
        Kind::Benchmark => vec![
            field("resolved").zip(field("total")).map(|(done, all)| format!("{done}/{all} resolved")),
            shown_as("resolvedPercent", " %"),
        ],
        Kind::Job => Vec::new(),
    };
    let mut parts: Vec<String> = parts.into_iter().flatten().collect();
    if matches!(standing, Standing::Failed { .. } | Standing::Blocked { .. }) {
        parts.push(format!("{}: {}", standing.reason(), standing.message()));
    }
    if parts.is_empty() { String::new() } else { format!(", {}", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_campaign_says_how_far_it_is() {
        let object = serde_json::from_value(json!({ "metadata": { "name": "c" }, "status": {
            "recorded": 3, "attempts": 9, "graded": 2, "outcomes": { "Resolved": 1 } } }))
        .unwrap();
        let standing = Standing::Running { message: String::new() };
        assert_eq!(
            describe(Kind::RolloutCampaign, &object, &standing),
            ", 3/9 attempts, 2 graded, 1 resolved"
        );
        assert_eq!(counts(&object), (3, 9));
    }

    #[test]
    fn what_blocks_an_object_is_told() {
        let object = serde_json::from_value(json!({ "metadata": { "name": "c" } })).unwrap();
        let standing = Standing::Blocked { reason: "NoProgress".into(), message: "read the log".into() };
        assert_eq!(describe(Kind::Benchmark, &object, &standing), ", NoProgress: read the log");
    }
}
