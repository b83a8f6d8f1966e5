//! What is worth an Event: stops, resumptions and waits. An ordinary iteration is worth none.

use super::status::needs_a_person;
use crate::api::{AgentTaskStatus, Phase};

/// One Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Something is wrong; else it is for information.
    pub warning: bool,
    /// One word, which says what happened without the object's kind: lists of Events show all kinds together.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

fn note(warning: bool, reason: &str, message: String) -> EventRecord {
    EventRecord { warning, reason: reason.to_owned(), message }
}

/// The Events that a change of status is worth.
pub fn events_of_change(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus) -> Vec<EventRecord> {
    let old_phase = before.and_then(|status| status.phase);
    let old_reason = before.and_then(|status| status.reason.as_deref());
    let Some(phase) = after.phase else { return Vec::new() };
    let moved = old_phase != Some(phase) || old_reason != after.reason.as_deref();
    if !moved {
        return Vec::new();
    }
    let message = after.message.clone().unwrap_or_default();
    let was_held = matches!(
        old_phase,
        Some(Phase::IterationLimitReached | Phase::CircuitOpen | Phase::Failed | Phase::Suspended)
    );
    let event = match phase {
        Phase::Waiting => {
            let warning = after.waiting.as_ref().is_some_and(|waiting| needs_a_person(waiting.reason));
            let reason = after.reason.clone().unwrap_or_else(|| "LoopWaiting".to_owned());
            EventRecord { warning, reason, message }
        }
        Phase::CircuitOpen => note(true, "CircuitOpen", message),
        Phase::Failed => note(true, "LoopFailed", message),
        Phase::Succeeded => note(false, "LoopSucceeded", message),
        Phase::IterationLimitReached => note(false, "IterationLimitReached", message),
        Phase::Suspended => note(false, "LoopSuspended", message),
        Phase::Running if was_held => note(false, "LoopResumed", message),
        Phase::Running if before.is_none_or(|status| status.start_time.is_none()) => {
            note(false, "LoopStarted", message)
        }
        Phase::Running | Phase::Pending | Phase::Other(_) => return Vec::new(),
    };
    vec![event]
}
