//! Settling: one status write that ends the active iteration and counts it, or records that it does not count.

use agentloop_contract::text::cut_bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    draft::Draft,
    outcome::{self, AttemptOutcome, Charge, NoChangeStreak, SameErrorStreak},
    provider, usage,
};
use crate::{
    api::{
        ActiveIteration, CompletionGate, PastIteration, Phase, Stop, StopReason, WaitReason, WorkspaceChange,
    },
    facts::{Ending, Obstacle, PodFacts},
    pod::template_hash,
    time::{backed_off, later, whole_second},
};

/// Maximum entries of the history.
const MAX_HISTORY: usize = 10;
/// How old a pod with another runner must be to be replaced without a delay.
const MIN_AGE_TO_REPLACE: SignedDuration = SignedDuration::from_secs(10);
/// Maximum bytes of one line in the newest entry and in older ones, so that the status stays below 16 KiB.
const NEW_LINE_BYTES: usize = 160;
const OLD_LINE_BYTES: usize = 100;
/// Maximum blockers in the newest entry.
const MAX_BLOCKERS: usize = 3;

pub(super) fn settle(
    draft: &mut Draft<'_>,
    active: &ActiveIteration,
    pod: Option<&PodFacts>,
    ending: &Ending,
) {
    let completion = pod.and_then(|pod| pod.completion.as_deref());
    match outcome::attempt_outcome(&draft.observed.task.spec, completion, ending) {
        AttemptOutcome::NotStarted { message } => try_again(draft, active, pod, message),
        AttemptOutcome::Refused(charge) if provider::is_free(draft) => {
            end_attempt(draft, active);
            draft.status.free_attempts = draft.status.free_attempts.saturating_add(1);
            let cost =
                charge.report.as_ref().and_then(|report| report.usage.as_ref()).map(usage::from_report);
            draft.status.usage = usage::add(draft.status.usage.take(), cost.as_ref());
            provider::wait(draft, active, &charge);
        }
        AttemptOutcome::Refused(charge) | AttemptOutcome::Charged(charge) => count(draft, active, &charge),
    }
}

/// Charges an active iteration whose pod is gone. Whether its agent ran is unknown, so it counts.
pub(super) fn charge_as_lost(draft: &mut Draft<'_>, active: &ActiveIteration) {
    count(draft, active, &outcome::lost());
}

/// The iteration ends uncharged. The next attempt is at the same iteration.
fn end_attempt(draft: &mut Draft<'_>, active: &ActiveIteration) {
    draft.status.active = None;
    draft.status.waiting = None;
    draft.status.next_attempt = active.attempt.saturating_add(1);
}

fn try_again(draft: &mut Draft<'_>, active: &ActiveIteration, pod: Option<&PodFacts>, message: String) {
    end_attempt(draft, active);
    let spec = &draft.observed.task.spec;
    // A pod is outdated only if the spec has changed. If the hash differs although it has not, a webhook edited it, and
    // without a delay pods would be created and deleted in a tight loop.
    let was_replaced = active.generation != draft.generation()
        && pod.is_some_and(|pod| pod.hash.as_deref() != Some(template_hash(spec).as_str()));
    if spec.suspend || was_replaced || pod.is_some_and(|pod| had_another_runner(draft, pod)) {
        return;
    }
    let obstacle = match pod.and_then(|pod| pod.rejected) {
        Some(why) => Obstacle { reason: WaitReason::PodRejected, message: why.to_owned() },
        None => Obstacle { reason: WaitReason::StartFailed, message },
    };
    let until = later(draft.observed.now, start_delay(draft, active.attempt));
    draft.wait(&obstacle, Some(until));
}

/// The delay before the next attempt after a failed start.
fn start_delay(draft: &Draft<'_>, attempt: i32) -> SignedDuration {
    let settings = &draft.observed.configuration.last_valid;
    backed_off(settings.start_retry_min_seconds, settings.start_retry_max_seconds, attempt)
}

/// Whether the next pod gets a different runner and this pod is old enough to be replaced without a delay. A younger
/// pod waits for the ordinary delay: otherwise two operators of different versions that alternate, or a webhook that
/// edits the annotation, would create and delete pods in a tight loop.
fn had_another_runner(draft: &Draft<'_>, pod: &PodFacts) -> bool {
    let observed = draft.observed;
    let mark = pod.runner.as_deref();
    (observed.injection.has_another_image(mark) || observed.injection.has_another_method(mark))
        && pod.created.is_some_and(|created| observed.now >= later(created, MIN_AGE_TO_REPLACE))
}

