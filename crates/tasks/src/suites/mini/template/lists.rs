//! Functions of a list, or that make one.

use super::super::names::Names;
use super::{CALLS, Candidate, Draft, candidate, grid, list, numbers};

pub(super) fn index(names: &mut Names) -> Draft {
    let (function, items, local) = (names.function(), names.list(), names.local());
    let inputs = lists(names);
    let candidates = vec![
        candidate(format!("{local} = {items}[0]"), format!("the first of {items}")),
        candidate(format!("{local} = {items}[1]"), format!("the second of {items}")),
        candidate(format!("{local} = {items}[-1]"), format!("the last of {items}")),
        candidate(format!("{local} = {items}[-2]"), format!("the last but one of {items}")),
    ];
    let results = grid(&candidates, &inputs, |index, values| {
        let found = match index {
            0 => values.first(),
            1 => values.get(1),
            2 => values.last(),
            _ => values.iter().rev().nth(1),
        };
        found.map_or_else(String::new, ToString::to_string)
    });
    one_list(function, items, &local, candidates, &inputs, results)
}

pub(super) fn aggregate(names: &mut Names) -> Draft {
    let (function, items, local) = (names.function(), names.list(), names.local());
    let inputs = lists(names);
    let candidates = vec![
        candidate(format!("{local} = sum({items})"), format!("the sum of {items}")),
        candidate(format!("{local} = max({items})"), format!("the largest of {items}")),
        candidate(format!("{local} = min({items})"), format!("the smallest of {items}")),
        candidate(format!("{local} = len({items})"), format!("the number of {items}")),
    ];
    let results = grid(&candidates, &inputs, |index, values| match index {
        0 => values.iter().sum::<i64>().to_string(),
        1 => values.iter().max().map_or_else(String::new, ToString::to_string),
        2 => values.iter().min().map_or_else(String::new, ToString::to_string),
        _ => values.len().to_string(),
    });
    one_list(function, items, &local, candidates, &inputs, results)
}

pub(super) fn returned(names: &mut Names) -> Draft {
    let (function, items, local) = (names.function(), names.list(), names.local());
    let bound = names.draw.between(5, 12);
    let inputs = lists(names);
    let candidates = vec![
        candidate(format!("return {local}"), format!("those of {items} above {bound}")),
        candidate(format!("return {items}"), String::new()),
        candidate("pass".to_owned(), String::new()),
    ];
    let results = grid(&candidates, &inputs, |index, values| match index {
        0 => list(&values.iter().copied().filter(|value| *value > bound).collect::<Vec<_>>()),
        1 => list(values),
        _ => "None".to_owned(),
    });
    Draft {
        before: vec![
            format!("def {function}({items}):"),
            format!("    {local} = [item for item in {items} if item > {bound}]"),
        ],
        indent: 4,
        after: Vec::new(),
        candidates,
        right_choices: 1,
        calls: inputs.iter().map(|values| format!("{function}({})", list(values))).collect(),
        results,
        has_decoy: false,
        parameters: vec![items],
        function,
    }
}

pub(super) fn range(names: &mut Names) -> Draft {
    let (function, n, local) = (names.function(), names.number(), names.local());
    let inputs = numbers(names, 2, 9);
    let candidates = vec![
        candidate(format!("for i in range({n}):"), format!("the numbers from 0 to {n} - 1")),
        candidate(format!("for i in range(1, {n}):"), format!("the numbers from 1 to {n} - 1")),
        candidate(format!("for i in range({n} + 1):"), format!("the numbers from 0 to {n}")),
        candidate(format!("for i in range(1, {n} + 1):"), format!("the numbers from 1 to {n}")),
    ];
    let results = grid(&candidates, &inputs, |index, n| {
        let (low, high) = match index {
            0 => (0, *n),
            1 => (1, *n),
            2 => (0, n + 1),
            _ => (1, n + 1),
        };
        list(&(low..high).collect::<Vec<_>>())
    });
    Draft {
        before: vec![format!("def {function}({n}):"), format!("    {local} = []")],
        indent: 4,
        after: vec![format!("        {local}.append(i)"), format!("    return {local}")],
        right_choices: candidates.len(),
        candidates,
        calls: inputs.iter().map(|n| format!("{function}({n})")).collect(),
        results,
        has_decoy: true,
        parameters: vec![n],
        function,
    }
}

fn one_list(
    function: String,
    items: String,
    local: &str,
    candidates: Vec<Candidate>,
    inputs: &[Vec<i64>],
    results: Vec<Vec<String>>,
) -> Draft {
    Draft {
        before: vec![format!("def {function}({items}):")],
        indent: 4,
        after: vec![format!("    return {local}")],
        right_choices: candidates.len(),
        candidates,
        calls: inputs.iter().map(|values| format!("{function}({})", list(values))).collect(),
        results,
        has_decoy: true,
        parameters: vec![items],
        function,
    }
}

fn lists(names: &mut Names) -> Vec<Vec<i64>> {
    (0..CALLS)
        .map(|_| {
            let length = names.draw.between(4, 5);
            (0..length).map(|_| names.draw.between(1, 20)).collect()
        })
        .collect()
}
