//! How well a base model can do what agents need of it: the exact edit, given all that it takes to know it.
//!
//! An edit counts when greedy decoding would write it token for token. That is so exactly when the most likely token is
//! the right one at every place of the right edit, which one forward pass tells.

use sealign_batch::{Layout, PackedBatch, SequenceInput};
use tch::Kind;

use crate::model::Decoder;
use crate::model::decoder::Inputs;
use crate::train::data::Example;

/// Tokens of one forward pass.
const PASS_TOKENS: usize = 8_192;

/// Number of examples whose weighted tokens would all be decoded, and of all examples.
pub fn exact(model: &Decoder, examples: &[Example]) -> (usize, usize) {
    let mut hits = 0;
    let mut start = 0;
    while start < examples.len() {
        let mut end = start;
        let mut tokens = 0;
        while let Some(example) =
            examples.get(end).filter(|e| end == start || tokens + e.tokens() <= PASS_TOKENS)
        {
            tokens += example.tokens();
            end += 1;
        }
        hits += exact_of(model, examples.get(start..end).unwrap_or_default());
        start = end;
    }
    (hits, examples.len())
}

fn exact_of(model: &Decoder, examples: &[Example]) -> usize {
    let sequences: Vec<SequenceInput<'_>> = examples
        .iter()
        .flat_map(Example::sequences)
        .map(|encoded| SequenceInput { ids: &encoded.ids, weights: &encoded.weights })
        .collect();
    let batch = PackedBatch::pack(&sequences, Layout::Linear);
    let hidden_TC = model.infer(&Inputs::new(&model.config, &batch));
    let rows: Vec<i64> = batch.targets.iter().map(|target| crate::model::dim(target.row)).collect();
    let best_N = tch::no_grad(|| {
        model
            .logits(&hidden_TC.index_select(0, &tch::Tensor::from_slice(&rows)))
            .argmax(1, false)
            .to_kind(Kind::Int64)
    });
    let mut best = vec![0_i64; rows.len()];
    best_N.copy_data(&mut best, rows.len());
    let mut is_exact = vec![true; batch.sequences];
    for used in &batch.uses {
        let (Some(target), Some(found)) = (batch.targets.get(used.target), best.get(used.target)) else {
            continue;
        };
        if i64::from(target.token) != *found
            && let Some(flag) = is_exact.get_mut(used.sequence)
        {
            *flag = false;
        }
    }
    is_exact.iter().filter(|flag| **flag).count()
}
