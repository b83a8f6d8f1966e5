//! What people see: phase, reason, message, progress and conditions, all derived from the rest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Draft, whole_second};
use crate::{
    api::{AgentTaskStatus, Phase, WaitReason, condition},
    facts::PodState,
    message::{self, cut_bytes},
};

/// Bytes of a status's message, and of a condition's.
const MESSAGE_BYTES: usize = 1000;

/// Reason of Reconciling=False once an iteration has run: what the condition is about, and remembers.
const STARTED: &str = "Started";

pub(super) fn show(draft: &mut Draft<'_>) {
    let phase = phase(&draft.status, draft.observed.task.spec.suspend);
    let generation = draft.generation();
    let runs = draft.status.active.as_ref().and_then(|active| draft.pod_of(active)).is_some_and(|pod| {
        matches!(pod.state, PodState::Running | PodState::AgentEnded(_) | PodState::Ended(_))
    });
    let message = message::status(draft.observed.task, &draft.status, phase);
    let status = &mut draft.status;
    status.observed_generation = Some(generation);
    status.phase = Some(phase);
    status.reason = reason(status, phase);
    status.message = Some(cut_bytes(&message, MESSAGE_BYTES));
    status.progress = status.max_iterations.map(|max| format!("{}/{max}", status.iterations));

    let shown = format!("{phase:?}");
    let stopped = status.stop.as_ref().map(|stop| format!("{:?}", stop.phase));
    let clamped = status.thresholds.as_ref().filter(|thresholds| thresholds.is_clamped());
    let has_run = runs || status.iterations > 0 || has_run_before(status);
    let in_progress = !has_run && matches!(phase, Phase::Running | Phase::Waiting);
    let stalled = match phase {
        Phase::CircuitOpen | Phase::Failed | Phase::Other(_) => true,
        Phase::Waiting => status.waiting.as_ref().is_some_and(|w| needs_a_person(w.reason)),
        _ => false,
    };
    let why = status.reason.clone().unwrap_or_else(|| shown.clone());
    let conditions = [
        (condition::STOPPED, stopped.is_some(), stopped.unwrap_or_else(|| shown.clone()), message.clone()),
        (condition::SUCCEEDED, phase == Phase::Succeeded, shown, String::new()),
        (
            condition::LIMIT_CLAMPED,
            clamped.is_some(),
            if clamped.is_some() { "HardLimit" } else { "WithinHardLimit" }.to_owned(),
            clamped.map(message::clamped).unwrap_or_default(),
        ),
        (
            condition::RECONCILING,
            in_progress && !stalled,
            if has_run { STARTED.to_owned() } else { why.clone() },
            String::new(),
        ),
        (condition::STALLED, stalled, why, if stalled { message } else { String::new() }),
    ];
    let now = Time(whole_second(draft.observed.now));
    status.conditions = conditions
        .into_iter()
        .map(|(type_, is_true, reason, message)| {
            let status_word = if is_true { "True" } else { "False" };
            let before = status.conditions.iter().find(|c| c.type_ == type_ && c.status == status_word);
            Condition {
                type_: type_.to_owned(),
                status: status_word.to_owned(),
                reason,
                message: cut_bytes(&message, MESSAGE_BYTES),
                last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
                observed_generation: Some(generation),
            }
        })
        .collect();
}

/// The phase: Succeeded, Suspended, the stop's own, then what goes on. Where nothing holds a task, the rules
/// have claimed its next iteration.
fn phase(status: &AgentTaskStatus, suspended: bool) -> Phase {
    match &status.stop {
        Some(stop) if stop.phase == Phase::Succeeded => Phase::Succeeded,
        _ if suspended => Phase::Suspended,
        Some(stop) => stop.phase,
        None if status.waiting.is_some() => Phase::Waiting,
        None => Phase::Running,
    }
}

fn reason(status: &AgentTaskStatus, phase: Phase) -> Option<String> {
    match phase {
        Phase::Waiting => status.waiting.as_ref().map(|waiting| format!("{:?}", waiting.reason)),
        Phase::IterationLimitReached
        | Phase::CircuitOpen
        | Phase::Failed
        | Phase::Succeeded
        | Phase::Other(_) => status.stop.as_ref().map(|stop| format!("{:?}", stop.reason)),
        Phase::Pending | Phase::Running | Phase::Suspended => None,
    }
}

/// An iteration once ran, if only for a moment: its condition remembers it.
fn has_run_before(status: &AgentTaskStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == condition::RECONCILING && c.reason == STARTED)
}

/// Waits that do not mend themselves: somebody must change something.
pub(super) fn needs_a_person(reason: WaitReason) -> bool {
    matches!(
        reason,
        WaitReason::PodRejected
            | WaitReason::PromptMissing
            | WaitReason::NameConflict
            | WaitReason::ConfigInvalid
    )
}
