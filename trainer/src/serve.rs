//! A model server that speaks OpenAI's chat completions, made for many short rollouts of one small model on a CPU.
//!
//! Requests are decoded together, one forward pass per step for all of them, and a conversation that continues finds its
//! prefix in the [`cache`]. Every number that a request sees is computed the same way whatever else is in the batch or in the
//! cache, see [`batch`]; so greedy answers are a function of the request alone.
//!
//! Answers come whole or as server-sent events. It has no tool calls and serves one model. Start with [`engine`], the loop; [`http`] is the door.

pub mod api;
pub mod batch;
pub mod cache;
pub mod engine;
pub mod figures;
pub mod http;
pub mod sampling;
pub mod stream;
pub mod text;

pub use engine::{Engine, EngineOptions};
pub use http::{ServeOptions, serve};
