//! Profiles: which version is imitated, and in which words.

use serde::{Deserialize, Serialize};

/// A version of the scaffold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Profile {
    /// Three tools; `finish` takes nothing.
    #[default]
    #[serde(rename = "openhands-0.24")]
    OpenHands024,
    /// Adds `think`, and arguments on `finish`.
    #[serde(rename = "openhands-0.28")]
    OpenHands028,
    /// The same protocol and tools for models with a small context: a one-line prompt without function list or example,
    /// observations that are the bare output, relative paths allowed. Made for the quickstart's model of 720 tokens.
    #[serde(rename = "compact")]
    Compact,
}

impl Profile {
    /// The name used in manifests and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenHands024 => "openhands-0.24",
            Self::OpenHands028 => "openhands-0.28",
            Self::Compact => "compact",
        }
    }

    /// The profile of a name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::OpenHands024, Self::OpenHands028, Self::Compact]
            .into_iter()
            .find(|profile| profile.name() == name)
    }

    /// Longest shell observation in characters.
    pub(crate) fn observation_chars_max(self) -> usize {
        match self {
            Self::OpenHands024 | Self::OpenHands028 => 30_000,
            // About 500 tokens: more would leave the small model no room to act.
            Self::Compact => 1_500,
        }
    }

    /// Longest editor observation in characters.
    pub(crate) fn editor_chars_max(self) -> usize {
        match self {
            Self::OpenHands024 | Self::OpenHands028 => 16_000,
            Self::Compact => 1_500,
        }
    }

    /// Whether a result names its tool (`EXECUTION RESULT of [NAME]:`).
    pub(crate) fn names_results(self) -> bool {
        self != Self::Compact
    }

    pub(crate) fn is_compact(self) -> bool {
        self == Self::Compact
    }
}

/// The texts that an operator may replace. Places in braces are filled: `{workdir}` and `{problem}` in `task`, and in
/// `system` `{functions}`, the list of tools with the rules of the call format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Templates {
    /// The system message.
    pub system: String,
    /// The first user message.
    pub task: String,
    /// A worked example that is put around the first user message; empty for none.
    pub example: String,
    /// The scripted user's answer to text without a call.
    pub nudge: String,
    /// What it adds from the second time on.
    pub nudge_give_up: String,
    /// What follows a call that cannot be carried out, in the compact profile; the others say what is wrong.
    pub invalid_call: String,
}

impl Templates {
    /// The texts that come with a profile.
    pub fn of(profile: Profile) -> Self {
        let own = |text: &str| text.trim_end().to_owned();
        match profile {
            Profile::OpenHands024 | Profile::OpenHands028 => Self {
                system: own(match profile {
                    Profile::OpenHands028 => include_str!("prompts/system_0.28.txt"),
                    _ => include_str!("prompts/system_0.24.txt"),
                }),
                task: own(match profile {
                    Profile::OpenHands028 => include_str!("prompts/task_0.28.txt"),
                    _ => include_str!("prompts/task_0.24.txt"),
                }),
                example: own(include_str!("prompts/example.txt")),
                nudge: own(include_str!("prompts/nudge.txt")),
                nudge_give_up: format!("\n{}", own(include_str!("prompts/nudge_give_up.txt"))),
                invalid_call: String::new(),
            },
            Profile::Compact => Self {
                system: "Fix the bug.".to_owned(),
                task: "{problem}".to_owned(),
                example: String::new(),
                nudge: "Call a function.".to_owned(),
                nudge_give_up: String::new(),
                invalid_call: "Invalid call.".to_owned(),
            },
        }
    }
}
