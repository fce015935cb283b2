//! The API: five custom resources of `sealign.dev/v1alpha1`, their conditions and their rules.
//!
//! A spec says what is wanted; a status says what is known, as conditions, counts and references. There is no `phase`.
//! Decimals are strings ([`Decimal`]), times are whole seconds, references name an object of the same namespace, and
//! nothing here names a bucket, a credential or a pod template: those belong to the installation.
//!
//! Rules that the schema cannot say are CEL rules with messages. The API server runs them, the embedded cluster runs
//! them, and the tests beside each kind run them without either.
//!
//! Reading order: [`shared`], [`model`], then the kinds in the order in which data flows through them; [`condition`] for
//! what statuses say; [`generate`] for the YAML.

pub mod alignment_run;
pub mod benchmark;
pub mod condition;
pub mod decimal;
pub mod generate;
pub mod model;
pub mod rollout_campaign;
pub mod shared;
pub mod stages;
pub mod task_set;
pub mod trajectory_forest;

pub use alignment_run::{AlignmentRun, AlignmentRunSpec, AlignmentRunStatus};
pub use benchmark::{Benchmark, BenchmarkSpec, BenchmarkStatus};
pub use decimal::Decimal;
pub use model::{ModelSpec, Sampling};
pub use rollout_campaign::{RolloutCampaign, RolloutCampaignSpec, RolloutCampaignStatus};
pub use shared::{LocalRef, ObjectRef};
pub use task_set::{TaskSet, TaskSetSpec, TaskSetStatus};
pub use trajectory_forest::{TrajectoryForest, TrajectoryForestSpec, TrajectoryForestStatus};

/// The API group.
pub const GROUP: &str = "sealign.dev";
/// The API version that is served and stored.
pub const VERSION: &str = "v1alpha1";
