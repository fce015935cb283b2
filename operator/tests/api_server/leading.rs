//! The Lease: one holder, handed over at once when it is given back.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use sealign_operator::leader::Leadership;

use crate::server::ApiServer;

/// The second waits while the first holds, and leads within a second or so of its leaving.
pub async fn one_leads_and_hands_over(server: &ApiServer) {
    let client = server.admin();
    crate::namespace(&client, "leading").await;
    let seek = |identity: &'static str| Leadership::seek(client.clone(), "leading", "l", identity);
    let mut first = seek("a").await.unwrap();
    assert!(first.gained().await);
    let mut second = seek("b").await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(2), second.gained()).await;
    assert!(early.is_err(), "two lead at once");
    let given_back = Instant::now();
    first.release().await;
    let handed_over = tokio::time::timeout(Duration::from_secs(20), second.gained()).await;
    assert!(handed_over.expect("the second never leads"));
    println!("        handed over in {:.1} s", given_back.elapsed().as_secs_f64());
    // A look a second; the rest is for a machine that does other things. Without looks it takes up to 15 s.
    assert!(given_back.elapsed() < Duration::from_secs(6), "handed over only when the lease had run out");
    let leases: Api<Lease> = Api::namespaced(client.clone(), "leading");
    let holder = leases.get("l").await.unwrap().spec.unwrap().holder_identity;
    assert_eq!(holder.as_deref(), Some("b"));
    second.release().await;
}
