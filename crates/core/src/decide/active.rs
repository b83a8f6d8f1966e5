//! The active iteration: its pod is created, started, watched, stopped if necessary, and settled.
//!
//! An active iteration is never withdrawn. Only settling its pod ends it, even if the spec changes meanwhile.

use jiff::SignedDuration;

use super::{draft::Draft, settle, types::Action};
use crate::{
    api::{ActiveIteration, WaitReason},
    facts::{Obstacle, PodFacts, PodState},
    pod::template_hash,
    time::later,
};

/// How long after the grace period of a deleted pod its node counts as lost, if the pod has not ended.
const NODE_LOST_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// How long a sidecar may take to start before the task reports it as an obstacle.
const SLOW_SIDECAR_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// How often the Events of a pod that does not start are read.
const EVENTS_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

pub(super) fn advance(draft: &mut Draft<'_>, active: &ActiveIteration) {
    if draft.spec_changed() && draft.status.stop.is_none() {
        super::rules::refresh_thresholds(draft);
    }
    match draft.pod_of(active).cloned() {
        None => without_pod(draft, active),
        Some(pod) => match pod.ended() {
            // It may be a second pod of this name, from a late create: the first one had lost its finalizer and may have
            // run before it vanished.
            Some(_) if active.orphaned && pod.has_scheduling_gate => settle::charge_as_lost(draft, active),
            Some(ending) => settle::settle(draft, active, Some(&pod), ending),
            None => with_live_pod(draft, active, &pod),
        },
    }
}

fn without_pod(draft: &mut Draft<'_>, active: &ActiveIteration) {
    let observed = draft.observed;
    if may_have_run(draft, active) {
        // The cache may be older than the pod. Only a read from the API server proves that the pod is gone.
        if observed.is_gone {
            settle::charge_as_lost(draft, active);
        } else if let Some(refused) = &observed.refused {
            wait_for_detached_pod(draft, refused);
        } else if let Some(until) = draft.waits_until().filter(|_| waits_for_its_pod(draft)) {
            draft.requeue_at(until);
        } else {
            draft.act(Action::ReadPod);
        }
    } else if observed.task.spec.suspend {
        // Nothing runs. The iteration stays active: another operator may be about to create its pod.
        draft.status.waiting = None;
    } else if let Some(refused) = observed.refused.clone() {
        retry_later(draft, &refused);
    } else if let Some(until) = draft.waits_until() {
        draft.requeue_at(until);
    } else if observed.configuration.paused {
        draft.wait_for(WaitReason::Paused, "");
    } else {
        if draft.status.waiting.as_ref().is_some_and(|waiting| waiting.reason == WaitReason::Paused) {
            draft.status.waiting = None;
        }
        draft.act(Action::CreatePod);
    }
}

/// Whether the active pod, which is not in the cache, may have run: its finalizer was removed by an uninstall, its node
/// was lost, or this process started it. The finalizer keeps a pod until it is settled, but an administrator may remove
/// it, most likely from a pod on a lost node. Creating the pod again would run the iteration twice.
fn may_have_run(draft: &Draft<'_>, active: &ActiveIteration) -> bool {
    let was_lost = draft.status.waiting.as_ref().is_some_and(|w| w.reason == WaitReason::NodeLost);
    active.orphaned || was_lost || draft.observed.was_started
}

/// The pod exists, but its owner references or labels were edited, so it no longer belongs to the task. It may still
/// run, so no other pod is created. If its node was lost, that reason stays: it shows that the pod may have run.
fn wait_for_detached_pod(draft: &mut Draft<'_>, refused: &Obstacle) {
    let reason = match &draft.status.waiting {
        Some(waiting) if waiting.reason == WaitReason::NodeLost => WaitReason::NodeLost,
        _ => refused.reason,
    };
    retry_later(draft, &Obstacle { reason, ..refused.clone() });
}

fn waits_for_its_pod(draft: &Draft<'_>) -> bool {
    let reason = draft.status.waiting.as_ref().map(|waiting| waiting.reason);
    matches!(reason, Some(WaitReason::NameConflict | WaitReason::NodeLost))
}

