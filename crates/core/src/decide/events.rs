//! Events: for stops, resumptions and waits. An ordinary iteration has none.

use super::status::needs_a_person;
use crate::api::{AgentTaskStatus, Phase};

/// One Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Its type is Warning, not Normal.
    pub warning: bool,
    /// One word that is clear without the kind of the object, because lists of Events show all kinds together.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

fn record(warning: bool, reason: &str, message: String) -> EventRecord {
    EventRecord { warning, reason: reason.to_owned(), message }
}

/// The Events for a change of the status.
pub fn events_of_change(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus) -> Vec<EventRecord> {
    let old_phase = before.and_then(|status| status.phase);
    let old_reason = before.and_then(|status| status.reason.as_deref());
    let Some(phase) = after.phase else { return Vec::new() };
    let moved = old_phase != Some(phase) || old_reason != after.reason.as_deref();
    if !moved {
        return Vec::new();
    }
    let message = after.message.clone().unwrap_or_default();
    let was_stopped = matches!(
        old_phase,
        Some(Phase::IterationLimitReached | Phase::CircuitOpen | Phase::Failed | Phase::Suspended)
    );
    let event = match phase {
        Phase::Waiting => {
            let warning = after.waiting.as_ref().is_some_and(|waiting| needs_a_person(waiting.reason));
            let reason = after.reason.clone().unwrap_or_else(|| "LoopWaiting".to_owned());
            EventRecord { warning, reason, message }
        }
        Phase::CircuitOpen => record(true, "CircuitOpen", message),
        Phase::Failed => record(true, "LoopFailed", message),
        Phase::Succeeded => record(false, "LoopSucceeded", message),
        Phase::IterationLimitReached => record(false, "IterationLimitReached", message),
        Phase::Suspended => record(false, "LoopSuspended", message),
        Phase::Running if was_stopped => record(false, "LoopResumed", message),
        Phase::Running if before.is_none_or(|status| status.start_time.is_none()) => {
            record(false, "LoopStarted", message)
        }
        Phase::Running | Phase::Pending | Phase::Other(_) => return Vec::new(),
    };
    vec![event]
}
