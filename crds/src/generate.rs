//! The CustomResourceDefinitions and their YAML.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{AlignmentRun, Benchmark, RolloutCampaign, TaskSet, TrajectoryForest};

/// The five definitions, in the order in which data flows through them.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        TaskSet::crd(),
        RolloutCampaign::crd(),
        TrajectoryForest::crd(),
        AlignmentRun::crd(),
        Benchmark::crd(),
    ]
}

/// File name and YAML of every definition.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn yaml() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    definitions()
        .iter()
        .map(|crd| Ok((format!("{}.yaml", crd.spec.names.plural), serde_saphyr::to_string(crd)?)))
        .collect()
}
