//! `helm install`, and the namespaces of the scenarios.

use sealign_cluster_tests::{Bed, install};

/// Namespaces whose objects are worked on, one a scenario: objects of different scenarios share names, never digests' inputs.
pub const NAMESPACES: [&str; 5] = ["default", "kills", "runners", "nodes", "loop"];

/// The release is installed, the operator's pod is ready and holds the Lease.
pub fn chart_installs(bed: &mut Bed) {
    for namespace in NAMESPACES.iter().filter(|name| **name != "default") {
        bed.session().kubectl(&["create", "namespace", namespace]).unwrap();
    }
    install::install(bed, &NAMESPACES).unwrap();
}
