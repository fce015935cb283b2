//! Functions whose bug is about missing arguments: defaults and `None`.

use super::super::names::Names;
use super::{CALLS, Candidate, Draft, candidate, grid, list, numbers, pairs};

pub(super) fn default(names: &mut Names) -> Draft {
    let (function, a, b, local) = (names.function(), names.number(), names.number(), names.local());
    let mut defaults = vec![0, 1, 2, 3, 5, 10, 20, 100];
    names.draw.shuffle(&mut defaults);
    defaults.truncate(4);
    // One call in four names the second argument, and no default can change what it gives.
    let inputs: Vec<(i64, Option<i64>)> = (0..CALLS)
        .map(|call| {
            let second = (call % 4 == 3).then(|| names.draw.between(4, 9));
            (names.draw.between(1, 40), second)
        })
        .collect();
    let candidates: Vec<Candidate> = defaults
        .iter()
        .map(|value| {
            candidate(
                format!("def {function}({a}, {b}={value}):"),
                format!("{a} plus {b}, which is {value} unless given"),
            )
        })
        .collect();
    let results = grid(&candidates, &inputs, |index, (x, y)| {
        (x + y.or_else(|| defaults.get(index).copied()).unwrap_or(0)).to_string()
    });
    let calls = inputs
        .iter()
        .map(|(x, y)| match y {
            Some(y) => format!("{function}({x}, {y})"),
            None => format!("{function}({x})"),
        })
        .collect();
    Draft {
        before: Vec::new(),
        indent: 0,
        after: vec![format!("    {local} = {a} + {b}"), format!("    return {local}")],
        right_choices: candidates.len(),
        candidates,
        calls,
        results,
        has_decoy: true,
        parameters: vec![a],
        function,
    }
}

pub(super) fn none(names: &mut Names) -> Draft {
    let (function, a, local) = (names.function(), names.number(), names.local());
    let (fallback, plus) = (names.draw.between(20, 90), names.draw.between(1, 9));
    let mut inputs: Vec<Option<i64>> = numbers(names, 1, 30).into_iter().map(Some).collect();
    // The two calls that tell the conditions apart.
    inputs.splice(..2, [None, Some(0)]);
    let candidates = vec![
        candidate(format!("if {a} is None:"), format!("{fallback} if {a} is None, else {a} plus {plus}")),
        candidate(format!("if {a} is not None:"), String::new()),
        candidate(format!("if not {a}:"), String::new()),
    ];
    let results = grid(&candidates, &inputs, |index, input| {
        let taken = match index {
            0 => input.is_none(),
            1 => input.is_some(),
            _ => input.is_none_or(|value| value == 0),
        };
        match (taken, input) {
            (true, _) => fallback.to_string(),
            (false, Some(value)) => (value + plus).to_string(),
            (false, None) => "TypeError".to_owned(),
        }
    });
    let show = |input: &Option<i64>| input.map_or_else(|| "None".to_owned(), |value| value.to_string());
    Draft {
        before: vec![format!("def {function}({a}):")],
        indent: 4,
        after: vec![
            format!("        return {fallback}"),
            format!("    {local} = {a} + {plus}"),
            format!("    return {local}"),
        ],
        right_choices: 1,
        candidates,
        calls: inputs.iter().map(|input| format!("{function}({})", show(input))).collect(),
        results,
        has_decoy: false,
        parameters: vec![a],
        function,
    }
}

pub(super) fn mutable(names: &mut Names) -> Draft {
    let (function, a, bag) = (names.function(), names.number(), names.list());
    // Each call hands in nothing or its own list; a pair of calls shows whether the default is shared.
    let inputs = pairs(names, 1, 30);
    let candidates = vec![
        candidate(
            format!("def {function}({a}, {bag}=None):"),
            format!("a new list of {a} unless given {bag}"),
        ),
        candidate(format!("def {function}({a}, {bag}=[]):"), String::new()),
        candidate(format!("def {function}({a}, {bag}=()):"), String::new()),
    ];
    let given = |call: usize| call % 4 == 3;
    let numbered: Vec<(usize, (i64, i64))> = inputs.into_iter().enumerate().collect();
    let results = grid(&candidates, &numbered, |index, (call, (x, y))| match (given(*call), index) {
        (true, _) => list(&[*y, *x]),
        (false, 0) => format!("[[{x}], [{y}]]"),
        (false, 1) => format!("[[{x}, {y}], [{x}, {y}]]"),
        (false, _) => "AttributeError".to_owned(),
    });
    let calls = numbered
        .iter()
        .map(|(call, (x, y))| {
            if given(*call) {
                format!("{function}({x}, [{y}])")
            } else {
                format!("[{function}({x}), {function}({y})]")
            }
        })
        .collect();
    Draft {
        before: Vec::new(),
        indent: 0,
        after: vec![
            format!("    if {bag} is None:"),
            format!("        {bag} = []"),
            format!("    {bag}.append({a})"),
            format!("    return {bag}"),
        ],
        right_choices: 1,
        candidates,
        calls,
        results,
        has_decoy: false,
        parameters: vec![a],
        function,
    }
}
