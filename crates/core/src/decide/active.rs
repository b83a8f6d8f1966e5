//! A claimed iteration: its pod is created, started, watched, stopped where it must, and settled.
//!
//! A claim is never withdrawn. It ends only by settling its pod, whatever the spec says meanwhile.

use jiff::SignedDuration;

use super::{draft::Draft, settle, types::Action};
use crate::{
    api::{ActiveIteration, WaitReason},
    facts::{Obstacle, PodFacts, PodState},
    pod::template_hash,
    time::later,
};

/// A node that has not ended a deleted pod by its grace and this long is called silent.
const NODE_SILENCE: SignedDuration = SignedDuration::from_secs(30);
/// How long a sidecar may take to start before it is called slow.
const SLOW_SIDECAR: SignedDuration = SignedDuration::from_secs(30);
/// How often the Events of a pod that does not start are read.
const LOOK_AT_EVENTS: SignedDuration = SignedDuration::from_secs(10);

pub(super) fn advance(draft: &mut Draft<'_>, active: &ActiveIteration) {
    if draft.spec_changed() && draft.status.stop.is_none() {
        super::rules::refresh_thresholds(draft);
    }
    match draft.pod_of(active).cloned() {
        None => without_pod(draft, active),
        Some(pod) => match pod.ended() {
            Some(ending) => settle::settle(draft, active, Some(&pod), ending),
            None => with_live_pod(draft, &pod),
        },
    }
}

fn without_pod(draft: &mut Draft<'_>, active: &ActiveIteration) {
    let observed = draft.observed;
    if may_have_run(draft, active) {
        // A cache may be older than the pod: only the API server itself can say that it is gone.
        if observed.is_gone {
            settle::charge_as_lost(draft, active);
        } else if let Some(refused) = &observed.refused {
            estranged(draft, refused);
        } else if let Some(until) = draft.waits_until().filter(|_| waits_for_its_pod(draft)) {
            draft.requeue_at(until);
        } else {
            draft.act(Action::ReadPod);
        }
    } else if observed.task.spec.suspend {
        // Nothing runs. The claim stays: another operator may be about to create its pod.
        draft.status.waiting = None;
    } else if let Some(refused) = observed.refused.clone() {
        refuse(draft, &refused);
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

/// Whether the claimed pod, of which nothing is seen, is known to have been let go, or let start. Our
/// finalizer keeps a pod until it is settled; somebody may have taken it off, most likely of a pod on a
/// node that was lost. To create such a pod again would run its iteration twice.
fn may_have_run(draft: &Draft<'_>, active: &ActiveIteration) -> bool {
    let was_lost = draft.status.waiting.as_ref().is_some_and(|w| w.reason == WaitReason::NodeLost);
    active.orphaned || was_lost || draft.observed.was_started
}

/// The pod is there, and is not the task's any more: somebody changed its owner references or labels. What became of
/// it cannot be told, and it may run, so nothing follows it. That its node was lost must not be forgotten over this.
fn estranged(draft: &mut Draft<'_>, refused: &Obstacle) {
    let reason = match &draft.status.waiting {
        Some(waiting) if waiting.reason == WaitReason::NodeLost => WaitReason::NodeLost,
        _ => refused.reason,
    };
    refuse(draft, &Obstacle { reason, ..refused.clone() });
}

fn waits_for_its_pod(draft: &Draft<'_>) -> bool {
    let reason = draft.status.waiting.as_ref().map(|waiting| waiting.reason);
    matches!(reason, Some(WaitReason::NameConflict | WaitReason::NodeLost))
}

/// The API server refuses the pod: the next try comes after as long as this has lasted already, within
/// the bounds of the settings, so that the delay doubles without being counted anywhere.
fn refuse(draft: &mut Draft<'_>, refused: &Obstacle) {
    let now = draft.observed.now;
    let settings = &draft.observed.configuration.last_good;
    let same = draft.status.waiting.as_ref().filter(|waiting| waiting.reason == refused.reason);
    let lasted = same.map_or(0, |waiting| now.duration_since(waiting.start_time.0).as_secs());
    let delay = lasted.min(settings.start_retry_max_seconds).max(settings.start_retry_min_seconds);
    draft.wait(refused, Some(later(now, SignedDuration::from_secs(delay))));
}

fn with_live_pod(draft: &mut Draft<'_>, pod: &PodFacts) {
    let observed = draft.observed;
    let now = observed.now;
    if let Some(deletion) = pod.deletion {
        let silent_from = later(deletion, NODE_SILENCE);
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
        || (pod.has_scheduling_gate && pod.rejected.is_some())
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
        PodState::Starting(told) => {
            let slow = pod.slow.as_ref().map(|(since, slow)| (later(*since, SLOW_SIDECAR), slow));
            let too_slow = slow.filter(|(from, _)| now >= *from).map(|(_, slow)| slow.clone());
            if let Some((from, _)) = slow.filter(|(from, _)| now < *from) {
                draft.requeue_at(from);
            }
            let obstacle = told.clone().or(too_slow).or_else(|| observed.obstacle.clone());
            match obstacle {
                Some(obstacle) => draft.wait(&obstacle, None),
                None => draft.status.waiting = None,
            }
            if told.is_none() {
                draft.requeue_after(LOOK_AT_EVENTS);
            }
        }
        PodState::AgentEnded(finished) => {
            draft.status.waiting = None;
            let grace = SignedDuration::from_secs(observed.configuration.last_good.sidecar_grace_seconds);
            // The kubelet may not know when the container ended: then no grace is left to wait for.
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

/// Whether a pod that has not started is to be made again with the runner of now: its image is another, or
/// it cannot start because of the way in which the runner gets into it, and that is another now.
fn has_outdated_runner(draft: &Draft<'_>, pod: &PodFacts) -> bool {
    let observed = draft.observed;
    let mark = pod.runner.as_deref();
    let obstacle = match &pod.state {
        PodState::Starting(obstacle) => obstacle.as_ref().or(observed.obstacle.as_ref()),
        _ => None,
    };
    observed.injection.has_another_image(mark)
        || (observed.injection.has_another_way(mark)
            && obstacle.is_some_and(|obstacle| observed.injection.is_in_the_way(obstacle)))
}
