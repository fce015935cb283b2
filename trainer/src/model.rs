//! Decoder-only language models of the Qwen2 and Llama families on packed tokens.
//!
//! Shape legend for tensor names in this crate: `T` rows of a packed batch, `C` hidden size, `H` query heads, `K` key-value
//! heads, `D` head size, `F` feed-forward size, `V` vocabulary, `N` selected rows. `hidden_TC` has shape `[T, C]`. Activations
//! have the device and the number format of the parameters; sums of many numbers (log-sum-exps, log-probabilities, merged
//! attention) are float32.
//!
//! There is no global autograd graph. [`decoder`] walks the layers, keeps one small graph per half layer (or recomputes it),
//! and [`attention`] and [`head`] do their backward passes by hand. Start with [`config`], then [`decoder`].

pub mod adapter;
pub mod attention;
pub mod config;
pub mod decoder;
pub mod directory;
mod flash;
pub mod head;
pub mod init;
mod kernel;
pub mod tensors;
pub mod weights;

pub use config::{Family, ModelConfig};
pub use decoder::{Decoder, Recompute};
pub use weights::Weights;

/// A length as libtorch counts it. Lengths here are rows in memory, so they always fit.
pub(crate) fn dim(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
