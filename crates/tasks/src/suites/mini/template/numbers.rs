//! Functions of one or two numbers.

use super::super::names::Names;
use super::{Candidate, Draft, candidate, grid, list, numbers, pairs, truth};

pub(super) fn operator(names: &mut Names) -> Draft {
    let (function, a, b, local) = (names.function(), names.number(), names.number(), names.local());
    let inputs = pairs(names, 2, 12);
    let candidates = vec![
        candidate(format!("{local} = {a} + {b}"), format!("the sum of {a} and {b}")),
        candidate(format!("{local} = {a} - {b}"), format!("{a} minus {b}")),
        candidate(format!("{local} = {a} * {b}"), format!("the product of {a} and {b}")),
        candidate(format!("{local} = {a} // {b}"), format!("{a} divided by {b}, rounded down")),
    ];
    let results = grid(&candidates, &inputs, |index, (x, y)| match index {
        0 => (x + y).to_string(),
        1 => (x - y).to_string(),
        2 => (x * y).to_string(),
        _ => x.div_euclid(*y).to_string(),
    });
    two_numbers(function, [a, b], &local, candidates, &inputs, results)
}

pub(super) fn compare(names: &mut Names) -> Draft {
    let (function, a, b, local) = (names.function(), names.number(), names.number(), names.local());
    let inputs = pairs(names, 1, 4);
    let candidates = vec![
        candidate(format!("{local} = {a} < {b}"), format!("True if {a} is less than {b}")),
        candidate(format!("{local} = {a} <= {b}"), format!("True if {a} is at most {b}")),
        candidate(format!("{local} = {a} > {b}"), format!("True if {a} is greater than {b}")),
        candidate(format!("{local} = {a} >= {b}"), format!("True if {a} is at least {b}")),
    ];
    let results = grid(&candidates, &inputs, |index, (x, y)| match index {
        0 => truth(x < y),
        1 => truth(x <= y),
        2 => truth(x > y),
        _ => truth(x >= y),
    });
    two_numbers(function, [a, b], &local, candidates, &inputs, results)
}

pub(super) fn boolean(names: &mut Names) -> Draft {
    let (function, a, b, local) = (names.function(), names.number(), names.number(), names.local());
    let inputs = pairs(names, -1, 2);
    let candidates = vec![
        candidate(format!("{local} = {a} > 0 and {b} > 0"), format!("True if both {a} and {b} are positive")),
        candidate(
            format!("{local} = {a} > 0 or {b} > 0"),
            format!("True if {a} or {b} or both are positive"),
        ),
        candidate(
            format!("{local} = ({a} > 0) != ({b} > 0)"),
            format!("True if just one of {a} and {b} is positive"),
        ),
        candidate(
            format!("{local} = not ({a} > 0 or {b} > 0)"),
            format!("True if neither {a} nor {b} is positive"),
        ),
    ];
    let results = grid(&candidates, &inputs, |index, (x, y)| {
        let (x, y) = (*x > 0, *y > 0);
        truth(match index {
            0 => x && y,
            1 => x || y,
            2 => x != y,
            _ => !(x || y),
        })
    });
    two_numbers(function, [a, b], &local, candidates, &inputs, results)
}

pub(super) fn swap(names: &mut Names) -> Draft {
    let (function, a, b, local) = (names.function(), names.number(), names.number(), names.local());
    let inputs = pairs(names, 1, 20);
    let candidates = vec![
        candidate(format!("{local} = [{a}, {b}]"), format!("a list of {a}, then {b}")),
        candidate(format!("{local} = [{b}, {a}]"), format!("a list of {b}, then {a}")),
        candidate(format!("{local} = [{a}, {a}]"), String::new()),
    ];
    let results = grid(&candidates, &inputs, |index, (x, y)| match index {
        0 => list(&[*x, *y]),
        1 => list(&[*y, *x]),
        _ => list(&[*x, *x]),
    });
    let draft = two_numbers(function, [a, b], &local, candidates, &inputs, results);
    Draft { right_choices: 2, ..draft }
}

pub(super) fn constant(names: &mut Names) -> Draft {
    let (function, a, local) = (names.function(), names.number(), names.local());
    let mut factors = vec![2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 20, 60];
    names.draw.shuffle(&mut factors);
    factors.truncate(4);
    let inputs = numbers(names, 1, 30);
    let candidates: Vec<Candidate> = factors
        .iter()
        .map(|factor| candidate(format!("{local} = {a} * {factor}"), format!("{a} times {factor}")))
        .collect();
    let results =
        grid(&candidates, &inputs, |index, x| (x * factors.get(index).copied().unwrap_or(0)).to_string());
    Draft {
        before: vec![format!("def {function}({a}):")],
        indent: 4,
        after: vec![format!("    return {local}")],
        right_choices: candidates.len(),
        candidates,
        calls: inputs.iter().map(|x| format!("{function}({x})")).collect(),
        results,
        has_decoy: true,
        parameters: vec![a],
        function,
    }
}

pub(super) fn variable(names: &mut Names) -> Draft {
    let (function, a, b) = (names.function(), names.number(), names.number());
    let (sum, product) = (names.local(), names.local());
    let (plus, times) = (names.draw.between(2, 9), names.draw.between(2, 9));
    let inputs = pairs(names, 3, 30);
    let candidates = vec![
        candidate(format!("return {sum}"), format!("{a} plus {plus}")),
        candidate(format!("return {product}"), format!("{b} times {times}")),
        candidate(format!("return {a}"), a.clone()),
    ];
    let results = grid(&candidates, &inputs, |index, (x, y)| match index {
        0 => (x + plus).to_string(),
        1 => (y * times).to_string(),
        _ => x.to_string(),
    });
    Draft {
        before: vec![
            format!("def {function}({a}, {b}):"),
            format!("    {sum} = {a} + {plus}"),
            format!("    {product} = {b} * {times}"),
        ],
        indent: 4,
        after: Vec::new(),
        right_choices: 2,
        candidates,
        calls: inputs.iter().map(|(x, y)| format!("{function}({x}, {y})")).collect(),
        results,
        has_decoy: false,
        parameters: vec![a, b],
        function,
    }
}

fn two_numbers(
    function: String,
    [a, b]: [String; 2],
    local: &str,
    candidates: Vec<Candidate>,
    inputs: &[(i64, i64)],
    results: Vec<Vec<String>>,
) -> Draft {
    Draft {
        before: vec![format!("def {function}({a}, {b}):")],
        indent: 4,
        after: vec![format!("    return {local}")],
        right_choices: candidates.len(),
        candidates,
        calls: inputs.iter().map(|(x, y)| format!("{function}({x}, {y})")).collect(),
        results,
        has_decoy: true,
        parameters: vec![a, b],
        function,
    }
}
