//! What a real Prometheus sees of the scenarios: it finds operator and runners by the chart's monitors, and loads its alerts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use sealign_cluster_tests::install::SYSTEM;
use sealign_cluster_tests::process::run;
use sealign_cluster_tests::{Bed, scrape, services};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/sealign")
}

/// Starts Prometheus on what the installed chart's monitors select.
pub fn watch(bed: &mut Bed) {
    let values = bed.place().folder().join("values.json");
    let mut helm = bed.session().tool("helm");
    helm.args(["template", "sealign"]).arg(chart()).args(["-n", SYSTEM, "-f"]).arg(&values);
    for monitor in ["service-monitor", "pod-monitors"] {
        helm.args(["--show-only", &format!("templates/monitoring/{monitor}.yaml")]);
    }
    helm.args(["--set", "metrics.serviceMonitor.enabled=true", "--set", "metrics.podMonitor.enabled=true"]);
    let monitors = scrape::monitors(&run(&mut helm).unwrap()).unwrap();
    let rules = chart().join("rules/*.yaml").to_string_lossy().into_owned();
    bed.start_prometheus(&monitors, &[rules]).unwrap();
}

/// Every dashboard's queries returned data, every series that alerts look at was there, no alert fired.
pub fn everything_is_seen(bed: &mut Bed) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chart/live.py");
    let began = (SystemTime::now() - bed.age()).duration_since(UNIX_EPOCH).unwrap();
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).arg(chart()).arg(services::prometheus_url(bed.place()));
    let said = run(command.arg(began.as_secs().to_string())).unwrap();
    println!("  {}", said.trim().replace('\n', "\n  "));
}
