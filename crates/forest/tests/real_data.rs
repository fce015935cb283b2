//! The forest of the open real data equals the one that the oracle finds.
//!
//! `oracle/oracle.py` is a second reading of the rules that shares no code with this crate; its outputs are in
//! `fixtures/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_forest::{Forest, NodeKey, Options, build};
use sealign_trajectory::Trajectory;
use sealign_trajectory::key::{KeyOptions, call_key, digest, full_text_key};
use serde_json::{Value, json};

mod shared_data;

fn check(set: &str, expected: &str) {
    let Some(folder) = shared_data::folder(set) else { return };
    let imported = shared_data::import(&folder);
    assert_eq!(imported.refused, []);
    let expected: Vec<Value> = serde_json::from_str(expected).unwrap();
    for expected in expected {
        let node_key: NodeKey = expected["nodeKey"].as_str().unwrap().parse().unwrap();
        let options = Options { node_key, ..Options::default() };
        let forest = build(&imported.trajectories, &options).unwrap();
        assert_eq!(described(&forest, &imported.trajectories), expected, "{set} {node_key:?}");
    }
}

/// A forest in the oracle's words.
fn described(forest: &Forest, collected: &[Trajectory]) -> Value {
    let mut counts = serde_json::to_value(&forest.statistics).unwrap();
    let counts = counts.as_object_mut().unwrap();
    for beyond_oracle in [
        "averagePathMessages",
        "averagePathActions",
        "trees",
        "overlapSaved",
        "sftRollouts",
        "trainingPairs",
        "pairsLeftOut",
    ] {
        counts.remove(beyond_oracle).unwrap();
    }
    let node_key = forest.options.node_key;
    let mut rows: Vec<String> = collected.iter().map(|trajectory| keys_line(trajectory, node_key)).collect();
    rows.sort();
    let rollouts = forest.trees.iter().flat_map(|tree| &tree.rollouts);
    let mut kept: Vec<&str> = rollouts.map(|rollout| rollout.id.as_str()).collect();
    kept.sort_unstable();
    let mut pairs: Vec<Value> = forest.pairs.iter().map(|pair| described_pair(forest, pair)).collect();
    let place = |pair: &Value| {
        (
            pair["task"].to_string(),
            pair["depth"].as_u64(),
            pair["chosen"].to_string(),
            pair["rejected"].to_string(),
        )
    };
    pairs.sort_by_key(place);
    json!({
        "nodeKey": match node_key {
            NodeKey::Call => "call",
            NodeKey::FullText => "full_text",
            NodeKey::CallAndObservation => "call_and_observation",
        },
        "counts": counts,
        "keysDigest": digest(&rows.join("\n")),
        "keptDigest": digest(&kept.join("\n")),
        "pairs": pairs,
    })
}

fn keys_line(trajectory: &Trajectory, node_key: NodeKey) -> String {
    let key = if node_key == NodeKey::FullText { full_text_key } else { call_key };
    let digests = trajectory.turns.iter().map(|turn| digest(&key(turn, KeyOptions::default())));
    format!("{} {}", trajectory.id, digests.collect::<Vec<_>>().join(" "))
}

fn described_pair(forest: &Forest, pair: &sealign_forest::Pair) -> Value {
    let tree = &forest.trees[pair.tree];
    json!({
        "task": tree.task,
        "depth": pair.depth,
        "chosen": digest(&tree.nodes[pair.chosen].key),
        "rejected": digest(&tree.nodes[pair.rejected].key),
        "chosenScore": tree.nodes[pair.chosen].score.to_string(),
        "rejectedScore": tree.nodes[pair.rejected].score.to_string(),
        "chosenRollout": tree.rollouts[pair.chosen_rollout].id,
        "rejectedRollout": tree.rollouts[pair.rejected_rollout].id,
        "prefixDivergent": pair.prefix_divergent,
    })
}

#[test]
fn the_openhands_swegym_forest_is_the_oracles() {
    check("openhands-swegym-samples", include_str!("fixtures/openhands-swegym-samples.json"));
}

#[test]
fn the_mini_swe_agent_forest_is_the_oracles() {
    check("mini-swe-agent-multirun", include_str!("fixtures/mini-swe-agent-multirun.json"));
}
