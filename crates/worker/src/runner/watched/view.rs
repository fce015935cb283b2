//! One pod of the API server as the runner sees it: pure, so that every way to wait and to end is a test.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as KubePod, PodStatus};
use sealign_manifest::group::RoundMap;
use sealign_plan::labels::{self, Zone};
use sealign_plan::resources::{model_server, sandbox};

use crate::runner::pods::{Phase, Pod, PodRole};

/// Name of the container that counts, in every pod of ours.
pub const MAIN: &str = "main";
/// Annotation of the Job controller: the completion index.
const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";
/// Largest round map that is read: a full one has 2.3 KiB, and an annotation may have 256.
const MAP_BYTES_MAX: usize = 64 * 1024;
/// Characters of a reason with its words: a condition shows fewer.
const REASON_CHARS_MAX: usize = 300;

/// Round maps that live pods share: thousands of pods of a round hold one.
#[derive(Debug, Default)]
pub struct Maps(HashMap<String, Weak<RoundMap>>);

impl Maps {
    fn read(&mut self, annotation: &str) -> Option<Arc<RoundMap>> {
        if let Some(map) = self.0.get(annotation).and_then(Weak::upgrade) {
            return Some(map);
        }
        if annotation.len() > MAP_BYTES_MAX {
            return None;
        }
        let map: Arc<RoundMap> = Arc::new(serde_json::from_str(annotation).ok()?);
        self.0.retain(|_, known| known.strong_count() > 0);
        self.0.insert(annotation.to_owned(), Arc::downgrade(&map));
        Some(map)
    }
}

/// The pod, where it is a sandbox or a model server that can be understood; others are nobody's business here.
pub fn view(pod: &KubePod, maps: &mut Maps) -> Option<Pod> {
    let labels = pod.metadata.labels.as_ref()?;
    let annotations = pod.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str);
    let zone = labels.get(labels::ZONE)?.as_str();
    let (role, port) = if zone == Zone::Sandbox.name() {
        let index = annotation(INDEX_ANNOTATION)?.parse().ok()?;
        let map = maps.read(annotation(labels::ROUND_MAP)?)?;
        (PodRole::Sandbox { map, index }, sandbox::PORT)
    } else if zone == Zone::Server.name() {
        (PodRole::Server { policy: labels.get(labels::POLICY)?.clone() }, model_server::PORT)
    } else {
        return None;
    };
    let status = pod.status.as_ref();
    let (phase, exit_code, reason) = stand(pod, status);
    Some(Pod {
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
        role,
        address: status.and_then(|status| status.pod_ip.as_deref()).map_or_else(String::new, |ip| {
            // An address of the new kind has colons of its own.
            if ip.contains(':') { format!("http://[{ip}]:{port}") } else { format!("http://{ip}:{port}") }
        }),
        phase,
        exit_code,
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
    })
}

/// Phase, exit code of the main container, and why it waits or ended.
fn stand(pod: &KubePod, status: Option<&PodStatus>) -> (Phase, Option<i32>, String) {
    let Some(status) = status else { return (Phase::Pending, None, String::new()) };
    let main = status.container_statuses.iter().flatten().find(|container| container.name == MAIN);
    let state = main.and_then(|main| main.state.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref());
    let exit_code = ended.map(|ended| ended.exit_code);
    let phase = match status.phase.as_deref() {
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        _ => match exit_code {
            Some(0) => Phase::Succeeded,
            Some(_) => Phase::Failed,
            // A node that is gone says nothing any more: the control plane's word is the last one.
            None if disruption(status).is_some() && pod.metadata.deletion_timestamp.is_some() => {
                Phase::Failed
            }
            None if state.is_some_and(|state| state.running.is_some()) => Phase::Running,
            None => Phase::Pending,
        },
    };
    let reason = match phase {
        Phase::Running => String::new(),
        Phase::Pending => waiting(status),
        Phase::Succeeded | Phase::Failed => ending(status, ended.and_then(|ended| ended.reason.as_deref())),
    };
    (phase, exit_code, reason)
}

/// Why a pod that has not started waits.
fn waiting(status: &PodStatus) -> String {
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        return worded("Unschedulable", condition.message.as_deref());
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let first = containers.filter_map(wait_of).find(|(reason, _)| !is_ordinary(reason));
    first.map_or_else(String::new, |(reason, message)| worded(reason, message))
}

fn wait_of(container: &ContainerStatus) -> Option<(&str, Option<&str>)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref()))
}

/// What every pod waits for on its way.
fn is_ordinary(reason: &str) -> bool {
    matches!(reason, "ContainerCreating" | "PodInitializing")
}

/// Why a pod ended: the container's own end first, as an evicted pod was not killed by its memory limit, but a pod whose
/// container was may also be evicted.
fn ending(status: &PodStatus, container: Option<&str>) -> String {
    if container == Some("OOMKilled") {
        return "OOMKilled".into();
    }
    if let Some(reason) = status.reason.as_deref().filter(|reason| !reason.is_empty()) {
        return worded(reason, status.message.as_deref());
    }
    if let Some((reason, message)) = disruption(status) {
        return worded(reason, message);
    }
    container.unwrap_or_default().to_owned()
}

/// The control plane's reason for taking a pod away.
fn disruption(status: &PodStatus) -> Option<(&str, Option<&str>)> {
    let target = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")?;
    Some((target.reason.as_deref().unwrap_or("Preempted"), target.message.as_deref()))
}

fn worded(reason: &str, message: Option<&str>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
