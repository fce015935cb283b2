//! Puts a drawn function into a small repository with its issue and its tests.

use sealign_manifest::TaskFile;
use serde::{Deserialize, Serialize};

use super::MiniOptions;
use super::family::Family;
use super::names::Names;
use super::template::{DECOY_LINE, Draft, draft};
use super::truth::{Decoy, MiniTruth, VisibleCall};

/// The program that runs the visible tests, and its file.
pub const CHECK_FILE: &str = "check.py";
/// Where a task carries its hidden tests; the grader reads it and never writes it into a sandbox.
pub const CASES_FILE: &str = ".sealign/cases.json";
/// Calls of the buggy function that the agent can run.
const VISIBLE_CALLS: usize = 3;
const CHECK_TEMPLATE: &str = include_str!("check.py");

/// One test: an expression and what it must give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Test id, unique in the task.
    pub id: String,
    /// Module that the expression is evaluated in.
    pub module: String,
    /// Python expression.
    pub call: String,
    /// Python's `repr` of the value.
    pub expected: String,
}

/// A repository with one bug.
pub(super) struct Repository {
    pub(super) issue: String,
    /// The files that the agent finds, [`CHECK_FILE`] among them, sorted by path.
    pub(super) files: Vec<TaskFile>,
    pub(super) fail_to_pass: Vec<String>,
    pub(super) pass_to_pass: Vec<String>,
    /// Every test, visible and hidden.
    pub(super) cases: Vec<Case>,
    pub(super) truth: MiniTruth,
}

/// The functions of one file, in order.
struct Module<'a> {
    name: String,
    functions: Vec<&'a str>,
    import: Option<String>,
}

/// Draws one repository; `None` when the tests would not tell the candidates apart or a line would be ambiguous.
pub(super) fn assemble(options: &MiniOptions, family: Family, names: &mut Names) -> Option<Repository> {
    let target = draft(family, names);
    let (right, buggy) = choose_lines(&target, names);
    let order = order_calls(&target, right, buggy)?;
    let (noise, noise_right) = draw_noise(options, names);
    let explicit = !names.draw.chance(f64::from(options.vague_percent) / 100.0);
    let two_files = names.draw.chance(f64::from(options.two_file_percent) / 100.0);
    let names_file = names.draw.chance(f64::from(options.name_file_percent) / 100.0);

    let module = names.module();
    let outer = two_files.then(|| (names.module(), names.function()));
    let noise_sources: Vec<String> =
        noise.iter().zip(&noise_right).map(|(draft, right)| draft.source(*right, false)).collect();
    let mut noise_at: Vec<usize> = noise.iter().map(|_| names.draw.below(2)).collect();
    if !two_files {
        noise_at.fill(0);
    }
    let target_first = names.draw.chance(0.5);
    let layout = Layout {
        target: &target,
        module: &module,
        outer: outer.as_ref(),
        noise: &noise_sources,
        noise_at: &noise_at,
        target_first,
    };
    if !lines_are_unambiguous(&layout) {
        return None;
    }

    let issue_function = outer.as_ref().map_or(&target.function, |(_, function)| function).clone();
    let issue_module = outer.as_ref().map_or(&module, |(module, _)| module);
    let spec = target.candidates.get(right)?.spec.clone();
    let issue = issue_text(
        names,
        &issue_function,
        names_file.then_some(issue_module.as_str()),
        explicit.then_some(&spec),
    );
    let truth = MiniTruth {
        family,
        split: options.split,
        function: target.function.clone(),
        file: format!("{module}.py"),
        issue_function,
        issue_file: format!("{issue_module}.py"),
        names_file,
        explicit,
        spec: spec.clone(),
        candidates: target.candidates.iter().map(|candidate| candidate.line.clone()).collect(),
        right,
        buggy,
        decoy: target.decoy_line().map(|line| Decoy { line: line.to_owned(), spoilt: DECOY_LINE.to_owned() }),
        sources: (0..target.candidates.len()).map(|index| target.source(index, false)).collect(),
        visible: visible_calls(&target, &order),
    };
    let tests = Tests::new(&target, right, buggy, &order, &layout, (&noise, &noise_right));
    let mut files = layout.files(buggy, false);
    files.push(tests.check_file((!explicit).then_some(&spec)));
    files.sort();
    Some(Repository {
        issue,
        files,
        fail_to_pass: tests.fail_to_pass,
        pass_to_pass: tests.pass_to_pass,
        cases: tests.cases,
        truth,
    })
}

/// Up to two right functions that stand beside the others, each with the candidate that is in place.
fn draw_noise(options: &MiniOptions, names: &mut Names) -> (Vec<Draft>, Vec<usize>) {
    let count = names.draw.below(3);
    let drafts: Vec<Draft> = (0..count)
        .filter_map(|_| {
            let family = *names.draw.pick(&options.families)?;
            Some(draft(family, names))
        })
        .collect();
    let right = drafts.iter().map(|draft| names.draw.below(draft.right_choices)).collect();
    (drafts, right)
}

