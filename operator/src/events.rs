//! Events of the control plane as Kubernetes events. A bounded queue stands between: telling never holds up doing.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use sealign_reconcile::report::{EventSink, ObjectEvent};
use tokio::sync::mpsc;

/// Events that wait to be sent; further ones are dropped, conditions say the same.
const QUEUE_MAX: usize = 256;
/// Bytes of a note that Kubernetes accepts.
const NOTE_MAX: usize = 1000;

/// The sending half.
pub struct Events(mpsc::Sender<ObjectEvent>);

impl EventSink for Events {
    fn tell(&self, event: ObjectEvent) {
        if self.0.try_send(event).is_err() {
            tracing::debug!("an event was dropped: the queue is full");
        }
    }
}

/// A sink, and the task that sends what it takes until the sink is dropped.
pub fn channel(client: Client, identity: &str) -> (Events, impl Future<Output = ()> + Send + 'static) {
    let (sender, mut receiver) = mpsc::channel(QUEUE_MAX);
    let reporter = Reporter { controller: "sealign-operator".into(), instance: Some(identity.to_owned()) };
    let recorder = Recorder::new(client, reporter);
    let send = async move {
        while let Some(event) = receiver.recv().await {
            let (event, regarding) = translated(event);
            if let Err(error) = recorder.publish(&event, &regarding).await {
                tracing::debug!(%error, "an event was not sent");
            }
        }
    };
    (Events(sender), send)
}

fn translated(told: ObjectEvent) -> (Event, ObjectReference) {
    let ObjectEvent { kind, namespace, name, uid, event } = told;
    let regarding = ObjectReference {
        api_version: Some(kind.api_version().to_owned()),
        kind: Some(kind.name().to_owned()),
        namespace: Some(namespace),
        name: Some(name),
        uid: Some(uid),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: if event.is_warning { EventType::Warning } else { EventType::Normal },
        reason: event.reason,
        note: Some(cut(&event.note)),
        action: "Reconcile".into(),
        secondary: None,
    };
    (event, regarding)
}

fn cut(note: &str) -> String {
    let mut end = note.len().min(NOTE_MAX);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_plan::Kind;

    #[test]
    fn an_event_names_the_object_and_fits() {
        let event =
            sealign_plan::Event { is_warning: true, reason: "NoProgress".into(), note: "ä".repeat(900) };
        let told = ObjectEvent {
            kind: Kind::Benchmark,
            namespace: "demo".into(),
            name: "b".into(),
            uid: "u".into(),
            event,
        };
        let (event, regarding) = translated(told);
        assert!(matches!(event.type_, EventType::Warning));
        assert!(event.note.unwrap().len() <= NOTE_MAX);
        assert_eq!(regarding.api_version.as_deref(), Some("sealign.dev/v1alpha1"));
    }
}
