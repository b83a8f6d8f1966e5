//! Events: published for people. A reconcile never fails or waits because of one.

use std::sync::Arc;
use std::time::Duration;

use agentloop_contract::text::cut_bytes;
pub(super) use agentloop_core::decide::EventRecord;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio::time;
use tracing::{Instrument, debug};

use crate::NAME;

/// How long writing an Event may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes that the API server accepts in an Event's note and reason.
const NOTE_BYTES: usize = 1024;
const REASON_BYTES: usize = 128;

/// Most Events that a recorder publishes. It keeps them for minutes, to count repeated ones together, and looks at all of
/// them for each new one: with thousands of new tasks, that took more memory than the tasks.
const PER_RECORDER: usize = 256;

/// Publishes Events. A clone shares what is known of earlier ones.
#[derive(Clone)]
pub(super) struct Events {
    client: Client,
    reporter: Reporter,
    recorder: Arc<Mutex<Counted>>,
}

/// A recorder, and how many Events it has published.
struct Counted {
    recorder: Recorder,
    events: usize,
}

impl Events {
    pub(super) fn new(client: Client, identity: String) -> Self {
        let reporter = Reporter { controller: NAME.to_owned(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, recorder: Arc::new(Mutex::new(Counted { recorder, events: 0 })) }
    }

    /// The recorder of the next Event.
    fn recorder(&self) -> Recorder {
        let mut counted = self.recorder.lock();
        if counted.events == PER_RECORDER {
            *counted =
                Counted { recorder: Recorder::new(self.client.clone(), self.reporter.clone()), events: 0 };
        }
        counted.events += 1;
        counted.recorder.clone()
    }

    /// Publishes one Event in the background.
    pub(super) fn publish(&self, regarding: ObjectReference, record: EventRecord) {
        let recorder = self.recorder();
        let publish = async move {
            match time::timeout(TIMEOUT, recorder.publish(&event(&record), &regarding)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "cannot write an Event"),
                Err(_) => debug!("an Event was not written in time"),
            }
        };
        tokio::spawn(publish.in_current_span());
    }
}

/// The Event, cut to what the API server accepts: it would reject a longer one as a whole.
fn event(record: &EventRecord) -> Event {
    Event {
        type_: if record.warning { EventType::Warning } else { EventType::Normal },
        reason: cut_bytes(&record.reason, REASON_BYTES),
        note: Some(cut_bytes(&record.message, NOTE_BYTES)),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_never_longer_than_the_server_accepts() {
        for word in ["x", "\u{1f980}", "<", "\u{7}"] {
            let record = EventRecord { warning: true, reason: word.repeat(200), message: word.repeat(2000) };
            let event = event(&record);
            assert!(event.reason.len() <= 128, "{}", event.reason.len());
            let record = event.note.unwrap();
            assert!(record.len() <= 1024 && record.ends_with('…'), "{record}");
        }
        let short = EventRecord {
            warning: false,
            reason: "LoopStarted".to_owned(),
            message: "iteration 1".to_owned(),
        };
        assert_eq!(event(&short).note.as_deref(), Some("iteration 1"));
    }
}
