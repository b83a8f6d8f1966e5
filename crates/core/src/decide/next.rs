//! No iteration is active: the rules stop the task, let it wait, or start the next iteration.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    draft::Draft,
    rules,
    types::{Action, PreviousPod},
};
use crate::{
    api::{ActiveIteration, Phase, WaitReason},
    pod::pod_name,
    time::whole_second,
};

/// How often to check whether a pod of a previous task is still running.
const PREVIOUS_POD_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn advance(draft: &mut Draft<'_>) {
    let observed = draft.observed;
    if draft.status.stop.as_ref().is_some_and(|stop| stop.phase == Phase::Succeeded) {
        draft.status.waiting = None;
        expire(draft);
        return;
    }
    if observed.task.spec.suspend {
        // The status shows changed thresholds immediately, unless a stop froze them.
        if draft.status.thresholds.is_none() || (draft.spec_changed() && draft.status.stop.is_none()) {
            rules::refresh_thresholds(draft);
        }
        if draft.waits_until().is_none() {
            draft.status.waiting = None;
        }
        return;
    }
    if draft.status.stop.as_ref().is_some_and(|stop| rules::stays_stopped(stop, draft.generation())) {
        draft.status.waiting = None;
        return;
    }
    match rules::refresh_thresholds(draft) {
        rules::Refreshed::Yes => {}
        rules::Refreshed::ReadFirst => return draft.act(Action::ReadConfiguration),
        rules::Refreshed::Invalid(why) => return draft.wait_for(WaitReason::ConfigInvalid, why),
    }
    if let Some(stop) = rules::stop(&draft.status, draft.generation()) {
        draft.status.stop = Some(stop);
        draft.status.waiting = None;
        return;
    }
    draft.status.stop = None;
    if let Some(until) = draft.waits_until() {
        draft.requeue_at(until);
    } else if observed.configuration.paused {
        draft.wait_for(WaitReason::Paused, "");
    } else if draft.status.start_time.is_some() {
        start_iteration(draft);
    } else {
        start_first_iteration(draft);
    }
}

fn start_first_iteration(draft: &mut Draft<'_>) {
    match &draft.observed.previous_pod {
        PreviousPod::Unknown => draft.act(Action::ListPreviousPods),
        PreviousPod::Pod(name) => {
            draft.wait_for(
                WaitReason::PreviousPodRunning,
                format!("pod {name} of a previous task with this name is still running"),
            );
            draft.requeue_after(PREVIOUS_POD_INTERVAL);
        }
        PreviousPod::None => start_iteration(draft),
    }
}

fn start_iteration(draft: &mut Draft<'_>) {
    let task = draft.observed.task;
    let iteration = draft.status.iterations.saturating_add(1);
    let attempt = draft.status.next_attempt;
    draft.status.active = Some(ActiveIteration {
        iteration,
        attempt,
        pod_name: pod_name(&task.name_any(), &draft.uid(), iteration, attempt),
        generation: draft.generation(),
        orphaned: false,
    });
    draft.status.waiting = None;
    draft.status.start_time.get_or_insert(Time(whole_second(draft.observed.now)));
    draft.act(Action::CreatePod);
}

/// Deletes the task when its time to live is over.
fn expire(draft: &mut Draft<'_>) {
    let Some(seconds) = draft.observed.task.spec.ttl_seconds_after_succeeded else { return };
    let Some(completed) = draft.status.completion_time.clone() else { return };
    // The sum is later than any representable time: the task is kept.
    let Ok(due) = completed.0.checked_add(SignedDuration::from_secs(seconds.into())) else { return };
    if draft.observed.now >= due {
        draft.act(Action::DeleteTask);
    } else {
        draft.requeue_at(due);
    }
}
