//! More sandboxes at once make an evaluation faster and change nothing else.

use std::fs;
use std::time::{Duration, Instant};

use sealign_cluster_tests::Bed;

use crate::campaign::{both_nodes, manifest, nodes_of};

const NAMESPACE: &str = "scale";
/// Twelve sandboxes one after the other, on a busy machine of two cores.
const LIMIT: Duration = Duration::from_mins(6);
const PARALLELISM: [usize; 3] = [1, 4, 16];

/// The same benchmark with 1, 4 and 16 sandboxes at once gives the same report, byte for byte.
pub fn reports_are_equal(bed: &mut Bed) {
    let session = bed.session();
    let text = fs::read_to_string(manifest("benchmark.yaml")).unwrap();
    let (tasks, benchmark) = text.split_once("---\n").unwrap();
    let apply = |document: &str| {
        let file = bed.place().folder().join("scale.yaml");
        fs::write(&file, document).unwrap();
        session.kubectl(&["apply", "-n", NAMESPACE, "-f", &file.to_string_lossy()]).unwrap();
    };
    apply(tasks);
    session.wait("Ready", "taskset/six", NAMESPACE, LIMIT).unwrap();
    let mut reports: Vec<Vec<u8>> = Vec::new();
    for parallelism in PARALLELISM {
        let began = Instant::now();
        apply(&benchmark.replace("parallelism: 1", &format!("parallelism: {parallelism}")));
        session.wait("Succeeded", "benchmark/same", NAMESPACE, LIMIT).unwrap();
        println!("  {parallelism} at once: {:.1} s", began.elapsed().as_secs_f64());
        let measured = session.get(&["benchmark", "same", "-n", NAMESPACE]).unwrap();
        assert_eq!(measured["status"]["total"], 6, "{measured}");
        let artifacts = measured["status"]["artifacts"].as_str().unwrap();
        reports.push(fs::read(bed.bucket_folder().join(artifacts).join("report.json")).unwrap());
        session.kubectl(&["delete", "benchmark", "same", "-n", NAMESPACE]).unwrap();
    }
    assert_eq!(nodes_of(session, NAMESPACE, &["-rollout-"]), both_nodes(), "sandboxes' nodes");
    for report in &reports {
        let texts = [report, &reports[0]].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(texts[0], texts[1]);
    }
}
