//! What is worth an Event: stops, resumptions and waits. An ordinary iteration is worth none.

use super::show::needs_a_person;
use crate::api::{AgentTaskStatus, Phase};

/// One Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something is wrong; else it is for information.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// The Events that a change of status is worth.
pub fn announce(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus) -> Vec<Note> {
    let old_phase = before.and_then(|status| status.phase);
    let old_reason = before.and_then(|status| status.reason.as_deref());
    let Some(phase) = after.phase else { return Vec::new() };
    let moved = old_phase != Some(phase) || old_reason != after.reason.as_deref();
    if !moved {
        return Vec::new();
    }
    let message = after.message.clone().unwrap_or_default();
    let word = |phase: Phase| phase.to_string();
    let was_held = matches!(
        old_phase,
        Some(Phase::IterationLimitReached | Phase::CircuitOpen | Phase::Failed | Phase::Suspended)
    );
    let note = match phase {
        Phase::Waiting => {
            let warning = after.waiting.as_ref().is_some_and(|waiting| needs_a_person(waiting.reason));
            Note { warning, reason: after.reason.clone().unwrap_or_else(|| word(phase)), message }
        }
        Phase::CircuitOpen | Phase::Failed => Note { warning: true, reason: word(phase), message },
        Phase::Succeeded | Phase::IterationLimitReached | Phase::Suspended => {
            Note { warning: false, reason: word(phase), message }
        }
        Phase::Running if was_held => Note { warning: false, reason: "Resumed".to_owned(), message },
        Phase::Running if before.is_none_or(|status| status.start_time.is_none()) => {
            Note { warning: false, reason: "Started".to_owned(), message }
        }
        Phase::Running | Phase::Pending | Phase::Other(_) => return Vec::new(),
    };
    vec![note]
}
