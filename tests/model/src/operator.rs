//! An operator: its caches around the machine that the real one drives (`agentloop_core::sync`). Each request is one
//! transition, and any of them can be lost, come late or be refused.

use agentloop_core::sync::{Failure, NextStep, Request, Response, SyncOutcome, TaskSync};

use crate::api::{
    Attempt, KnownConfiguration, ModelPod, ModelPodId, OperatorId, TaskVersion, WorkspacePolicy, WriteRequest,
};
use crate::decision::Decider;
use crate::environment::OperatorView;
use crate::handles::Modelled;
use crate::invariants;
use crate::requests::{RequestKind, RequestOutcome};
use crate::server::{self, ServerResponse};
use crate::state::{ModelOperator, ModelState, PendingReconcile};
use crate::statuses::{self, active_attempt};
use crate::variants::Variant;

/// A reconcile begins, if the operator has a reason for one.
pub fn begin(state: &mut ModelState, decider: &Decider, id: OperatorId) {
    let operator = &mut state.operators[id];
    operator.woken = false;
    operator.timer = false;
    if operator.task.task.is_none() {
        return;
    }
    let mut memory = std::mem::take(&mut operator.memory);
    let view = OperatorView::of(decider, operator);
    let mut sync = TaskSync::new(&view, &mut memory, operator.task, operator.configuration);
    let next = sync.next(&view, &mut memory, Response::Done);
    operator.memory = memory;
    advance(operator, sync, next);
}

/// Whether the operator has a reason to reconcile.
pub fn may_begin(operator: &ModelOperator) -> bool {
    operator.reconcile.is_none() && (operator.woken || operator.timer) && operator.task.task.is_some()
}

/// What the operator asks for next.
pub fn next_request(operator: &ModelOperator) -> Option<&Request<Modelled>> {
    operator.reconcile.as_ref().map(|reconcile| &reconcile.request)
}

/// The operator sends its next request, and its machine takes the answer.
pub fn perform_next(state: &mut ModelState, decider: &Decider, id: OperatorId, outcome: RequestOutcome) {
    let Some(reconcile) = state.operators[id].reconcile.take() else { return };
    let PendingReconcile { mut sync, request } = *reconcile;
    let mut response = perform(state, decider.variant, id, &sync, &request, outcome);
    if let Response::Configuration(_) = response {
        let index = state.config_map;
        observe_config_map(&mut state.operators[id], decider, index, true);
        let known = state.operators[id].configuration;
        response = Response::Configuration(KnownConfiguration { consistent: true, ..known });
    }
    let operator = &mut state.operators[id];
    let mut memory = std::mem::take(&mut operator.memory);
    let next = sync.next(&OperatorView::of(decider, operator), &mut memory, response);
    operator.memory = memory;
    advance(operator, sync, next);
}

fn advance(operator: &mut ModelOperator, sync: TaskSync<Modelled>, next: NextStep<Modelled>) {
    match next {
        NextStep::Request(request) => {
            operator.reconcile = Some(Box::new(PendingReconcile { sync, request }));
        }
        NextStep::Finished(SyncOutcome::Done(after)) => operator.timer |= after.is_some(),
        NextStep::Finished(SyncOutcome::Failed | SyncOutcome::NotConverged) => operator.woken = true,
    }
}

fn perform(
    state: &mut ModelState,
    variant: Variant,
    id: OperatorId,
    sync: &TaskSync<Modelled>,
    request: &Request<Modelled>,
    outcome: RequestOutcome,
) -> Response<Modelled> {
    let task = *sync.task();
    if let Some(write) = write_of(request, task) {
        if let Some(of) = pod_of(state, &write) {
            invariants::check_pod_write(state, id, of);
        }
        return send_write(state, variant, write, outcome);
    }
    if RequestKind::of(request) == RequestKind::Read && outcome != RequestOutcome::Answered {
        return Response::Failed(Failure::Lost);
    }
    let uid = task.task.map(|task| task.uid);
    let not_found = Response::Failed(Failure::NotFound);
    match request {
        Request::ConfirmTask if variant == Variant::StartUnconfirmed => Response::Task(task),
        Request::ReadTask | Request::ConfirmTask => {
            let is_same = uid.is_some() && state.task.task.map(|now| now.uid) == uid;
            if is_same { Response::Task(state.task) } else { not_found }
        }
        Request::ReadConfiguration => Response::Configuration(state.operators[id].configuration),
        Request::ListPreviousPods => Response::PreviousPod(previous_pod(state, variant, uid)),
        Request::ReadPod => {
            let active = task.task.as_ref().and_then(active_attempt);
            match active.and_then(|of| state.pod_named(of).copied()) {
                Some(pod) => {
                    let foreign = pod.foreign && variant != Variant::ForeignPodAdopted;
                    Response::Pod(ModelPod { foreign, ..pod })
                }
                None => not_found,
            }
        }
        Request::ReadPvc => {
            state.pvcs.iter().find(|pvc| Some(pvc.task) == uid).map_or(not_found, |pvc| Response::Pvc(*pvc))
        }
        _ => Response::Done,
    }
}