fn count(draft: &mut Draft<'_>, active: &ActiveIteration, charge: &Charge) {
    let now = draft.observed.now;
    let generation = draft.generation();
    let status = &mut draft.status;
    status.active = None;
    status.waiting = None;
    status.next_attempt = 0;
    status.free_attempts = 0;
    status.iterations = active.iteration;

    let streaks = &mut status.breaker;
    match charge.no_change {
        NoChangeStreak::Keep => {}
        NoChangeStreak::Reset => streaks.consecutive_no_change = 0,
        NoChangeStreak::Count => {
            streaks.consecutive_no_change = streaks.consecutive_no_change.saturating_add(1);
        }
    }
    match &charge.error {
        SameErrorStreak::Keep => {}
        SameErrorStreak::Reset => {
            streaks.consecutive_same_error = 0;
            streaks.error_signature = None;
        }
        SameErrorStreak::Count(error) => {
            let signature = cut_bytes(&error.signature, 64);
            let same = streaks.error_signature.as_deref() == Some(signature.as_str());
            let before = if same { streaks.consecutive_same_error } else { 0 };
            streaks.consecutive_same_error = before.saturating_add(1);
            streaks.error_signature = Some(signature);
        }
    }

    let report = charge.report.as_ref();
    let cost = report.and_then(|report| report.usage.as_ref()).map(usage::from_report);
    status.usage = usage::add(status.usage.take(), cost.as_ref());
    status.history.iter_mut().for_each(shorten);
    status.history.insert(0, PastIteration { usage: cost, ..entry(active, charge) });
    status.history.truncate(MAX_HISTORY);

    status.stop = charge.stop.map(|reason| Stop {
        phase: if reason == StopReason::Completed { Phase::Succeeded } else { Phase::Failed },
        reason,
        generation,
    });
    if charge.stop == Some(StopReason::Completed) {
        status.completion_time = Some(Time(whole_second(now)));
    }
    if charge.refused.is_some() {
        provider::wait(draft, active, charge);
    } else if provider::was_served(charge.outcome) {
        draft.status.refusals = 0;
    }
}

fn entry(active: &ActiveIteration, charge: &Charge) -> PastIteration {
    let report = charge.report.as_ref();
    let line = |text: &String| cut_bytes(text, NEW_LINE_BYTES);
    PastIteration {
        iteration: active.iteration,
        attempt: active.attempt,
        outcome: charge.outcome,
        exit_code: charge.exit_code,
        changed: charge.changed,
        files_changed: report
            .and_then(|report| report.files_changed)
            .map(|files| i32::try_from(files.max(0)).unwrap_or(i32::MAX)),
        gate: report.and_then(|report| report.gate.as_ref()).map(|gate| CompletionGate {
            ready: gate.ready,
            reason: gate.reason.as_ref().map(line),
            progress: gate.progress.as_ref().map(line),
            blockers: gate.blockers.iter().take(MAX_BLOCKERS).map(line).collect(),
        }),
        error: outcome::summary_of(&charge.error, report).as_ref().map(line),
        started_in: report
            .filter(|_| charge.changed == WorkspaceChange::Unchanged)
            .and_then(|report| report.started_in.as_ref())
            .map(|folder| cut_bytes(folder, OLD_LINE_BYTES)),
        usage: None,
        start_time: charge.started.map(|time| Time(seconds(time))),
        completion_time: charge.finished.map(|time| Time(seconds(time))),
    }
}

/// Whole seconds, as the API server stores them.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// An entry that is no longer the newest keeps its facts and the beginning of its texts.
fn shorten(entry: &mut PastIteration) {
    let line = |text: &mut String| *text = cut_bytes(text, OLD_LINE_BYTES);
    entry.error.iter_mut().for_each(line);
    entry.started_in = None;
    if let Some(gate) = &mut entry.gate {
        gate.reason.iter_mut().for_each(line);
        gate.progress = None;
        gate.blockers.truncate(1);
        gate.blockers.iter_mut().for_each(line);
    }
}
