//! Where a runner stands, for those who ask over HTTP: `/readyz` for the kubelet, `/metrics` for Prometheus.
//!
//! Ready means that sandboxes may be started for this runner: the store answers, the pods are known, and, while rollouts
//! are open, every model has answered at least once. A model that falls silent later does not take the readiness away: the
//! progress document then holds rollouts back, and gradings go on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use sealign_manifest::group::Progress;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::meters::Meters;

/// What the driver says of itself.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The plan and every record so far were read: the store answers.
    pub has_read_plan: bool,
    /// Why the pods are not known; `None` where they are.
    pub blind: Option<String>,
    /// Policies with open rollouts whose model has not answered yet, and why not.
    pub silent: Option<String>,
    /// Where the work stands.
    pub progress: Progress,
    /// Live pods by phase: waiting, running, ended.
    pub pods: [u64; 3],
}

impl Standing {
    /// Whether sandboxes may be started for this runner.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn ready(&self) -> Result<(), String> {
        if !self.has_read_plan {
            return Err("the plan is being read from the store".into());
        }
        if let Some(reason) = &self.blind {
            return Err(reason.clone());
        }
        match &self.silent {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }
}

/// What the handlers show.
#[derive(Clone)]
struct Shown {
    standing: watch::Receiver<Standing>,
    meters: Arc<Meters>,
}

/// Serves on `port` of every address for as long as the future is polled.
///
/// # Errors
/// When the port cannot be bound.
pub async fn serve(
    port: u16,
    standing: watch::Receiver<Standing>,
    meters: Arc<Meters>,
) -> std::io::Result<()> {
    // The first one takes questions of both kinds, where the node has the new kind at all.
    let addresses = [IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into()];
    let listener = TcpListener::bind(&addresses.map(|address| SocketAddr::from((address, port)))[..]).await?;
    axum::serve(listener, router(standing, meters)).await
}

fn router(standing: watch::Receiver<Standing>, meters: Arc<Meters>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shown { standing, meters })
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.standing.borrow().ready() {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
    }
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let standing = shown.standing.borrow().clone();
    match shown.meters.text(&standing) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_crds::ObjectRef;

    fn standing(change: impl FnOnce(&mut Standing)) -> Standing {
        let mut standing = Standing { has_read_plan: true, ..Standing::default() };
        change(&mut standing);
        standing
    }

    #[test]
    fn a_runner_is_ready_when_store_pods_and_models_have_answered() {
        assert!(standing(|_| {}).ready().is_ok());
        let cases: [(Standing, &str); 3] = [
            (Standing::default(), "plan"),
            (standing(|s| s.blind = Some("pods: forbidden".into())), "forbidden"),
            (standing(|s| s.silent = Some("policy `m`: no server".into())), "no server"),
        ];
        for (standing, expected) in cases {
            assert!(standing.ready().unwrap_err().contains(expected));
        }
    }

    #[tokio::test]
    async fn the_kubelet_is_told_what_is_missing_and_prometheus_gets_text() {
        let owner =
            ObjectRef { kind: "Benchmark".into(), namespace: "n".into(), name: "b".into(), uid: "u".into() };
        let (sender, receiver) = watch::channel(Standing::default());
        let app = router(receiver, Arc::new(Meters::new(&owner).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move { axum::serve(listener, app).await });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let get = |path: &str| {
            let request = client.get(format!("http://{address}{path}"));
            async move {
                let answer = request.send().await.unwrap();
                (answer.status().as_u16(), answer.text().await.unwrap())
            }
        };
        assert_eq!(get("/readyz").await, (503, "the plan is being read from the store".into()));
        sender.send_replace(standing(|s| s.progress.live = 3));
        assert_eq!(get("/readyz").await.0, 200);
        let (status, text) = get("/metrics").await;
        assert_eq!(status, 200);
        let in_flight = text.lines().find(|line| line.starts_with("sealign_runner_in_flight{")).unwrap();
        // Labels have no order.
        assert!(in_flight.contains("owner_kind=\"Benchmark\"") && in_flight.contains("owner_name=\"b\""));
        assert!(in_flight.ends_with(" 3"), "{in_flight}");
        served.abort();
    }
}
