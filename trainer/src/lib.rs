//! SFT and DPO over libtorch, checkpoints in Hugging Face layout, and a model server.
//!
//! The only crate of the workspace that links libtorch. Data preparation (chat templates, masks, token tries, order of
//! examples) is in `sealign-batch`. Training and serving work on local folders; [`job`] carries inputs and results when the
//! program is a pod.
//!
//! Reading order: [`placement`], [`model`], [`loss`], [`optim`], [`train`], [`dist`], [`serve`], [`job`], [`pretrain`].
#![allow(non_snake_case, reason = "tensor names carry their shape, see the legend in `model`")]

pub mod dist;
pub mod job;
pub mod loss;
pub mod model;
mod native;
pub mod optim;
pub mod placement;
pub mod pretrain;
pub mod probe;
pub mod process;
pub mod serve;
pub mod train;
