//! The function templates: one readable function each, with the lines that compete for one place in it.
//!
//! Every template knows what each of its candidate lines makes of each call, so that the generator can reject a task
//! whose tests do not tell the candidates apart without running anything. An integration test runs Python and compares.

mod lists;
mod numbers;
mod signatures;
mod texts;

use super::family::Family;
use super::names::Names;

/// One function with a place (the slot) that several candidate lines compete for.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) function: String,
    /// What a wrapper has to pass on: parameters without a default.
    pub(super) parameters: Vec<String>,
    /// Lines before the slot, the indentation of the slot, lines after it.
    before: Vec<String>,
    indent: usize,
    after: Vec<String>,
    pub(super) candidates: Vec<Candidate>,
    /// How many of the candidates, from the first, may be the right one.
    pub(super) right_choices: usize,
    /// Expressions that call the function.
    pub(super) calls: Vec<String>,
    /// What each candidate makes of each call, as Python's `repr` or the name of what was raised.
    pub(super) results: Vec<Vec<String>>,
    /// The last line may be spoilt to `return None`, and every call then gives `None`.
    pub(super) has_decoy: bool,
}

/// A line for the slot, without its indentation, and what the function returns with it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) line: String,
    pub(super) spec: String,
}

/// Calls drawn for each function: enough that three of them nearly always tell four candidates apart.
const CALLS: usize = 12;

impl Draft {
    /// The function's source with candidate `index` in the slot, and its last line spoilt if `spoilt`. Ends without a
    /// line break.
    pub(super) fn source(&self, index: usize, spoilt: bool) -> String {
        let line = self.candidates.get(index).map_or("", |candidate| candidate.line.as_str());
        let mut lines = self.before.clone();
        lines.push(format!("{}{line}", " ".repeat(self.indent)));
        lines.extend(self.after.iter().cloned());
        if spoilt && let Some(last) = lines.last_mut() {
            *last = format!("    {DECOY_LINE}");
        }
        lines.join("\n")
    }

    /// The last line, without its indentation, where it may be spoilt.
    pub(super) fn decoy_line(&self) -> Option<&str> {
        self.has_decoy.then(|| self.after.last().map(|line| line.trim_start())).flatten()
    }
}

/// What a spoilt last line is replaced by.
pub(super) const DECOY_LINE: &str = "return None";

/// Draws a function of `family`.
pub(super) fn draft(family: Family, names: &mut Names) -> Draft {
    match family {
        Family::Operator => numbers::operator(names),
        Family::Compare => numbers::compare(names),
        Family::Index => lists::index(names),
        Family::Agg => lists::aggregate(names),
        Family::Default => signatures::default(names),
        Family::Const => numbers::constant(names),
        Family::Range => lists::range(names),
        Family::Variable => numbers::variable(names),
        Family::Swap => numbers::swap(names),
        Family::Return => lists::returned(names),
        Family::None => signatures::none(names),
        Family::Mutable => signatures::mutable(names),
        Family::Method => texts::method(names),
        Family::Bool => numbers::boolean(names),
    }
}

fn candidate(line: String, spec: String) -> Candidate {
    Candidate { line, spec }
}

fn grid<T>(candidates: &[Candidate], inputs: &[T], result: impl Fn(usize, &T) -> String) -> Vec<Vec<String>> {
    (0..candidates.len()).map(|index| inputs.iter().map(|input| result(index, input)).collect()).collect()
}

fn numbers(names: &mut Names, low: i64, high: i64) -> Vec<i64> {
    (0..CALLS).map(|_| names.draw.between(low, high)).collect()
}

fn pairs(names: &mut Names, low: i64, high: i64) -> Vec<(i64, i64)> {
    (0..CALLS).map(|_| (names.draw.between(low, high), names.draw.between(low, high))).collect()
}

fn list(values: &[i64]) -> String {
    let items: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

fn truth(value: bool) -> String {
    if value { "True" } else { "False" }.to_owned()
}
