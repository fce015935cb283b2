//! `/metrics`, `/healthz` and `/readyz`. A standby is ready: it can take over.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the handlers show.
#[derive(Clone)]
pub struct Shown {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What keeps us from taking part, if anything.
    pub missing: watch::Receiver<Option<String>>,
}

/// The routes.
pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .with_state(shown)
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.metrics.text() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    match &*shown.missing.borrow() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing.clone()),
    }
}

/// Serves until `stop` resolves.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    shown: Shown,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router(shown)).with_graceful_shutdown(stop).await
}
