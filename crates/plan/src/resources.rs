//! Builders of child objects: pure functions from a few typed inputs to the whole object. No free pod template exists; what
//! a spec may set is destructured field by field, so that a new field cannot be forgotten here.

pub mod child;
pub mod model_server;
pub mod pod;
pub mod sandbox;
pub mod trainer;
pub mod worker;