fn choose_lines(target: &Draft, names: &mut Names) -> (usize, usize) {
    let right = names.draw.below(target.right_choices);
    let others = target.candidates.len().saturating_sub(1);
    let buggy = (right + 1 + names.draw.below(others)) % target.candidates.len().max(1);
    (right, buggy)
}

/// The order of the calls: the first few tell the bug and every other wrong candidate from the right one, and a failing
/// call comes first. `None` when the visible calls cannot.
fn order_calls(target: &Draft, right: usize, buggy: usize) -> Option<Vec<usize>> {
    let row = |candidate: usize| target.results.get(candidate);
    let differs = |candidate: usize, call: usize| {
        row(candidate).and_then(|results| results.get(call))
            != row(right).and_then(|results| results.get(call))
    };
    let mut seen: Vec<&String> = Vec::new();
    let mut distinct: Vec<usize> = Vec::new();
    for (index, call) in target.calls.iter().enumerate() {
        if !seen.contains(&call) {
            seen.push(call);
            distinct.push(index);
        }
    }
    let mut open: Vec<usize> = (0..target.candidates.len()).filter(|candidate| *candidate != right).collect();
    // The bug's own call first, then whichever call tells most of the others.
    let first = *distinct.iter().find(|call| differs(buggy, **call))?;
    let mut order = vec![first];
    open.retain(|candidate| !differs(*candidate, first));
    while let Some(candidate) = open.first().copied() {
        let call = *distinct.iter().find(|call| differs(candidate, **call) && !order.contains(call))?;
        order.push(call);
        open.retain(|candidate| !differs(*candidate, call));
    }
    if order.len() > VISIBLE_CALLS {
        return None;
    }
    order.extend(distinct.iter().copied().filter(|call| !order.contains(call)).collect::<Vec<_>>());
    (order.len() > VISIBLE_CALLS).then_some(order)
}

fn visible_calls(target: &Draft, order: &[usize]) -> Vec<VisibleCall> {
    let result = |candidate: &Vec<String>, call: usize| candidate.get(call).cloned().unwrap_or_default();
    order
        .iter()
        .take(VISIBLE_CALLS)
        .filter_map(|call| {
            let results = target.results.iter().map(|candidate| result(candidate, *call)).collect();
            Some(VisibleCall { call: target.calls.get(*call)?.clone(), results })
        })
        .collect()
}

/// Where each function goes.
struct Layout<'a> {
    target: &'a Draft,
    module: &'a str,
    /// In a two-file task the module and the name of the function that calls the buggy one.
    outer: Option<&'a (String, String)>,
    noise: &'a [String],
    /// 0 = beside the target, 1 = beside the outer function.
    noise_at: &'a [usize],
    target_first: bool,
}

impl Layout<'_> {
    fn files(&self, candidate: usize, spoilt: bool) -> Vec<TaskFile> {
        let target = self.target.source(candidate, spoilt);
        let mut files = vec![self.file(&target, self.module, 0, None)];
        if let Some((module, function)) = self.outer {
            let parameters = self.target.parameters.join(", ");
            let inner = &self.target.function;
            let wrapper = format!("def {function}({parameters}):\n    return {inner}({parameters})");
            files.push(self.file(&wrapper, module, 1, Some(format!("from {} import {inner}", self.module))));
        }
        files
    }

    fn file(&self, main: &str, module: &str, place: usize, import: Option<String>) -> TaskFile {
        let noise = self
            .noise
            .iter()
            .zip(self.noise_at)
            .filter(|(_, at)| **at == place)
            .map(|(source, _)| source.as_str());
        let mut functions: Vec<&str> = noise.collect();
        if self.target_first {
            functions.insert(0, main);
        } else {
            functions.push(main);
        }
        Module { name: module.to_owned(), functions, import }.file()
    }
}

impl Module<'_> {
    fn file(&self) -> TaskFile {
        let mut blocks: Vec<&str> = self.import.as_deref().into_iter().collect();
        blocks.extend(&self.functions);
        TaskFile { path: format!("{}.py", self.name), content: format!("{}\n", blocks.join("\n\n\n")) }
    }
}

