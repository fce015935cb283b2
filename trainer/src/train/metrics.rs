//! The figures of a run on a Prometheus endpoint. The names are listed in `docs/trainer.md`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use axum::Router;
use axum::routing::get;
use prometheus::{Encoder, Gauge, Opts, Registry, TextEncoder};
use sealign_manifest::train::TrainProgress;
use serde_json::{Map, Value};

use super::progress::ArtifactSink;

/// Metric, help text, and the member of a log record that it shows.
const GAUGES: [(&str, &str, &str); 15] = [
    ("sealign_trainer_step", "Optimiser steps done", "step"),
    ("sealign_trainer_loss", "Loss of the last step", "loss"),
    ("sealign_trainer_validation_loss", "Loss of the last evaluation", "validationLoss"),
    ("sealign_trainer_preference_loss", "Mean loss of the last step's pairs", "preferenceLoss"),
    ("sealign_trainer_reward_margin", "Mean reward margin of the last step's pairs", "rewardMargin"),
    ("sealign_trainer_reward_chosen", "Mean reward of the last step's chosen sides", "rewardChosen"),
    (
        "sealign_trainer_accuracy",
        "Share of pairs whose chosen side has the higher reward, 0 to 1",
        "accuracy",
    ),
    ("sealign_trainer_anchor_loss", "Loss of the last step's anchor examples", "anchorLoss"),
    ("sealign_trainer_gradient_norm", "Gradient norm of the last step before clipping", "gradientNorm"),
    ("sealign_trainer_learning_rate", "Learning rate of the last step", "learningRate"),
    ("sealign_trainer_rows", "Rows computed in the last step, shared prefixes once", "rows"),
    ("sealign_trainer_linear_rows", "Rows of the last step without sharing", "linearRows"),
    ("sealign_trainer_tokens_per_second", "Rows computed a second in the last step", "tokensPerSecond"),
    (
        "sealign_trainer_flops_per_second",
        "Floating-point operations a second by the model's size",
        "flopsPerSecond",
    ),
    ("sealign_trainer_peak_memory_bytes", "Largest resident memory of the process", "peakMemoryBytes"),
];

/// Shows the records that pass through it; everything goes on to another sink.
pub struct MetricsSink<'inner> {
    inner: &'inner mut dyn ArtifactSink,
    registry: Registry,
    gauges: Vec<Shown>,
}

/// A gauge that is shown from its first value on: what a rank or an objective does not have is no nought.
struct Shown {
    member: &'static str,
    gauge: Gauge,
    is_registered: bool,
}

impl<'inner> MetricsSink<'inner> {
    /// Starts to listen at the first of the addresses that can be had; returns the sink and the address. The endpoint lives as
    /// long as the process, of which it tells memory and processor time too.
    pub fn listen(
        address: impl ToSocketAddrs,
        inner: &'inner mut dyn ArtifactSink,
    ) -> std::io::Result<(Self, SocketAddr)> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .map_err(std::io::Error::other)?;
        let mut gauges = Vec::with_capacity(GAUGES.len());
        for (name, help, member) in GAUGES {
            let gauge = Gauge::with_opts(Opts::new(name, help)).map_err(std::io::Error::other)?;
            gauges.push(Shown { member, gauge, is_registered: false });
        }
        let shown = registry.clone();
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                let render = move || {
                    let registry = shown.clone();
                    async move { text(&registry) }
                };
                // The endpoint's end is no reason to end the training.
                let _ = axum::serve(listener, Router::new().route("/metrics", get(render))).await;
            });
        })?;
        Ok((Self { inner, registry, gauges }, bound))
    }
}

/// All metrics in Prometheus' text form.
pub fn text(registry: &Registry) -> String {
    let mut bytes = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut bytes) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("# {error}\n"),
    }
}

impl ArtifactSink for MetricsSink<'_> {
    fn progress(&mut self, progress: &TrainProgress) -> std::io::Result<()> {
        self.inner.progress(progress)
    }

    fn log(&mut self, record: &Map<String, Value>) -> std::io::Result<()> {
        for Shown { member, gauge, is_registered } in &mut self.gauges {
            let Some(value) = record.get(*member).and_then(Value::as_f64) else { continue };
            gauge.set(value);
            if !*is_registered {
                self.registry.register(Box::new(gauge.clone())).map_err(std::io::Error::other)?;
                *is_registered = true;
            }
        }
        self.inner.log(record)
    }

    fn checkpoint(&mut self, step: usize, folder: &Path) -> std::io::Result<()> {
        self.inner.checkpoint(step, folder)
    }
}
