//! Objects in a bucket or a folder: create-only records, manifests last, bounded reads.
//!
//! [`Store`] is the only user of `object_store` in the workspace. Everything else takes an [`ArtifactStore`], the few
//! primitive operations, and calls the composed ones of [`ArtifactStoreExt`] (JSON, blobs, settled creates) on it; so a
//! fault injected into a primitive ([`faulty`]) reaches every composed operation too.
//!
//! What it guarantees: [`ArtifactStore::create`] writes a key at most once, whoever races, and a success is durable
//! (in a folder: file and directory are synced); a reader sees all of an object or nothing; every read and listing is
//! bounded before it allocates. What it does not do: it knows no layout (`sealign_manifest::key` does), caches nothing
//! and never reads the environment.
//!
//! Reading order: [`artifact`], [`store`], [`open`], [`error`], [`files`], [`collect`], [`faulty`].

pub mod artifact;
pub mod collect;
pub mod error;
pub mod faulty;
pub mod files;
mod object_key;
pub mod open;
pub mod store;

pub use artifact::{ArtifactStore, ArtifactStoreExt, CreateOutcome, Settled};
pub use error::{Category, StoreError};
pub use open::{OpenError, RetryLimits, StoreOptions};
pub use store::Store;
