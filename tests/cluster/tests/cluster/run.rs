//! The whole loop: attempts, forest, SFT, DPO, benchmarks, report, from one manifest.

use std::fs;
use std::time::Duration;

use sealign_cluster_tests::Bed;
use sealign_cluster_tests::process::until;
use serde_json::Value;

use crate::campaign::{self, both_nodes, manifest};

/// Two stages and three small benchmarks on a busy machine of two cores.
const LIMIT: Duration = Duration::from_mins(15);

/// Figures alone are written to a status every 30 seconds, and the stages here are shorter. A change of the spec in the middle of
/// DPO has them written at once, so that [`crate::metrics`] mostly sees them; it changes nothing else.
fn show_training(bed: &Bed) {
    let runs = bed.bucket_folder().join("loop/alignmentruns");
    let told = || {
        let run = fs::read_dir(&runs).into_iter().flatten().flatten().next()?;
        let progress = fs::read(run.path().join("steps/dpo-0/progress.json")).ok()?;
        let progress: Value = serde_json::from_slice(&progress).ok()?;
        progress["rewardMargin"].is_number().then_some(())
    };
    until(LIMIT, told).expect("DPO tells its progress");
    let more = r#"{"spec":{"trainer":{"maxRounds":7}}}"#;
    bed.session()
        .kubectl(&["patch", "alignmentrun", "small", "-n", "loop", "--type=merge", "-p", more])
        .unwrap();
}

/// The run succeeds, each stage trained by two pods on two nodes that met over Gloo under names of the cluster's DNS; records,
/// forest, pairs, SFT set and the models of both stages are those of the embedded run with as many processes.
pub fn whole_loop(bed: &mut Bed) {
    let session = bed.session();
    let path = manifest("loop.yaml");
    session.kubectl(&["apply", "-n", "loop", "-f", &path.to_string_lossy()]).unwrap();
    show_training(bed);
    let session = bed.session();
    session.wait("Succeeded", "alignmentrun/small", "loop", LIMIT).unwrap();
    campaign::assert_equal(session, "loop", &path, bed.place().folder());
    for stage in ["-sft-", "-dpo-"] {
        assert_eq!(campaign::nodes_of(session, "loop", &[stage]), both_nodes(), "trainers' nodes");
    }
}
