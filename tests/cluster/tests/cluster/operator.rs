//! Kills of the operator and of a runner while a campaign is at work: R1 and R1b of the real cluster, at instants that
//! spread over the run. Every API write and store write is met by the simulation; here the processes are real.

use std::time::{Duration, Instant};

use sealign_cluster_tests::{Bed, Session};
use serde_json::Value;

use crate::campaign::{self, LIMIT, digests, manifest};
use sealign_cluster_tests::install::SYSTEM;

/// Pause between kills of the operator: long enough to get something done, short enough for many kills in one campaign.
const OPERATOR_LIVES: Duration = Duration::from_secs(4);
/// Pause between kills of a runner. One that is killed before its first record leaves a barren round, and after a few of
/// those in a row the campaign waits for a person, as it should.
const RUNNER_LIVES: Duration = Duration::from_secs(12);
const KILLS_MAX: usize = 12;

/// Force-deletes pods that `selector` names, which kills their processes without notice.
fn kill(session: &Session, namespace: &str, selector: &str) -> bool {
    let words =
        ["delete", "pod", "-n", namespace, "-l", selector, "--force", "--grace-period=0", "--wait=false"];
    session.kubectl(&words).is_ok_and(|said| said.contains("deleted"))
}

fn has_succeeded(session: &Session, namespace: &str) -> bool {
    session.get(&["trajectoryforest", "few", "-n", namespace]).is_ok_and(|forest| {
        let conditions = forest.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|one| one["type"] == "Succeeded" && one["status"] == "True")
    })
}

fn kill_until_done(session: &Session, namespace: &str, pods: &str, selector: &str, pause: Duration) -> usize {
    let end = Instant::now() + LIMIT;
    let mut kills = 0;
    while !has_succeeded(session, namespace) && Instant::now() < end && kills < KILLS_MAX {
        std::thread::sleep(pause);
        kills += usize::from(kill(session, pods, selector));
    }
    kills
}

fn equal_to_undisturbed(session: &Session, namespace: &str) {
    campaign::finish(session, namespace);
    for kind in ["rolloutcampaign", "trajectoryforest"] {
        let disturbed = session.get(&[kind, "few", "-n", namespace]).unwrap();
        let undisturbed = session.get(&[kind, "few", "-n", "default"]).unwrap();
        assert_eq!(digests(&disturbed), digests(&undisturbed), "{kind}");
    }
    let campaign = session.get(&["rolloutcampaign", "few", "-n", namespace]).unwrap();
    let reference = session.get(&["rolloutcampaign", "few", "-n", "default"]).unwrap();
    assert_eq!(
        campaign["status"]["outcomes"], reference["status"]["outcomes"],
        "nothing lost, nothing twice"
    );
}

/// The operator is killed every few seconds of a campaign.
pub fn kills_lose_nothing(bed: &mut Bed) {
    let session = bed.session();
    let path = manifest("campaign.yaml");
    session.kubectl(&["apply", "-n", "kills", "-f", &path.to_string_lossy()]).unwrap();
    let kills =
        kill_until_done(session, "kills", SYSTEM, "app.kubernetes.io/component=operator", OPERATOR_LIVES);
    assert!(kills > 0, "the campaign was over before the first kill");
    equal_to_undisturbed(session, "kills");
    println!("  operator killed {kills} times");
}

/// The runner is killed every few seconds of a campaign: its next round goes on from the records.
pub fn runner_kills_lose_nothing(bed: &mut Bed) {
    let session = bed.session();
    let path = manifest("campaign.yaml");
    session.kubectl(&["apply", "-n", "runners", "-f", &path.to_string_lossy()]).unwrap();
    let kills = kill_until_done(session, "runners", "runners", "sealign.dev/zone=runner", RUNNER_LIVES);
    assert!(kills > 0, "the campaign was over before the first kill");
    equal_to_undisturbed(session, "runners");
    println!("  runners killed {kills} times");
}
