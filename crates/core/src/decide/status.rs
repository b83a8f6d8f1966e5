//! The part of the status that people read: phase, reason, message, progress and conditions, derived from the rest.

use agentloop_contract::text::cut_bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::draft::Draft;
use crate::{
    api::{AgentTask, AgentTaskStatus, Phase, Stop, WaitReason, condition},
    facts::PodState,
    message,
    time::whole_second,
};

/// Maximum bytes of the message of the status and of each condition.
const MESSAGE_BYTES: usize = 1000;

pub(super) fn update(draft: &mut Draft<'_>) {
    let phase = phase(&draft.status, draft.observed.task.spec.suspend);
    let generation = draft.generation();
    let now = Time(whole_second(draft.observed.now));
    let runs = draft.status.active.as_ref().and_then(|active| draft.pod_of(active)).is_some_and(|pod| {
        matches!(pod.state, PodState::Running | PodState::AgentEnded(_) | PodState::Ended(_))
    });
    let task = draft.observed.task;
    let message = message::status(task, &draft.status, phase);
    let status = &mut draft.status;
    status.observed_generation = Some(generation);
    status.phase = Some(phase);
    status.reason = reason(status, phase);
    status.message = Some(cut_bytes(&message, MESSAGE_BYTES));
    status.progress = status.max_iterations.map(|max| format!("{}/{max}", status.iterations));
    if runs || status.iterations > 0 {
        status.first_run_time.get_or_insert(now.clone());
    }

    status.conditions = conditions(task, status, phase)
        .into_iter()
        .map(|new| {
            let before = status.conditions.iter().find(|c| c.type_ == new.type_ && c.status == new.status);
            Condition {
                type_: new.type_.to_owned(),
                status: new.status.to_owned(),
                reason: new.reason,
                message: cut_bytes(&new.message, MESSAGE_BYTES),
                last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
                observed_generation: Some(generation),
            }
        })
        .collect();
}

/// A condition without its times.
struct NewCondition {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl NewCondition {
    fn met(type_: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_, status: "True", reason: reason.into(), message: message.into() }
    }

    fn not_met(type_: &'static str, reason: impl Into<String>) -> Self {
        Self { type_, status: "False", reason: reason.into(), message: String::new() }
    }

    /// The task has neither succeeded nor failed yet.
    fn undecided(type_: &'static str) -> Self {
        Self { type_, status: "Unknown", reason: "Undecided".to_owned(), message: String::new() }
    }
}

/// One condition for each state that a client can wait for. No condition changes with every iteration, so a client that
/// watches conditions is notified of stops and waits only.
fn conditions(task: &AgentTask, status: &AgentTaskStatus, phase: Phase) -> [NewCondition; 7] {
    let message = || status.message.clone().unwrap_or_default();
    let why = || status.reason.clone().unwrap_or_else(|| phase.to_string());
    let stop = status.stop.as_ref();
    let stop_message = |stop: &Stop| message::status(task, status, stop.phase);
    let decided = stop.filter(|stop| matches!(stop.phase, Phase::Succeeded | Phase::Failed));
    let (succeeded, failed) = match decided {
        Some(stop) if stop.phase == Phase::Succeeded => (
            NewCondition::met(condition::SUCCEEDED, stop.reason.as_str(), stop_message(stop)),
            NewCondition::not_met(condition::FAILED, stop.reason.as_str()),
        ),
        Some(stop) => (
            NewCondition::not_met(condition::SUCCEEDED, stop.reason.as_str()),
            NewCondition::met(condition::FAILED, stop.reason.as_str(), stop_message(stop)),
        ),
        None => (NewCondition::undecided(condition::SUCCEEDED), NewCondition::undecided(condition::FAILED)),
    };
    let suspended = if phase == Phase::Suspended {
        NewCondition::met(condition::SUSPENDED, "SuspendRequested", "spec.suspend is true")
    } else {
        NewCondition::not_met(condition::SUSPENDED, "NotSuspended")
    };
    let stopped = match stop {
        Some(stop) => NewCondition::met(condition::STOPPED, stop.phase.as_str(), stop_message(stop)),
        None => NewCondition::not_met(condition::STOPPED, "NotStopped"),
    };
    let clamped = match status.thresholds.as_ref().filter(|thresholds| thresholds.is_clamped()) {
        Some(thresholds) => {
            NewCondition::met(condition::LIMIT_CLAMPED, "HardLimit", message::clamped(thresholds))
        }
        None => NewCondition::not_met(condition::LIMIT_CLAMPED, "WithinHardLimit"),
    };
    let is_stalled = is_stalled(status, phase);
    let reconciling = if status.first_run_time.is_some() {
        NewCondition::not_met(condition::RECONCILING, "FirstIterationRan")
    } else if matches!(phase, Phase::Running | Phase::Waiting) && !is_stalled {
        NewCondition::met(condition::RECONCILING, why(), "")
    } else {
        NewCondition::not_met(condition::RECONCILING, why())
    };
    let stalled = if is_stalled {
        NewCondition::met(condition::STALLED, why(), message())
    } else {
        NewCondition::not_met(condition::STALLED, "NotStalled")
    };
    [succeeded, failed, suspended, stopped, clamped, reconciling, stalled]
}

fn is_stalled(status: &AgentTaskStatus, phase: Phase) -> bool {
    match phase {
        Phase::CircuitOpen | Phase::Failed | Phase::Other(_) => true,
        Phase::Waiting => status.waiting.as_ref().is_some_and(|w| needs_a_person(w.reason)),
        _ => false,
    }
}

/// The phase. Succeeded comes first, then Suspended, then the phase of the stop. If nothing stops the task or makes it
/// wait, an iteration is active.
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
        Phase::Waiting => status.waiting.as_ref().map(|waiting| waiting.reason.to_string()),
        Phase::IterationLimitReached
        | Phase::CircuitOpen
        | Phase::Failed
        | Phase::Succeeded
        | Phase::Other(_) => status.stop.as_ref().map(|stop| stop.reason.to_string()),
        Phase::Pending | Phase::Running | Phase::Suspended => None,
    }
}

/// Waits that do not end until a person changes something.
pub(super) fn needs_a_person(reason: WaitReason) -> bool {
    matches!(
        reason,
        WaitReason::PodRejected
            | WaitReason::PromptMissing
            | WaitReason::NameConflict
            | WaitReason::ConfigInvalid
    )
}
