//! The chart's ServiceMonitors and PodMonitors for a Prometheus without the Prometheus operator.
//!
//! Debian's Prometheus cannot ask Kubernetes for targets, so `discover.py` does, by the selectors of the monitors alone: what
//! this Prometheus finds is what they select.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{BedError, Result};

/// Separator of the YAML documents that helm renders.
const SEPARATOR: &str = "\n---";

/// The monitors in `rendered` as `discover.py` wants them.
///
/// # Errors
/// [`BedError::Command`] where `rendered` is not what helm renders of monitors with one endpoint each.
pub fn monitors(rendered: &str) -> Result<Vec<Value>> {
    let documents = rendered.split(SEPARATOR).filter(|document| document.contains("kind:"));
    let read = |document: &str| {
        let monitor: Value = serde_saphyr::from_str(document).map_err(|error| unclear(&error.to_string()))?;
        described(&monitor)
    };
    documents.map(read).collect()
}

/// The `scrape_configs` for `monitors`, whose targets are in files of `folder`.
pub fn configuration(monitors: &[Value], folder: &Path) -> Value {
    let configurations = monitors.iter().map(|monitor| {
        let name = monitor.get("name").and_then(Value::as_str).unwrap_or_default();
        json!({
            "job_name": name,
            "honor_labels": monitor.get("honorLabels"),
            "metrics_path": monitor.get("path"),
            "file_sd_configs": [{ "files": [folder.join(format!("{name}.json"))] }],
        })
    });
    configurations.collect()
}

fn described(monitor: &Value) -> Result<Value> {
    let kind = text(monitor, "/kind")?;
    let endpoints = match kind {
        "ServiceMonitor" => "/spec/endpoints",
        "PodMonitor" => "/spec/podMetricsEndpoints",
        other => return Err(unclear(&format!("a {other} is no monitor"))),
    };
    let Some([endpoint]) = monitor.pointer(endpoints).and_then(Value::as_array).map(Vec::as_slice) else {
        return Err(unclear("a monitor has one endpoint"));
    };
    let (namespace, name) = (text(monitor, "/metadata/namespace")?, text(monitor, "/metadata/name")?);
    Ok(json!({
        "name": format!("{namespace}-{name}"),
        "kind": kind,
        "namespaces": monitor.pointer("/spec/namespaceSelector/matchNames"),
        "labels": monitor.pointer("/spec/selector/matchLabels"),
        "jobLabel": monitor.pointer("/spec/jobLabel"),
        "port": text(endpoint, "/port")?,
        "path": endpoint.pointer("/path").and_then(Value::as_str).unwrap_or("/metrics"),
        "honorLabels": endpoint.pointer("/honorLabels").and_then(Value::as_bool).unwrap_or_default(),
    }))
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str> {
    value.pointer(path).and_then(Value::as_str).ok_or_else(|| unclear(&format!("no {path}")))
}

fn unclear(what: &str) -> BedError {
    BedError::Command { command: "helm template of the monitors".into(), output: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_is_what_it_selects() {
        let rendered = "---\n# Source: x\nkind: PodMonitor\nmetadata: {name: r, namespace: a}\nspec:\n  selector:\n    \
            matchLabels: {sealign.dev/zone: runner}\n  namespaceSelector: {matchNames: [a]}\n  podMetricsEndpoints:\n    \
            - {port: metrics, path: /m}\n";
        let found = monitors(rendered).unwrap();
        assert_eq!(found[0]["labels"], json!({ "sealign.dev/zone": "runner" }));
        assert_eq!((&found[0]["namespaces"], &found[0]["port"]), (&json!(["a"]), &json!("metrics")));
        let configuration = configuration(&found, Path::new("/t"));
        assert_eq!(configuration[0]["file_sd_configs"], json!([{ "files": ["/t/a-r.json"] }]));
        assert_eq!(configuration[0]["metrics_path"], "/m");
        assert!(monitors("---\nkind: Service\n").is_err());
    }
}
