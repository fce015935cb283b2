//! Kinds of objects that the control plane touches.

use serde::{Deserialize, Serialize};

/// A kind of object that the control plane touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `sealign.dev` TaskSet.
    TaskSet,
    /// `sealign.dev` RolloutCampaign.
    RolloutCampaign,
    /// `sealign.dev` TrajectoryForest.
    TrajectoryForest,
    /// `sealign.dev` AlignmentRun.
    AlignmentRun,
    /// `sealign.dev` Benchmark.
    Benchmark,
    /// `batch` Job.
    Job,
}

impl Kind {
    /// Our own kinds, in the order in which data flows through them.
    pub const OURS: [Self; 5] =
        [Self::TaskSet, Self::RolloutCampaign, Self::TrajectoryForest, Self::AlignmentRun, Self::Benchmark];

    /// The kind as objects spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskSet => "TaskSet",
            Self::RolloutCampaign => "RolloutCampaign",
            Self::TrajectoryForest => "TrajectoryForest",
            Self::AlignmentRun => "AlignmentRun",
            Self::Benchmark => "Benchmark",
            Self::Job => "Job",
        }
    }

    /// The plural as URLs and store prefixes spell it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::TaskSet => "tasksets",
            Self::RolloutCampaign => "rolloutcampaigns",
            Self::TrajectoryForest => "trajectoryforests",
            Self::AlignmentRun => "alignmentruns",
            Self::Benchmark => "benchmarks",
            Self::Job => "jobs",
        }
    }

    /// The short name that Job names begin with; the CRDs' own short names.
    pub fn short(self) -> &'static str {
        match self {
            Self::TaskSet => "tset",
            Self::RolloutCampaign => "rcamp",
            Self::TrajectoryForest => "forest",
            Self::AlignmentRun => "align",
            Self::Benchmark => "bench",
            Self::Job => "job",
        }
    }

    /// `group/version`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Job => "batch/v1",
            _ => "sealign.dev/v1alpha1",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [&Self::OURS[..], &[Self::Job]].concat().into_iter().find(|kind| kind.name() == name)
    }
}
