//! Training in several processes: who they are, how they talk, and how they share the model.
//!
//! One process per device. [`world`] reads who this one is from torchrun's environment variables, [`launch`] starts the
//! processes of one machine and ends them all when one dies, [`group`] is collective communication, [`shard`] keeps only a
//! part of parameters, gradients and optimiser state in each process (ZeRO-3, arXiv 1910.02054).
//!
//! Rendezvous and the CPU's collectives are libtorch's own (TCPStore and Gloo of c10d); on GPUs NCCL is opened at run time
//! through its C interface. Both hide behind one C++ class, so nothing above [`group`] knows which it is. There is no elastic
//! membership: a group is complete or it ends, and the next one continues from the newest checkpoint.

pub mod group;
pub mod launch;
pub mod shard;
mod shim;
pub mod world;

pub use group::{CollectiveError, Group};
pub use shard::Shards;
pub use world::World;
