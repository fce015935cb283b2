//! Turns messages into token examples: chat templates, masks, token tries, packed layouts. Pure.
//!
//! Bytes and values in, token ids and plans out. It knows nothing of files, tensors or losses: `sealign-trainer` reads the
//! rows, computes with the [`PackedBatch`]es made here and writes the checkpoints.
//!
//! Start with [`conversation`], which encodes a list of messages with one loss weight per token; [`example`] makes training
//! examples of that, [`trie`] packs examples so that a shared prefix is computed once, and [`order`] decides which examples
//! make one optimiser step.
//!
//! Sources: masks and template rules are specs 7.1-7.2, truncation is 5.5, the loss inputs are 5.6 of the project's
//! specification; the packed tree follows the shared-prefix attention of arXiv 2410.20305 and 2511.00413.

pub mod chat;
pub mod conversation;
pub mod example;
pub mod order;
pub mod tojson;
pub mod tokenizer;
pub mod trie;

pub use chat::{ChatFormat, ChatTemplate};
pub use conversation::{Encoded, MaskMode, Message};
pub use example::{EncodedPair, PairExample, SftExample, Truncation};
pub use tokenizer::Tokenizer;
pub use trie::{Layout, PackedBatch, Segment, SequenceInput, Target, TargetUse};
