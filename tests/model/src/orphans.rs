//! The cleanup of orphaned pods: what wakes it, around the machine that the real operator drives.

use agentloop_core::sync::{
    Failure, OrphanEnvironment, OrphanMemory, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync, Response,
};

use crate::api::{ModelPod, OperatorId, WriteRequest};
use crate::decision::Decider;
use crate::environment::OperatorView;
use crate::handles::Modelled;
use crate::operator;
use crate::requests::RequestOutcome;
use crate::state::{ModelOperator, ModelState, PendingOrphanCheck};
use crate::variants::Variant;

/// A pod has changed. There is nothing to do if the cache has its task.
pub fn observe_pod(operator: &mut ModelOperator, decider: &Decider, pod: &ModelPod) {
    let uid = pod.uid;
    let is_checked_again = OperatorView::of(decider, operator).has_finalizer(pod);
    operator.orphans_to_check.retain(|known| *known != uid);
    operator.orphans_to_recheck.retain(|known| *known != uid);
    let has_task = operator.task.task.is_some_and(|task| task.uid == pod.of.task);
    if !has_task {
        insert(&mut operator.orphans_to_check, uid);
    } else if is_checked_again {
        // It is checked again once the task leaves the cache.
        insert(&mut operator.orphans_to_recheck, uid);
    }
}

/// Pods whose task has left the cache are checked again, and pods that are gone are forgotten. A pod of which an answer
/// is remembered waits until the answer is forgotten.
pub fn recheck(operator: &mut ModelOperator) {
    let pods = operator.pods.clone();
    let is_cached = |uid: &u8| pods.iter().any(|pod| pod.uid == *uid);
    operator.orphans_to_check.retain(is_cached);
    operator.orphans_to_recheck.retain(is_cached);
    operator.orphan_memories.retain(|uid, _| is_cached(uid));
    let task = operator.task.task.map(|task| task.uid);
    let has_task = |uid: &u8| pods.iter().any(|pod| pod.uid == *uid && Some(pod.of.task) == task);
    let waits = |uid: &u8| has_task(uid) || operator.orphan_memories.contains_key(uid);
    let (stay, go): (Vec<u8>, Vec<u8>) = operator.orphans_to_recheck.drain(..).partition(waits);
    operator.orphans_to_recheck = stay;
    operator.orphans_to_check.extend(go);
    operator.orphans_to_check.sort_unstable();
}

/// Whether the operator remembers answers that it may forget.
pub fn may_forget(operator: &ModelOperator, decider: &Decider) -> bool {
    !operator.orphan_memories.is_empty() && decider.variant != Variant::OrphanAnswersKept
}

/// The answers are old: the pods about which they were are checked again.
pub fn forget_answers(operator: &mut ModelOperator, decider: &Decider) {
    if may_forget(operator, decider) {
        operator.orphan_memories.clear();
        recheck(operator);
    }
}

/// The check of the next pod begins, usually with a read of its task.
pub fn begin(operator: &mut ModelOperator, decider: &Decider) {
    if operator.orphans_to_check.is_empty() {
        return;
    }
    let uid = operator.orphans_to_check.remove(0);
    // The check decides when the next one is due.
    operator.orphans_to_recheck.retain(|known| *known != uid);
    let Some(pod) = operator.pods.iter().find(|pod| pod.uid == uid).copied() else { return };
    let mut memory = operator.orphan_memories.remove(&uid).unwrap_or_default();
    let (sync, step) = OrphanSync::begin(&OperatorView::of(decider, operator), &mut memory, pod);
    advance(operator, sync, step, memory);
}

/// The check continues, or is over.
fn advance(
    operator: &mut ModelOperator,
    sync: OrphanSync<Modelled>,
    step: OrphanStep<Modelled>,
    memory: OrphanMemory<Modelled>,
) {
    let uid = sync.pod().uid;
    // A pod that has left the cache needs nothing more.
    let is_cached = operator.pods.iter().any(|known| known.uid == uid);
    if is_cached && !memory.is_empty() {
        operator.orphan_memories.insert(uid, memory);
    }
    match step {
        OrphanStep::Request(request) => {
            operator.orphan_check = Some(Box::new(PendingOrphanCheck { sync, request }));
        }
        OrphanStep::Done(Some(_)) if is_cached => insert(&mut operator.orphans_to_recheck, uid),
        OrphanStep::Failed if is_cached => insert(&mut operator.orphans_to_check, uid),
        OrphanStep::Done(_) | OrphanStep::Failed => {}
    }
}

pub fn may_begin(operator: &ModelOperator) -> bool {
    operator.orphan_check.is_none() && !operator.orphans_to_check.is_empty()
}

/// What the check asks for next.
pub fn next_request(operator: &ModelOperator) -> Option<&OrphanRequest<Modelled>> {
    operator.orphan_check.as_ref().map(|check| &check.request)
}

/// The operator sends the next request of its check, and its machine takes the answer.
pub fn perform_next(state: &mut ModelState, decider: &Decider, id: OperatorId, outcome: RequestOutcome) {
    let Some(check) = state.operators[id].orphan_check.take() else { return };
    let PendingOrphanCheck { mut sync, request } = *check;
    let pod = *sync.pod();
    let write = match &request {
        OrphanRequest::ReadTask => None,
        OrphanRequest::DeletePod(pod) => Some(WriteRequest::DeletePod(*pod)),
        OrphanRequest::RemoveFinalizer { pod, .. } => Some(WriteRequest::RemoveFinalizer(*pod)),
    };
    let response = match write {
        Some(write) => match operator::send_write(state, decider.variant, write, outcome) {
            Response::Failed(failure) => OrphanResponse::Failed(failure),
            Response::Pod(pod) => OrphanResponse::Pod(pod),
            _ => OrphanResponse::Done,
        },
        None if outcome != RequestOutcome::Answered => OrphanResponse::Failed(Failure::Lost),
        None => {
            let cached = state.operators[id].task;
            let from_cache = decider.variant == Variant::OrphansJudgedByCache;
            let shown = if from_cache { cached } else { state.task };
            let exists = shown.task.is_some_and(|task| task.uid == pod.of.task);
            if exists { OrphanResponse::TaskExists } else { OrphanResponse::TaskIsGone }
        }
    };
    let operator = &mut state.operators[id];
    let mut memory = operator.orphan_memories.remove(&pod.uid).unwrap_or_default();
    let step = sync.next(&OperatorView::of(decider, operator), &mut memory, response);
    advance(operator, sync, step, memory);
}

fn insert(pods: &mut Vec<u8>, uid: u8) {
    if !pods.contains(&uid) {
        pods.push(uid);
        pods.sort_unstable();
    }
}
