//! The whole loop: attempts, forest, SFT, DPO, benchmarks, report, from one manifest.

use std::time::Duration;

use sealign_cluster_tests::Bed;

use crate::campaign::{self, manifest};

/// Two stages and three small benchmarks on a busy machine of two cores.
const LIMIT: Duration = Duration::from_mins(15);

/// The run succeeds and its records, forest, pairs and SFT set are those of the embedded run.
pub fn whole_loop(bed: &mut Bed) {
    let session = bed.session();
    let path = manifest("loop.yaml");
    session.kubectl(&["apply", "-n", "loop", "-f", &path.to_string_lossy()]).unwrap();
    session.wait("Succeeded", "alignmentrun/small", "loop", LIMIT).unwrap();
    campaign::assert_equal(session, "loop", &path, bed.place().folder());
}
