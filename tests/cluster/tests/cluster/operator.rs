//! Kills of the operator and of a runner while a campaign is at work: R1 and R1b of the real cluster, at instants that
//! spread over the run. Every API write and store write is met by the simulation; here the processes are real.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sealign_cluster_tests::process::until;
use sealign_cluster_tests::{Bed, Session};
use serde_json::Value;

use crate::campaign::{self, LIMIT, digests, manifest};
use sealign_cluster_tests::install::SYSTEM;

/// Pause between kills of the operator: long enough to get something done, short enough for many kills in one campaign.
const OPERATOR_LIVES: Duration = Duration::from_secs(4);
const OPERATOR_KILLS_MAX: usize = 12;
/// A runner that is killed before its first record leaves a barren round, and after a few of those in a row the campaign waits
/// for a person, as it should. So each is left to write one, however slow the machine, and killed in what it does next.
const RUNNER_KILLS_MAX: usize = 6;
/// Longest wait for a record before a look at whether the campaign is over.
const RECORD_WAIT: Duration = Duration::from_secs(5);

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

/// Kills until the forest is built, whenever `is_time` says so, `most` times. Returns how often.
fn kill_until_done(
    session: &Session,
    (namespace, pods, selector): (&str, &str, &str),
    most: usize,
    mut is_time: impl FnMut() -> bool,
) -> usize {
    let end = Instant::now() + LIMIT;
    let mut kills = 0;
    while kills < most && Instant::now() < end && !has_succeeded(session, namespace) {
        if is_time() {
            kills += usize::from(kill(session, pods, selector));
        }
    }
    kills
}

/// Records that campaigns of `namespace` have in the store, those of closed groups included.
fn records(bed: &Bed, namespace: &str) -> usize {
    fn files(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
    }
    let campaigns = bed.bucket_folder().join(namespace).join("rolloutcampaigns");
    let campaigns = fs::read_dir(campaigns).into_iter().flatten().flatten();
    campaigns.map(|campaign| files(&campaign.path().join("groups"))).sum()
}

fn equal_to_undisturbed(session: &Session, namespace: &str) {
    campaign::finish(session, namespace, LIMIT);
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
    let victims = ("kills", SYSTEM, "app.kubernetes.io/component=operator");
    let kills = kill_until_done(session, victims, OPERATOR_KILLS_MAX, || {
        std::thread::sleep(OPERATOR_LIVES);
        true
    });
    assert!(kills > 0, "the campaign was over before the first kill");
    equal_to_undisturbed(session, "kills");
    println!("  operator killed {kills} times");
}

/// The runner is killed again and again, after each record that it writes: its next round goes on from the records.
pub fn runner_kills_lose_nothing(bed: &mut Bed) {
    let session = bed.session();
    let path = manifest("campaign.yaml");
    session.kubectl(&["apply", "-n", "runners", "-f", &path.to_string_lossy()]).unwrap();
    let mut before = records(bed, "runners");
    let victims = ("runners", "runners", "sealign.dev/zone=runner");
    let kills = kill_until_done(session, victims, RUNNER_KILLS_MAX, || {
        let more = until(RECORD_WAIT, || Some(records(bed, "runners")).filter(|now| *now > before));
        before = more.unwrap_or(before);
        more.is_some()
    });
    assert!(kills > 0, "the campaign was over before the first kill");
    equal_to_undisturbed(session, "runners");
    println!("  runners killed {kills} times");
}
