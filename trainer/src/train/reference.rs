//! Reference log-probabilities of pairs: computed once with the same sharing as the training, and kept beside the run.

use std::path::{Path, PathBuf};

use sealign_manifest::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::data::{Example, ExampleSet};
use super::step::{Computation, Place, ReferencePair, log_probs_across};
use crate::dist::CollectiveError;
use crate::model::Decoder;

/// The file of reference log-probabilities could not be written.
#[derive(Debug, Error)]
#[error("{path} cannot be written")]
pub struct ReferenceError {
    path: PathBuf,
    source: std::io::Error,
}

/// The file: a cache, valid for one model and one data set.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// Digest of model, data and settings.
    inputs: Digest,
    /// Chosen and rejected, per pair; bits of the doubles, so that nothing is rounded.
    pairs: Vec<(u64, u64)>,
}

/// Reference log-probabilities of each pair of the sets, in order. The policy must still be the reference.
pub fn compute(
    place: &Place<'_>,
    model: &Decoder,
    sets: [&ExampleSet; 2],
    computation: &Computation,
) -> Result<[Vec<ReferencePair>; 2], CollectiveError> {
    let [train, validation] = sets;
    Ok([of_set(place, model, train, computation)?, of_set(place, model, validation, computation)?])
}

fn of_set(
    place: &Place<'_>,
    model: &Decoder,
    set: &ExampleSet,
    computation: &Computation,
) -> Result<Vec<ReferencePair>, CollectiveError> {
    // Pairs of one task lie together here, where the trie shares most; the order of the set is restored below.
    let mut order: Vec<usize> = (0..set.examples.len()).collect();
    order.sort_by_key(|index| (set.tasks.get(*index), *index));
    let examples: Vec<&Example> = order.iter().filter_map(|index| set.examples.get(*index)).collect();
    let sums = log_probs_across(place, model, &examples, computation)?;
    let mut pairs = vec![ReferencePair { chosen: 0.0, rejected: 0.0 }; order.len()];
    for (index, sides) in order.iter().zip(sums.chunks_exact(2)) {
        if let (Some(pair), [chosen, rejected]) = (pairs.get_mut(*index), sides) {
            *pair = ReferencePair { chosen: *chosen, rejected: *rejected };
        }
    }
    Ok(pairs)
}

/// Reads the cache; `None` when there is none for these inputs.
pub fn read(path: &Path, inputs: &Digest, counts: [usize; 2]) -> Option<[Vec<ReferencePair>; 2]> {
    let stored: Stored = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let [train, validation] = counts;
    if stored.inputs != *inputs || stored.pairs.len() != train + validation {
        return None;
    }
    let mut pairs = stored.pairs.into_iter().map(|(chosen, rejected)| ReferencePair {
        chosen: f64::from_bits(chosen),
        rejected: f64::from_bits(rejected),
    });
    let first = pairs.by_ref().take(train).collect();
    Some([first, pairs.collect()])
}

/// Writes the cache by renaming a complete file.
pub fn write(path: &Path, inputs: &Digest, sets: &[Vec<ReferencePair>; 2]) -> Result<(), ReferenceError> {
    let pairs = sets.iter().flatten().map(|pair| (pair.chosen.to_bits(), pair.rejected.to_bits())).collect();
    let stored = Stored { inputs: inputs.clone(), pairs };
    let fail = |source| ReferenceError { path: path.to_owned(), source };
    let bytes = serde_json::to_vec(&stored).map_err(|error| fail(error.into()))?;
    super::checkpoint::write_whole(path, &bytes).map_err(fail)
}
