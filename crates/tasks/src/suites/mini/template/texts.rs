//! Functions of a text.

use super::super::names::Names;
use super::{CALLS, Draft, candidate, grid};

pub(super) fn method(names: &mut Names) -> Draft {
    const WORDS: [&str; 10] = ["red", "Fox", "oLd", "TEA", "blue", "Sun", "wiNd", "SKY", "green", "Leaf"];
    let (function, text, local) = (names.function(), names.text(), names.local());
    let inputs: Vec<String> =
        (0..CALLS).map(|_| format!("{} {}", names.draw.word(&WORDS), names.draw.word(&WORDS))).collect();
    let candidates = vec![
        candidate(format!("{local} = {text}.upper()"), format!("{text} in upper case")),
        candidate(format!("{local} = {text}.lower()"), format!("{text} in lower case")),
        candidate(format!("{local} = {text}.title()"), format!("{text} with each word capitalized")),
        candidate(
            format!("{local} = {text}.swapcase()"),
            format!("{text} with upper and lower case swapped"),
        ),
    ];
    let results = grid(&candidates, &inputs, |index, input| {
        let changed = match index {
            0 => input.to_ascii_uppercase(),
            1 => input.to_ascii_lowercase(),
            2 => title_case(input),
            _ => input.chars().map(swap_case).collect(),
        };
        format!("'{changed}'")
    });
    Draft {
        before: vec![format!("def {function}({text}):")],
        indent: 4,
        after: vec![format!("    return {local}")],
        right_choices: candidates.len(),
        candidates,
        calls: inputs.iter().map(|input| format!("{function}('{input}')")).collect(),
        results,
        has_decoy: true,
        parameters: vec![text],
        function,
    }
}

fn title_case(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|letter| {
            let changed = if start { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
            start = letter == ' ';
            changed
        })
        .collect()
}

fn swap_case(letter: char) -> char {
    if letter.is_ascii_uppercase() { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() }
}
