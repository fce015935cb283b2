//! The kinds of bug that the suite plants.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A family of bugs: one function template with its candidate lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The wrong arithmetic operator.
    Operator,
    /// The wrong comparison.
    Compare,
    /// The wrong element of a list.
    Index,
    /// The wrong aggregate of a list.
    Agg,
    /// The wrong default of a parameter.
    Default,
    /// The wrong constant.
    Const,
    /// The wrong bounds of a loop.
    Range,
    /// The wrong variable returned.
    Variable,
    /// Two values in the wrong order.
    Swap,
    /// The wrong thing returned, or nothing.
    Return,
    /// A condition that confuses `None` with other values.
    None,
    /// A default that all calls share.
    Mutable,
    /// The wrong string method. Held out of SFT and DPO.
    Method,
    /// The wrong boolean connective. Held out of SFT and DPO.
    Bool,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 14] = [
        Self::Operator,
        Self::Compare,
        Self::Index,
        Self::Agg,
        Self::Default,
        Self::Const,
        Self::Range,
        Self::Variable,
        Self::Swap,
        Self::Return,
        Self::None,
        Self::Mutable,
        Self::Method,
        Self::Bool,
    ];

    /// The families that alignment data may hold.
    pub const TRAINED: [Self; 12] = [
        Self::Operator,
        Self::Compare,
        Self::Index,
        Self::Agg,
        Self::Default,
        Self::Const,
        Self::Range,
        Self::Variable,
        Self::Swap,
        Self::Return,
        Self::None,
        Self::Mutable,
    ];

    /// The families that SFT and DPO never see (the pretraining of the built-in base model does).
    pub const HELD_OUT: [Self; 2] = [Self::Method, Self::Bool];

    /// The trained families with four candidate lines each, any of which may be the right one: what the guessing
    /// teachers work on.
    pub const FOUR_CANDIDATES: [Self; 7] =
        [Self::Operator, Self::Compare, Self::Index, Self::Agg, Self::Default, Self::Const, Self::Range];

    /// The name used in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Compare => "compare",
            Self::Index => "index",
            Self::Agg => "agg",
            Self::Default => "default",
            Self::Const => "const",
            Self::Range => "range",
            Self::Variable => "variable",
            Self::Swap => "swap",
            Self::Return => "return",
            Self::None => "none",
            Self::Mutable => "mutable",
            Self::Method => "method",
            Self::Bool => "bool",
        }
    }

    /// The family of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// Whether the right line can be told from the code alone, without the spec: only one of its candidates makes sense.
    pub fn is_evident(self) -> bool {
        matches!(self, Self::Return | Self::None | Self::Mutable)
    }

    /// Whether SFT and DPO must not see it.
    pub fn is_held_out(self) -> bool {
        Self::HELD_OUT.contains(&self)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trained_and_the_held_out_families_are_all_of_them_and_share_none() {
        let mut both: Vec<Family> = Family::TRAINED.into_iter().chain(Family::HELD_OUT).collect();
        both.sort();
        assert_eq!(both, Family::ALL);
    }

    #[test]
    fn a_family_is_found_by_its_name() {
        for family in Family::ALL {
            assert_eq!(Family::parse(family.name()), Some(family));
        }
        assert_eq!(Family::parse("typo"), None);
    }
}
