//! The probabilities that make a policy.

/// A scripted policy: the chances of its decisions, each from 0 to 1. Sources: tiny-loop recipe, part 1 section 2 (named
/// sets) and part 2 B (guessing).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyParams {
    /// Chance, each turn, to repeat the last action; two equal actions are then repeated until a stop rule ends it.
    pub repeat: f64,
    /// Chance, each turn before the first edit, to finish without one.
    pub early_finish: f64,
    /// Chance, each turn, of a call that the harness refuses.
    pub invalid: f64,
    /// Chance, each time it looks for the bug, to read another file.
    pub wrong_file: f64,
    /// Chance that an attempt runs the tests before it edits.
    pub test_before: f64,
    /// Chance to run the tests after an edit instead of finishing.
    pub test_after: f64,
    /// Chance to write the right line once the spec is known.
    pub skill: f64,
    /// Chance, each edit, to change a line that was right.
    pub wrong_line: f64,
    /// Chance, each edit, to misquote the line.
    pub miscopy: f64,
}

impl PolicyParams {
    /// The named sets, best first.
    pub const NAMES: [&'static str; 6] = ["strong", "medium", "weak", "looper", "quitter", "blind"];

    /// The set of this name; `None` for other names.
    pub fn named(name: &str) -> Option<Self> {
        let strong = Self {
            repeat: 0.0,
            early_finish: 0.0,
            invalid: 0.0,
            wrong_file: 0.03,
            test_before: 0.75,
            test_after: 0.95,
            skill: 0.97,
            wrong_line: 0.01,
            miscopy: 0.01,
        };
        let medium = Self {
            repeat: 0.02,
            early_finish: 0.02,
            invalid: 0.02,
            wrong_file: 0.12,
            test_before: 0.20,
            test_after: 0.25,
            skill: 0.92,
            wrong_line: 0.06,
            miscopy: 0.04,
        };
        let weak = Self {
            repeat: 0.05,
            early_finish: 0.06,
            invalid: 0.05,
            wrong_file: 0.20,
            test_before: 0.08,
            test_after: 0.10,
            skill: 0.80,
            wrong_line: 0.12,
            miscopy: 0.08,
        };
        Some(match name {
            "strong" => strong,
            "medium" => medium,
            "weak" => weak,
            "looper" => Self { repeat: 0.35, ..weak },
            "quitter" => Self { early_finish: 0.40, ..weak },
            "blind" => Self { wrong_line: 0.40, invalid: 0.15, ..weak },
            _ => return None,
        })
    }

    /// The guessing policy: with chance `look` (q in the recipe, .17 there) it runs the tests and then writes the right
    /// line; otherwise it reads the file and tries one of the other lines. It never tests after an edit.
    pub fn guessing(look: f64) -> Self {
        Self {
            repeat: 0.0,
            early_finish: 0.01,
            invalid: 0.015,
            wrong_file: 0.0,
            test_before: look,
            test_after: 0.0,
            skill: 0.98,
            wrong_line: 0.0,
            miscopy: 0.0,
        }
    }
}
