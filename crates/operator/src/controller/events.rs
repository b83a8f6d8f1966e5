//! Events: told to people, and never a reason for a reconcile to fail or to wait.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time;
use tracing::debug;

pub(super) use agentloop_core::decide::Note;

use crate::NAME;

/// How long an Event may take to be written.
const LIMIT: Duration = Duration::from_secs(5);

/// Publishes Events.
#[derive(Clone)]
pub(super) struct Events(Recorder);

impl Events {
    pub(super) fn new(client: Client, identity: String) -> Self {
        Self(Recorder::new(client, Reporter { controller: NAME.to_owned(), instance: Some(identity) }))
    }

    /// Publishes one Event in the background.
    pub(super) fn publish(&self, regarding: ObjectReference, note: Note) {
        let recorder = self.0.clone();
        tokio::spawn(async move {
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason,
                note: Some(note.message),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            match time::timeout(LIMIT, recorder.publish(&event, &regarding)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "an Event was not written"),
                Err(_) => debug!("an Event was not written in time"),
            }
        });
    }
}
