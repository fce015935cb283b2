//! Every choice of building a forest, with the paper's rule as the default (specs 5.2 to 5.4, 5.8).

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::kind::KindRules;
use crate::score::{ScoreEstimator, Threshold};

/// How a forest is built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// When two actions are one node.
    pub node_key: NodeKey,
    /// Compare `/tmp/tmpXXXX` paths as they stand instead of as one name (rule A6).
    pub keep_temporary_paths: bool,
    /// What is cleaned away.
    pub filters: Filters,
    /// Tasks and repositories that training must not see.
    pub exclusion: Exclusion,
    /// Which pairs are extracted.
    pub pairs: PairOptions,
    /// Which successes are kept for supervised fine-tuning.
    pub sft: SftOptions,
    /// Which share of the tasks is used for training.
    pub data_ratio: DataRatio,
}

/// When two actions are one node (specs 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeKey {
    /// Equal tool calls.
    #[default]
    Call,
    /// Equal tool calls and equal free text.
    FullText,
    /// Equal tool calls after equal observations (rule B1).
    CallAndObservation,
}

/// A node key's name is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node key `{0}` is not known; use call, full_text or call_and_observation")]
pub struct UnknownNodeKey(String);

impl FromStr for NodeKey {
    type Err = UnknownNodeKey;

    fn from_str(text: &str) -> Result<Self, UnknownNodeKey> {
        let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        match plain.to_ascii_lowercase().as_str() {
            "call" => Ok(Self::Call),
            "fulltext" => Ok(Self::FullText),
            "callandobservation" => Ok(Self::CallAndObservation),
            _ => Err(UnknownNodeKey(text.chars().take(40).collect())),
        }
    }
}

/// The cleaning steps after exclusion (specs 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filters {
    /// Step 2: of equal rollouts keep the first by id.
    pub deduplicate: bool,
    /// Step 3: so many equal actions in a row drop a rollout; 0 or 1 switches the filter off.
    pub loop_min_repeats: u32,
    /// Step 3: the observations must be equal too.
    pub loop_require_same_observation: bool,
    /// Step 4.
    pub overlap: Overlap,
    /// Step 4: so many first actions must be shared with one other rollout.
    pub overlap_min_prefix: u32,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            deduplicate: true,
            loop_min_repeats: 3,
            loop_require_same_observation: true,
            overlap: Overlap::Prefix,
            overlap_min_prefix: 1,
        }
    }
}

/// What a rollout must share with another one of its tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Overlap {
    /// Its first actions.
    #[default]
    Prefix,
    /// Any action anywhere.
    AnyAction,
    /// Nothing.
    Off,
}

/// What must not be trained on (specs 5.2 step 1). Names compare without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exclusion {
    /// Task ids.
    pub tasks: BTreeSet<String>,
    /// Repositories as `owner/name`.
    pub repositories: BTreeSet<String>,
    /// Problem statements: a rollout whose text contains one verbatim is dropped. Blank ones are ignored.
    pub problem_statements: Vec<String>,
}

/// The repositories of SWE-bench (specs 2.1): what a model that is measured on it must not be trained on.
pub const SWE_BENCH_REPOSITORIES: [&str; 12] = [
    "astropy/astropy",
    "django/django",
    "matplotlib/matplotlib",
    "mwaskom/seaborn",
    "pallets/flask",
    "psf/requests",
    "pydata/xarray",
    "pylint-dev/pylint",
    "pytest-dev/pytest",
    "scikit-learn/scikit-learn",
    "sphinx-doc/sphinx",
    "sympy/sympy",
];

/// Which pairs are extracted (specs 5.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PairOptions {
    /// Critical actions, or whole rollouts (an ablation).
    pub mode: PairMode,
    /// The difference that two siblings must exceed.
    pub threshold: Threshold,
    /// How scores are estimated.
    pub score_estimator: ScoreEstimator,
    /// Children with fewer paths are neither chosen nor rejected (rule E3).
    pub min_support: u32,
    /// Which siblings of one decision are paired.
    pub selection: Selection,
    /// Both actions must be of different kinds.
    pub require_different_kind: bool,
    /// What each kind of action is.
    pub kinds: KindRules,
    /// At most so many pairs per decision, those with the largest gaps; `None` for all.
    pub max_pairs_per_decision: Option<u32>,
    /// Leave pairs out of training whose two rollouts saw different observations before the decision.
    pub drop_divergent: bool,
    /// Train on pairs whose prefix the scaffold had condensed (rule C17 leaves them out).
    pub keep_condensed: bool,
    /// Seed of the whole-trajectory mode.
    pub seed: u64,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            mode: PairMode::default(),
            threshold: Threshold::default(),
            score_estimator: ScoreEstimator::default(),
            min_support: 1,
            selection: Selection::default(),
            require_different_kind: false,
            kinds: KindRules::default(),
            max_pairs_per_decision: None,
            drop_divergent: false,
            keep_condensed: false,
            seed: 0,
        }
    }
}

/// What a pair consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PairMode {
    /// Two actions at one decision.
    #[default]
    Critical,
    /// A whole successful against a whole failed rollout of one tree (specs 5.8, "w/o fine-grained score").
    WholeTrajectory,
}

/// Which siblings of one decision are paired (rules E1, E2, E7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selection {
    /// The best against the worst.
    #[default]
    BestWorst,
    /// The best against every sibling that it beats.
    BestVsEach,
    /// Every two siblings that differ enough.
    AllPairs,
}

/// Which successes are kept for supervised fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SftOptions {
    /// Of successes with equal actions keep one, even where their observations differ.
    pub deduplicate: bool,
    /// At most so many per task, drawn by `seed`; `None` for all.
    pub max_per_task: Option<u32>,
    /// Seed of the draw.
    pub seed: u64,
}

/// Which share of the tasks is used for training (specs 5.8): one seeded order of tasks, and a prefix of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DataRatio {
    /// From 0 to 100; the number of tasks is rounded up.
    pub percent: u32,
    /// Seed of the order. Smaller shares are contained in larger ones of the same seed.
    pub seed: u64,
    /// Restrict the pairs only, and keep every success for supervised fine-tuning.
    pub pairs_only: bool,
}

impl Default for DataRatio {
    fn default() -> Self {
        Self { percent: 100, seed: 0, pairs_only: false }
    }
}