/// Whether each line that an edit may have to quote occurs once, whichever candidate is in place, and the others not at
/// all; so that `str_replace` of a right quotation always works.
fn lines_are_unambiguous(layout: &Layout<'_>) -> bool {
    let target = layout.target;
    let decoy = target.decoy_line();
    (0..target.candidates.len()).all(|in_place| {
        [false, true].into_iter().filter(|spoilt| !spoilt || decoy.is_some()).all(|spoilt| {
            let text: String = layout.files(in_place, spoilt).into_iter().map(|file| file.content).collect();
            let candidates_hold = target.candidates.iter().enumerate().all(|(index, candidate)| {
                // A candidate that another one extends also occurs within it.
                let extended =
                    target.candidates.get(in_place).is_some_and(|line| line.line.contains(&candidate.line));
                let expected = usize::from(index == in_place || extended);
                text.matches(&candidate.line).count() == expected
            });
            let decoy_holds = decoy.is_none_or(|line| {
                let spoilt_count = text.matches(DECOY_LINE).count();
                text.matches(line).count() == usize::from(!spoilt) && spoilt_count == usize::from(spoilt)
            });
            candidates_hold && decoy_holds
        })
    })
}

fn issue_text(names: &mut Names, function: &str, module: Option<&str>, spec: Option<&String>) -> String {
    let place = module.map_or_else(|| function.to_owned(), |module| format!("{function} in {module}.py"));
    match spec {
        Some(spec) => match names.draw.below(3) {
            0 => format!("{place} should return {spec}, but it does not."),
            1 => format!("Bug: {place} must return {spec}."),
            _ => format!("{place} is wrong. It should return {spec}."),
        },
        None => match names.draw.below(3) {
            0 => format!("{place} gives wrong results."),
            1 => format!("Bug: {place} returns the wrong value."),
            _ => format!("{place} is wrong. Please fix it."),
        },
    }
}

struct Tests {
    fail_to_pass: Vec<String>,
    pass_to_pass: Vec<String>,
    cases: Vec<Case>,
    /// Indices into `cases` that the agent can run, with the function each is about.
    visible: Vec<(usize, String)>,
}

impl Tests {
    fn new(
        target: &Draft,
        right: usize,
        buggy: usize,
        order: &[usize],
        layout: &Layout<'_>,
        (noise, noise_right): (&[Draft], &[usize]),
    ) -> Self {
        let mut tests = Self {
            fail_to_pass: Vec::new(),
            pass_to_pass: Vec::new(),
            cases: Vec::new(),
            visible: Vec::new(),
        };
        for (position, call) in order.iter().enumerate() {
            let changed = target.result(right, *call) != target.result(buggy, *call);
            tests.add(
                layout.module,
                &target.function,
                target.call(*call),
                target.result(right, *call),
                changed,
                position < VISIBLE_CALLS,
            );
        }
        if let (Some((module, function)), Some(first)) = (layout.outer, order.first()) {
            let call = target.call(*first).replace(&format!("{}(", target.function), &format!("{function}("));
            tests.add(module, function, call, target.result(right, *first), true, true);
        }
        let modules = [Some(layout.module), layout.outer.map(|(module, _)| module.as_str())];
        for ((draft, right), at) in noise.iter().zip(noise_right).zip(layout.noise_at) {
            let Some(module) = modules.get(*at).copied().flatten() else { continue };
            for call in 0..2 {
                tests.add(
                    module,
                    &draft.function,
                    draft.call(call),
                    draft.result(*right, call),
                    false,
                    call == 0,
                );
            }
        }
        tests
    }

    fn add(
        &mut self,
        module: &str,
        function: &str,
        call: String,
        expected: String,
        changed: bool,
        visible: bool,
    ) {
        let ordinal =
            self.cases.iter().filter(|case| case.id.starts_with(&format!("test_{function}_"))).count() + 1;
        let id = format!("test_{function}_{ordinal}");
        if changed {
            self.fail_to_pass.push(id.clone());
        } else {
            self.pass_to_pass.push(id.clone());
        }
        if visible {
            self.visible.push((self.cases.len(), function.to_owned()));
        }
        self.cases.push(Case { id, module: module.to_owned(), call, expected });
    }

    /// The visible tests. In a vague task their expectation states the spec of the buggy function.
    fn check_file(&self, spec: Option<&String>) -> TaskFile {
        let target = self.visible.first().map(|(_, function)| function.clone()).unwrap_or_default();
        let rows: Vec<String> = self
            .visible
            .iter()
            .filter_map(|(index, function)| {
                let case = self.cases.get(*index)?;
                let spec =
                    spec.filter(|_| *function == target).map_or_else(String::new, |spec| format!(": {spec}"));
                let fields = [&case.module, function, &case.call, &case.expected, &spec];
                Some(format!("    ({}),", fields.map(|field| format!("\"{field}\"")).join(", ")))
            })
            .collect();
        TaskFile { path: CHECK_FILE.to_owned(), content: CHECK_TEMPLATE.replace("# CASES", &rows.join("\n")) }
    }
}

impl Draft {
    fn call(&self, index: usize) -> String {
        self.calls.get(index).cloned().unwrap_or_default()
    }

    fn result(&self, candidate: usize, call: usize) -> String {
        self.results.get(candidate).and_then(|results| results.get(call)).cloned().unwrap_or_default()
    }
}
