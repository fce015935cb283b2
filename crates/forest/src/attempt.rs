//! A trajectory with what merging needs of it: its tree, its keys, and its observations normalised on demand.

use std::cell::OnceCell;

use sealign_trajectory::key::{KeyOptions, call_key, digest, full_text_key};
use sealign_trajectory::observe::{NormalisedObservation, Normaliser};
use sealign_trajectory::stuck::is_comparable;
use sealign_trajectory::{Action, ObservationPart, Outcome, Trajectory};

use crate::options::{NodeKey, Options};

/// One step in a tree: the action's key and, in the mode that asks for it, what the model had seen before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Edge {
    /// Digest of the normalised observation that preceded the action (rule B1); `None` in the other modes.
    pub(crate) observation: Option<String>,
    /// The action's key under the chosen node key.
    pub(crate) key: String,
}

pub(crate) struct Attempt<'a> {
    pub(crate) trajectory: &'a Trajectory,
    /// Which tree of the task it belongs to (rule C5).
    pub(crate) prompt: String,
    pub(crate) edges: Vec<Edge>,
    /// Keys for the loop filter: always `call` keys (C10), and `None` where a turn is equal to nothing (C4).
    pub(crate) loop_keys: Vec<Option<String>>,
    observations: OnceCell<Vec<NormalisedObservation>>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(trajectory: &'a Trajectory, options: &Options, normaliser: &Normaliser) -> Self {
        let keys = KeyOptions { unify_temporary_paths: !options.keep_temporary_paths };
        let mut attempt = Self {
            trajectory,
            prompt: normaliser.prompt_digest(&trajectory.prompt),
            edges: Vec::with_capacity(trajectory.turns.len()),
            loop_keys: Vec::with_capacity(trajectory.turns.len()),
            observations: OnceCell::new(),
        };
        let mut seen_before = trajectory.first_observation.as_deref();
        for turn in &trajectory.turns {
            let call = call_key(turn, keys);
            let key =
                if options.node_key == NodeKey::FullText { full_text_key(turn, keys) } else { call.clone() };
            let observation = (options.node_key == NodeKey::CallAndObservation)
                .then(|| observation_digest(normaliser, seen_before));
            attempt.edges.push(Edge { observation, key });
            attempt.loop_keys.push(is_comparable(turn).then_some(call));
            seen_before = turn.observation.as_deref();
        }
        attempt
    }

    pub(crate) fn is_success(&self) -> bool {
        self.trajectory.outcome == Outcome::Success
    }

    /// The normalised observation of every turn, made once.
    pub(crate) fn observations(&self, normaliser: &Normaliser) -> &[NormalisedObservation] {
        let make = || {
            let turns = self.trajectory.turns.iter();
            turns.map(|turn| normaliser.observation(turn.observation.as_deref())).collect()
        };
        self.observations.get_or_init(make)
    }

    /// Whether turn `index` was output that no pair may use (rule C4).
    pub(crate) fn is_wordless(&self, index: usize) -> bool {
        self.loop_keys.get(index).is_some_and(Option::is_none)
    }

    pub(crate) fn is_invalid(&self, index: usize) -> bool {
        self.trajectory.turns.get(index).is_some_and(|turn| matches!(turn.action, Action::Invalid { .. }))
    }
}

/// A short name for an observation; nothing came back has its own.
fn observation_digest(normaliser: &Normaliser, observation: Option<&[ObservationPart]>) -> String {
    let texts = normaliser
        .observation(observation)
        .map(|texts| texts.into_iter().map(serde_json::Value::String).collect());
    digest(&sealign_trajectory::canonical::to_text(
        &texts.map_or(serde_json::Value::Null, serde_json::Value::Array),
    ))
}
