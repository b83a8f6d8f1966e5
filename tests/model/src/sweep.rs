//! The removal of orphaned pods: what wakes it, around the machine that the real operator drives.

use agentloop_core::sync::{
    Failure, OrphanEnvironment, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync, Response,
};

use crate::decision::Decider;
use crate::handles::{Modelled, Sight};
use crate::operator::{self, Fate};
use crate::state::{Operator, Pod, PodId, Request, State, Sweep, Who};
use crate::variants::Variant;

/// The sweep is told of a pod: nothing to do where the cache has its task.
pub fn tell(operator: &mut Operator, decider: &Decider, pod: &Pod) {
    let uid = pod.uid;
    let looks_again = Sight::of(decider, operator).has_finalizer(pod);
    operator.to_sweep.retain(|known| *known != uid);
    operator.sweep_later.retain(|known| *known != uid);
    let has_task = operator.task.task.is_some_and(|task| task.uid == pod.of.task);
    if !has_task {
        operator.to_sweep.push(uid);
        operator.to_sweep.sort_unstable();
    } else if looks_again {
        // Nothing tells the sweep when the task goes.
        operator.sweep_later.push(uid);
        operator.sweep_later.sort_unstable();
    }
}

/// Pods that were to be looked at again, now that the cache has lost their task; those that are gone are
/// forgotten.
pub fn look_again(operator: &mut Operator) {
    let pods = operator.pods.clone();
    operator.to_sweep.retain(|uid| pods.iter().any(|pod| pod.uid == *uid));
    operator.sweep_later.retain(|uid| pods.iter().any(|pod| pod.uid == *uid));
    let task = operator.task.task.map(|task| task.uid);
    let has_task = |uid: &u8| pods.iter().any(|pod| pod.uid == *uid && Some(pod.of.task) == task);
    let (stay, go): (Vec<u8>, Vec<u8>) = operator.sweep_later.drain(..).partition(has_task);
    operator.sweep_later = stay;
    operator.to_sweep.extend(go);
    operator.to_sweep.sort_unstable();
}

/// The next sweep begins: with a read of the task.
pub fn begin(operator: &mut Operator) {
    if operator.to_sweep.is_empty() {
        return;
    }
    let uid = operator.to_sweep.remove(0);
    let Some(pod) = operator.pods.iter().find(|pod| pod.uid == uid).copied() else { return };
    let sync = OrphanSync::new(pod);
    let request = sync.first();
    operator.sweep = Some(Box::new(Sweep { sync, request }));
}

pub fn may_begin(operator: &Operator) -> bool {
    operator.sweep.is_none() && !operator.to_sweep.is_empty()
}

/// What the sweep asks for next.
pub fn next(operator: &Operator) -> Option<&OrphanRequest<Modelled>> {
    operator.sweep.as_ref().map(|sweep| &sweep.request)
}

/// Whether a request is a write, which can be delayed.
pub fn is_write(request: &OrphanRequest<Modelled>) -> bool {
    !matches!(request, OrphanRequest::ReadTask)
}

/// The sweep carries out its next request, with this fate, and its machine takes the answer.
pub fn step(state: &mut State, decider: &Decider, who: Who, fate: Fate) {
    let Some(sweep) = state.operators[who].sweep.take() else { return };
    let Sweep { mut sync, request } = *sweep;
    let pod = *sync.pod();
    let write = match &request {
        OrphanRequest::ReadTask => None,
        OrphanRequest::DeletePod(PodId { uid: pod, of }) => Some(Request::Delete { pod: *pod, of: *of }),
        OrphanRequest::RemoveFinalizer { pod: PodId { uid: pod, of }, .. } => {
            Some(Request::Release { pod: *pod, of: *of })
        }
    };
    let response = match write {
        Some(write) => match operator::commit(state, decider.variant, write, fate) {
            Response::Failed(failure) => OrphanResponse::Failed(failure),
            _ => OrphanResponse::Done,
        },
        None if fate != Fate::Answered => OrphanResponse::Failed(Failure::Lost),
        None => {
            let cached = state.operators[who].task;
            let from_cache = decider.variant == Variant::SweepFromCache;
            let shown = if from_cache { cached } else { state.task };
            let is_there = shown.task.is_some_and(|task| task.uid == pod.of.task);
            if is_there { OrphanResponse::TaskExists } else { OrphanResponse::TaskIsGone }
        }
    };
    let operator = &mut state.operators[who];
    let step = sync.next(&Sight::of(decider, operator), &response);
    match step {
        OrphanStep::Request(request) => operator.sweep = Some(Box::new(Sweep { sync, request })),
        OrphanStep::Done(None) => {}
        OrphanStep::Done(Some(_)) => remember(&mut operator.sweep_later, pod.uid),
        OrphanStep::Failed => {
            if operator.pods.iter().any(|known| known.uid == pod.uid) {
                remember(&mut operator.to_sweep, pod.uid);
            }
        }
    }
}

fn remember(pods: &mut Vec<u8>, uid: u8) {
    if !pods.contains(&uid) {
        pods.push(uid);
        pods.sort_unstable();
    }
}
