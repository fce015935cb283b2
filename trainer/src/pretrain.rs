//! Base models of our own: a tokenizer, structured initial weights, and staged pretraining on generated texts.
//!
//! Start with [`run`].

pub mod competence;
pub mod corpus;
pub mod run;
pub mod structured;
pub mod vocabulary;

pub use run::{PretrainError, PretrainSettings, Pretrained, pretrain};
