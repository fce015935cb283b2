//! The texts that the built-in base model is pretrained on. Generated, never read from files.
//!
//! Scripted policies from bad to good work on generated tasks of the suite `mini`, through the very harness that rollouts
//! use, in a [`predicted`] repository instead of a sandbox: tens of thousands of attempts take seconds. Two kinds of text
//! come out: whole attempts, of which every token is learnt, and *commits*, conversations that end in a right edit, of
//! which only that edit is learnt. Nothing is crippled on purpose: how often a base model loops or gives up follows from
//! the mixture of policies that it has read.
//!
//! Start with [`texts`].

pub mod predicted;
pub mod texts;

pub use texts::{Mixture, Text, TextError, attempts, commits};
