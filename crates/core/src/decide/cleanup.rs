//! Pods other than the active one: settled pods lose their finalizer, and pods that appear too late are stopped.

use super::{
    draft::Draft,
    types::{Action, Decision},
};
use crate::facts::PodFacts;

/// Stops every pod of a task that is gone or being deleted, and removes the finalizer of each pod that has ended.
pub fn stop_all(pods: &[PodFacts]) -> Decision {
    let mut decision = Decision::default();
    for pod in pods {
        if pod.deletion.is_none() {
            decision.actions.push(Action::DeletePod(pod.into()));
        }
        if pod.has_finalizer && pod.ended().is_some() {
            decision.actions.push(Action::RemoveFinalizer { pod: pod.into(), has_ended: true });
        }
    }
    decision
}

/// Removes the finalizer of pods whose outcome is recorded in the status, and stops pods that appear too late.
///
/// A pod that is newer than the status is left alone, because then the status is out of date.
pub(super) fn clean_up_settled_pods(draft: &mut Draft<'_>) {
    let uid = draft.uid();
    let status = &draft.status;
    let next =
        status.active.as_ref().map_or((status.iterations.saturating_add(1), status.next_attempt), |active| {
            (active.iteration, active.attempt)
        });
    let mut settled: Vec<&PodFacts> = draft
        .observed
        .pods
        .iter()
        .filter(|pod| pod.belongs_to(&uid) && (pod.iteration, pod.attempt) < next)
        .collect();
    settled.sort_by_key(|pod| std::cmp::Reverse((pod.iteration, pod.attempt)));
    let limit = draft.observed.task.spec.pod_history_limit();
    for (place, pod) in settled.into_iter().enumerate() {
        let has_ended = pod.ended().is_some();
        if has_ended && pod.has_finalizer {
            draft.act(Action::RemoveFinalizer { pod: pod.into(), has_ended: true });
        }
        if pod.deletion.is_none() && (!has_ended || place >= limit) {
            draft.act(Action::DeletePod(pod.into()));
        }
    }
}
