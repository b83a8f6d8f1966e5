//! The rules that stop a loop, and the thresholds that they use.

use super::draft::Draft;
use crate::api::{
    AgentTaskSpec, AgentTaskStatus, BreakerStatus, Phase, Stop, StopReason, Threshold, ThresholdSource,
    Thresholds,
};

/// The first stop that the counters cause. Succeeded and Failed come before it: they are decided when an iteration is
/// settled.
pub(super) fn stop(status: &AgentTaskStatus, generation: i64) -> Option<Stop> {
    let thresholds = status.thresholds.as_ref()?;
    let reached = |streak: i32, threshold: Threshold| streak >= threshold.value.max(1);
    let (phase, reason) = if reached(status.breaker.consecutive_same_error, thresholds.same_error) {
        (Phase::CircuitOpen, StopReason::SameError)
    } else if reached(status.breaker.consecutive_no_change, thresholds.no_change) {
        (Phase::CircuitOpen, StopReason::NoChange)
    } else if status.iterations >= thresholds.effective_limit() {
        (Phase::IterationLimitReached, StopReason::IterationLimit)
    } else {
        return None;
    };
    Some(Stop { phase, reason, generation })
}

/// Whether a stop stays in effect at this generation of the spec. Failed stays until a new reset token lifts it. A stop
/// by a newer version always stays, because only that version knows what lifts it.
pub(super) fn stays_stopped(stop: &Stop, generation: i64) -> bool {
    is_unknown(stop)
        || matches!(stop.phase, Phase::Failed | Phase::Succeeded)
        || stop.generation == generation
}

/// Whether a newer version stopped the loop, with a phase or reason that this version does not know.
pub(super) fn is_unknown(stop: &Stop) -> bool {
    matches!(stop.phase, Phase::Other(_)) || matches!(stop.reason, StopReason::Other(_))
}

/// A new reset token clears both streaks and lifts the stops CircuitOpen and Failed. The count stays.
pub(super) fn act_on_reset_token(draft: &mut Draft<'_>) {
    let token = &draft.observed.task.spec.reset_token;
    // The version that knows the stop will handle the token.
    if draft.status.stop.as_ref().is_some_and(is_unknown) {
        return;
    }
    if token.is_none() || *token == draft.status.last_handled_reset_token {
        return;
    }
    draft.status.last_handled_reset_token.clone_from(token);
    draft.status.breaker = BreakerStatus::default();
    draft.status.refusals = 0;
    if draft.status.stop.as_ref().is_some_and(|stop| is_lifted_by_token(stop.phase)) {
        draft.status.stop = None;
    }
}

/// Whether a new reset token lifts a stop of this phase.
pub(super) fn is_lifted_by_token(phase: Phase) -> bool {
    matches!(phase, Phase::CircuitOpen | Phase::Failed)
}

/// Whether the thresholds in the status are up to date.
pub(super) enum Refreshed {
    Yes,
    /// The status was written with a newer configuration than the known one, which must be read before a decision.
    ReadFirst,
    /// The newest configuration is invalid, and this task has no earlier thresholds.
    Invalid(String),
}

/// Updates the thresholds and the limit in the status.
pub(super) fn refresh_thresholds(draft: &mut Draft<'_>) -> Refreshed {
    let configuration = draft.observed.configuration;
    let spec = &draft.observed.task.spec;
    let before = draft.status.thresholds.as_ref();
    let known = before.and_then(|thresholds| thresholds.config_version.as_deref());
    if !configuration.consistent && configuration.is_older_than(known) {
        return Refreshed::ReadFirst;
    }
    let thresholds = match (&configuration.newest, before) {
        (Ok(settings), _) => settings.thresholds(spec, configuration.version.clone()),
        (Err(_), Some(before)) => update_from_spec(before, spec),
        (Err(refused), None) => return Refreshed::Invalid(refused.to_string()),
    };
    draft.status.max_iterations = Some(thresholds.effective_limit());
    draft.status.thresholds = Some(thresholds);
    Refreshed::Yes
}

/// The thresholds in the status, updated from the task's spec. Every operator computes the same, whatever configuration
/// it knows. A number that was removed from the spec stays until a valid configuration can replace it.
fn update_from_spec(before: &Thresholds, spec: &AgentTaskSpec) -> Thresholds {
    let breaker = spec.breaker.as_ref();
    let spec_or = |own: Option<i32>, known: Threshold| {
        own.map_or(known, |value| Threshold { value, from: ThresholdSource::Spec })
    };
    Thresholds {
        max_iterations: spec_or(spec.max_iterations, before.max_iterations),
        hard_limit: before.hard_limit,
        no_change: spec_or(breaker.and_then(|b| b.no_change_threshold), before.no_change),
        same_error: spec_or(breaker.and_then(|b| b.same_error_threshold), before.same_error),
        iteration_timeout_seconds: spec_or(spec.iteration_timeout_seconds, before.iteration_timeout_seconds),
        config_version: before.config_version.clone(),
    }
}