/// A list from the API server itself, of pods that have the task's name in their labels.
fn previous_pod(state: &ModelState, variant: Variant, own: Option<u8>) -> Option<String> {
    let is_previous = |pod: &&ModelPod| {
        let may_run =
            !pod.has_ended() && (!pod.has_scheduling_gate || variant != Variant::GatedPreviousPodsIgnored);
        !pod.foreign && Some(pod.of.task) != own && may_run
    };
    let found = state.pods.iter().find(is_previous);
    found.filter(|_| variant != Variant::PreviousPodsIgnored).map(|_| "previous".to_owned())
}

/// The write that a request is.
fn write_of(request: &Request<Modelled>, task: TaskVersion) -> Option<WriteRequest> {
    let of_task = task.task?;
    let is_owned = of_task.spec.workspace == WorkspacePolicy::Delete;
    let generation = of_task.generation;
    Some(match request {
        Request::WriteStatus { task, status } => WriteRequest::Status {
            uid: of_task.uid,
            version: task.version,
            before: task.task?.status,
            after: *status,
        },
        Request::CreatePvc => WriteRequest::CreatePvc { task: of_task.uid, is_owned, generation },
        Request::SetPvcOwner(pvc) => {
            WriteRequest::SetPvcOwner { task: pvc.task, version: pvc.version, is_owned, generation }
        }
        Request::CreatePod => WriteRequest::CreatePod {
            of: active_attempt(&of_task)?,
            template: of_task.spec.template,
            goal: of_task.spec.goal,
        },
        Request::RemoveSchedulingGate(pod) => WriteRequest::RemoveSchedulingGate(*pod),
        Request::AddFinalizer(pod) => WriteRequest::AddFinalizer(*pod),
        Request::DeletePod(pod) => WriteRequest::DeletePod(*pod),
        Request::RemoveFinalizer { pod, .. } => WriteRequest::RemoveFinalizer(*pod),
        _ => return None,
    })
}

/// The attempt whose pod a write is about.
fn pod_of(state: &ModelState, write: &WriteRequest) -> Option<Attempt> {
    match write {
        WriteRequest::CreatePod { of, .. } => Some(*of),
        WriteRequest::RemoveSchedulingGate(ModelPodId { uid, .. })
        | WriteRequest::AddFinalizer(ModelPodId { uid, .. })
        | WriteRequest::DeletePod(ModelPodId { uid, .. })
        | WriteRequest::RemoveFinalizer(ModelPodId { uid, .. }) => state.pod(*uid).map(|pod| pod.of),
        _ => None,
    }
}

/// Carries out a write, or not, and returns what its sender learns of it.
pub fn send_write(
    state: &mut ModelState,
    variant: Variant,
    write: WriteRequest,
    outcome: RequestOutcome,
) -> Response<Modelled> {
    let lost = Response::Failed(Failure::Lost);
    let response = match outcome {
        RequestOutcome::RequestLost => return lost,
        RequestOutcome::Delayed => {
            state.delayed_writes.push(write);
            return lost;
        }
        RequestOutcome::Refused => {
            let message = "exceeded quota".to_owned();
            return Response::Failed(Failure::Rejected { code: 403, message });
        }
        RequestOutcome::PatchConflict => ServerResponse::Conflict,
        RequestOutcome::Answered | RequestOutcome::AnswerLost => server::commit(state, variant, write),
    };
    if outcome == RequestOutcome::AnswerLost {
        return lost;
    }
    match (response, write) {
        (ServerResponse::Task(read), _) => Response::Task(read),
        (ServerResponse::Pod(pod), _) => Response::Pod(pod),
        (ServerResponse::Done, _) => Response::Done,
        (ServerResponse::NotFound, _) => Response::Failed(Failure::NotFound),
        (ServerResponse::Conflict, WriteRequest::Status { uid, before, after, .. })
            if variant == Variant::BlindRetry =>
        {
            // The same patch once more, with the version that is there now.
            let Some(now) = state.task.task.filter(|now| now.uid == uid) else {
                return Response::Failed(Failure::NotFound);
            };
            let after = statuses::merged(now.status, before, after).unwrap_or(now.status);
            let version = state.task.version;
            let again = WriteRequest::Status { uid, version, before: now.status, after };
            match server::commit(state, variant, again) {
                ServerResponse::Task(read) => Response::Task(read),
                _ => Response::Failed(Failure::Conflict),
            }
        }
        (ServerResponse::Conflict, write) => {
            let is_status = matches!(write, WriteRequest::Status { .. } | WriteRequest::Mark { .. });
            let is_hidden = variant == Variant::PodConflictTakenForNotFound && !is_status;
            Response::Failed(if is_hidden { Failure::NotFound } else { Failure::Conflict })
        }
        (ServerResponse::Exists, _) => Response::Failed(Failure::Exists),
        (ServerResponse::Invalid, _) => Response::Failed(Failure::Other),
    }
}

/// A version of the ConfigMap was observed: by the watch, or by a read.
pub fn observe_config_map(operator: &mut ModelOperator, decider: &Decider, index: u8, consistent: bool) {
    let known = &mut operator.configuration;
    if !consistent && index < known.newest {
        return;
    }
    known.newest = index;
    if !decider.config(index).is_invalid {
        known.last_valid = index + 1;
    }
    known.consistent = consistent && decider.variant == Variant::ConsistentReadNeverExpires;
}
