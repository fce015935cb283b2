//! The stored form of a forest: JSON with deterministic bytes, so that equal forests have equal digests.
//!
//! Fields stand in a fixed order, maps are sorted, and scores and thresholds are texts; the two averages are the only
//! floats, and they are the quotient of two stored sums.

use sealign_trajectory::json::{self, JsonError};

use crate::forest::Forest;

/// A stored forest does not read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes are not JSON.
    #[error("the stored forest is not JSON")]
    Json(#[from] JsonError),
    /// The JSON is not a forest of this version.
    #[error("the stored forest is not one of this version; build it again")]
    Forest(#[source] serde_json::Error),
    /// Parts of the forest point outside it.
    #[error("{0} of the stored forest points outside it; build it again")]
    Dangling(String),
}

impl Forest {
    /// The bytes to store, ending with a newline.
    ///
    /// # Errors
    /// Only when a value has no JSON form, which no field has.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads stored bytes and checks that every reference holds.
    ///
    /// # Errors
    /// [`StoreError`] as its variants say.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let forest: Self = serde_json::from_value(json::parse_bytes(bytes)?).map_err(StoreError::Forest)?;
        for (index, tree) in forest.trees.iter().enumerate() {
            let is_sound = |(place, node): (usize, &crate::tree::Node)| {
                node.parent.is_none_or(|parent| parent < place)
                    && node.children.iter().all(|child| *child > place && *child < tree.nodes.len())
                    && node
                        .leaves
                        .iter()
                        .chain(&node.success)
                        .chain(&node.failure)
                        .all(|leaf| *leaf < tree.rollouts.len())
            };
            if tree.nodes.is_empty() || !tree.nodes.iter().enumerate().all(is_sound) {
                return Err(StoreError::Dangling(format!("tree {index}")));
            }
        }
        for (index, pair) in forest.pairs.iter().enumerate() {
            let is_sound = forest.trees.get(pair.tree).is_some_and(|tree| {
                [pair.node, pair.chosen, pair.rejected].iter().all(|node| *node < tree.nodes.len())
                    && [pair.chosen_rollout, pair.rejected_rollout]
                        .iter()
                        .all(|rollout| *rollout < tree.rollouts.len())
            });
            if !is_sound {
                return Err(StoreError::Dangling(format!("pair {index}")));
            }
        }
        Ok(forest)
    }
}
