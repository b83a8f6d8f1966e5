//! The rules that stop a loop, and the thresholds that they are taken with.

use super::draft::Draft;
use crate::api::{
    AgentTaskSpec, AgentTaskStatus, BreakerStatus, Phase, Stop, StopReason, Threshold, ThresholdSource,
    Thresholds,
};

/// The stop that the counters call for, the first that holds. Done and Failed come before: they are
/// decided when an iteration is settled.
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

/// Whether a stop holds at this generation of the spec. Failed does, until a new reset token lifts it; a
/// stop of a newer version does in any case, because only that version knows what lifts it.
pub(super) fn holds(stop: &Stop, generation: i64) -> bool {
    is_unknown(stop)
        || matches!(stop.phase, Phase::Failed | Phase::Succeeded)
        || stop.generation == generation
}

/// A newer version stopped the loop, by a rule or in a phase that this one does not know.
pub(super) fn is_unknown(stop: &Stop) -> bool {
    matches!(stop.phase, Phase::Other(_)) || matches!(stop.reason, StopReason::Other(_))
}

/// A new reset token clears both streaks and lifts the stops that a person must lift. The count stays.
pub(super) fn act_on_reset_token(draft: &mut Draft<'_>) {
    let token = &draft.observed.task.spec.reset_token;
    // The version that knows the stop will act on the token.
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

/// Whether the thresholds in the status are those that are in force now.
pub(super) enum Fresh {
    Yes,
    /// The status knows a newer configuration than we do: read it before anything is decided.
    ReadFirst,
    /// The newest configuration is refused, and this task has no thresholds to go on with.
    Refused(String),
}

/// Brings the thresholds and the limit in the status up to date.
pub(super) fn refresh_thresholds(draft: &mut Draft<'_>) -> Fresh {
    let configuration = draft.observed.configuration;
    let spec = &draft.observed.task.spec;
    let before = draft.status.thresholds.as_ref();
    let known = before.and_then(|thresholds| thresholds.config_version.as_deref());
    if !configuration.consistent && configuration.is_older_than(known) {
        return Fresh::ReadFirst;
    }
    let thresholds = match (&configuration.newest, before) {
        (Ok(settings), _) => settings.thresholds(spec, configuration.version.clone()),
        (Err(_), Some(before)) => go_on_with(before, spec),
        (Err(refused), None) => return Fresh::Refused(refused.to_string()),
    };
    draft.status.max_iterations = Some(thresholds.effective_limit());
    draft.status.thresholds = Some(thresholds);
    Fresh::Yes
}

/// The numbers that a task has in its status, with what its own spec says now: what every operator comes
/// to, whatever it remembers. A number that the spec no longer says stays until the configuration that
/// would replace it can be read.
fn go_on_with(before: &Thresholds, spec: &AgentTaskSpec) -> Thresholds {
    let breaker = spec.breaker.as_ref();
    let go_on = |own: Option<i32>, known: Threshold| {
        own.map_or(known, |value| Threshold { value, from: ThresholdSource::Spec })
    };
    Thresholds {
        max_iterations: go_on(spec.max_iterations, before.max_iterations),
        hard_limit: before.hard_limit,
        no_change: go_on(breaker.and_then(|b| b.no_change_threshold), before.no_change),
        same_error: go_on(breaker.and_then(|b| b.same_error_threshold), before.same_error),
        iteration_timeout_seconds: go_on(spec.iteration_timeout_seconds, before.iteration_timeout_seconds),
        config_version: before.config_version.clone(),
    }
}
