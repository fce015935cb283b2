//! `helm install`, and the namespaces of the scenarios.

use sealign_cluster_tests::{Bed, install};

use crate::metrics;

/// Namespaces whose objects are worked on, one a scenario: objects of different scenarios share names, never digests' inputs.
pub const NAMESPACES: [&str; 6] = ["default", "kills", "runners", "nodes", "scale", "loop"];

/// The release is installed, the operator's pod is ready and holds the Lease. From now on a Prometheus watches.
pub fn chart_installs(bed: &mut Bed) {
    for namespace in NAMESPACES.iter().filter(|name| **name != "default") {
        bed.session().kubectl(&["create", "namespace", namespace]).unwrap();
    }
    install::install(bed, &NAMESPACES).unwrap();
    metrics::watch(bed);
}
