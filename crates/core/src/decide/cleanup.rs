//! Pods that are not claimed: settled ones are let go, strays are stopped.

use super::{
    draft::Draft,
    types::{Action, Decision},
};
use crate::facts::PodFacts;

/// Stops every pod of a task that is being deleted, or is gone, and lets each go once it has ended.
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

/// Lets pods go whose outcome the status holds, and stops those that come too late.
///
/// A pod that is newer than the status is left alone: then it is the status that is old.
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
    let kept = draft.observed.task.spec.pod_history_limit();
    for (place, pod) in settled.into_iter().enumerate() {
        let has_ended = pod.ended().is_some();
        if has_ended && pod.has_finalizer {
            draft.act(Action::RemoveFinalizer { pod: pod.into(), has_ended: true });
        }
        if pod.deletion.is_none() && (!has_ended || place >= kept) {
            draft.act(Action::DeletePod(pod.into()));
        }
    }
}