/// Waits after the pod could not be created. The delay is as long as the wait has lasted so far, within the bounds of
/// the settings: so it doubles each time, without a counter.
fn retry_later(draft: &mut Draft<'_>, refused: &Obstacle) {
    let now = draft.observed.now;
    let settings = &draft.observed.configuration.last_valid;
    let same = draft.status.waiting.as_ref().filter(|waiting| waiting.reason == refused.reason);
    let lasted = same.map_or(0, |waiting| now.duration_since(waiting.start_time.0).as_secs());
    let delay = lasted.min(settings.start_retry_max_seconds).max(settings.start_retry_min_seconds);
    draft.wait(refused, Some(later(now, SignedDuration::from_secs(delay))));
}

fn with_live_pod(draft: &mut Draft<'_>, active: &ActiveIteration, pod: &PodFacts) {
    let observed = draft.observed;
    let now = observed.now;
    if let Some(deletion) = pod.deletion {
        let silent_from = later(deletion, NODE_LOST_AFTER);
        if now >= silent_from {
            draft.wait_for(WaitReason::NodeLost, "the node does not respond; the agent may still be running");
        } else {
            draft.status.waiting = None;
            draft.requeue_at(silent_from);
        }
        return;
    }
    if !pod.has_finalizer {
        draft.act(Action::AddFinalizer(pod.into()));
    }
    let has_started = matches!(pod.state, PodState::Running | PodState::AgentEnded(_));
    let is_outdated = pod.hash.as_deref() != Some(template_hash(&observed.task.spec).as_str());
    if observed.task.spec.suspend
        || (!has_started && (is_outdated || has_outdated_runner(draft, pod)))
        || (pod.has_scheduling_gate && (pod.rejected.is_some() || active.orphaned))
    {
        draft.act(Action::DeletePod(pod.into()));
        return;
    }
    if pod.has_scheduling_gate {
        if observed.configuration.paused {
            draft.wait_for(WaitReason::Paused, "");
        } else {
            draft.status.waiting = None;
            draft.act(Action::RemoveSchedulingGate(pod.into()));
        }
        return;
    }
    match &pod.state {
        PodState::Starting(reported) => {
            let slow = pod.slow.as_ref().map(|(since, slow)| (later(*since, SLOW_SIDECAR_AFTER), slow));
            let too_slow = slow.filter(|(from, _)| now >= *from).map(|(_, slow)| slow.clone());
            if let Some((from, _)) = slow.filter(|(from, _)| now < *from) {
                draft.requeue_at(from);
            }
            let obstacle = reported.clone().or(too_slow).or_else(|| observed.obstacle.clone());
            match obstacle {
                Some(obstacle) => draft.wait(&obstacle, None),
                None => draft.status.waiting = None,
            }
            if reported.is_none() {
                draft.requeue_after(EVENTS_INTERVAL);
            }
        }
        PodState::AgentEnded(finished) => {
            draft.status.waiting = None;
            let grace = SignedDuration::from_secs(observed.configuration.last_valid.sidecar_grace_seconds);
            // The kubelet may not know when the container ended. Then the grace period counts from the pod's creation.
            let until = later(finished.or(pod.created).unwrap_or(now), grace);
            if now >= until {
                draft.act(Action::DeletePod(pod.into()));
            } else {
                draft.requeue_at(until);
            }
        }
        PodState::Running | PodState::Ended(_) => draft.status.waiting = None,
    }
}

/// Whether a pod that has not started must be replaced, because it has an outdated runner: the runner's image changed,
/// or the injection method changed and the old method is what keeps the pod from starting.
fn has_outdated_runner(draft: &Draft<'_>, pod: &PodFacts) -> bool {
    let observed = draft.observed;
    let mark = pod.runner.as_deref();
    let obstacle = match &pod.state {
        PodState::Starting(obstacle) => obstacle.as_ref().or(observed.obstacle.as_ref()),
        _ => None,
    };
    observed.injection.has_another_image(mark)
        || (observed.injection.has_another_method(mark)
            && obstacle.is_some_and(|obstacle| observed.injection.is_cause_of(obstacle)))
}
