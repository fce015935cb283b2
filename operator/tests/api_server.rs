//! The operator against a real kube-apiserver and etcd, which the test starts itself where `SEALIGN_KUBE_BIN` names their
//! folder. One test, as one server is expensive; each scenario has a namespace of its own and says its name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is not as it should be"
)]

#[path = "api_server/admission.rs"]
mod admission;
#[path = "api_server/directory.rs"]
mod directory;
#[path = "api_server/leading.rs"]
mod leading;
#[path = "api_server/produced.rs"]
mod produced;
#[path = "api_server/rights.rs"]
mod rights;
#[path = "api_server/server.rs"]
mod server;
#[path = "api_server/work.rs"]
mod work;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use server::ApiServer;

/// Time for anything to come about on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(90);

/// Makes a namespace whose pods must meet the profile `restricted`.
async fn namespace(client: &Client, name: &str) {
    let object = json!({ "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    let api: Api<Namespace> = Api::all(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// Looks again and again until there is something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_against_a_real_api_server() {
    let Some(server) = ApiServer::start().await else { return };
    let begun = Instant::now();
    let say = |name: &str| println!("{:6.1} s  {name}", begun.elapsed().as_secs_f64());
    admission::manifests_are_admitted_and_wrong_ones_named(&server).await;
    say("admission");
    produced::every_pod_passes_the_restricted_profile(&server).await;
    say("produced pods");
    directory::a_runner_sees_its_pods_with_no_other_right(&server).await;
    say("pod directory");
    leading::one_leads_and_hands_over(&server).await;
    say("lease");
    work::a_campaign_is_driven_and_idles_without_a_write(&server).await;
    say("work");
    work::two_operators_make_every_job_once(&server).await;
    say("two operators");
}
