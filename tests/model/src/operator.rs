//! An operator: its caches around the machine that the real one drives (`agentloop_core::sync`). Each request is one
//! step, and any of them can be lost, come late or be refused.

use agentloop_core::sync::{Failure, NextStep, Request, Response, SyncOutcome, TaskSync};

use crate::decision::Decider;
use crate::handles::{Modelled, Sight, active};
use crate::invariants;
use crate::server::{self, Reply};
use crate::state::{self, Attempt, Operator, Pod, PodId, Run, State, Who, Workspace};
use crate::statuses;
use crate::variants::Variant;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Answered,
    /// Done, or for a read just asked; the answer is lost.
    AnswerLost,
    /// Never arrives.
    Lost,
    /// The operator gives up on it; it arrives later.
    Delayed,
    /// The API server refuses the pod.
    Refused,
    /// The API server gives up on the patch: a conflict, though no other pod has the name.
    Overtaken,
}

/// A reconcile begins, if the operator has reason for one.
pub fn begin(state: &mut State, decider: &Decider, who: Who) {
    let operator = &mut state.operators[who];
    operator.woken = false;
    operator.timer = false;
    if operator.task.task.is_none() {
        return;
    }
    let mut memory = std::mem::take(&mut operator.memory);
    let sight = Sight::of(decider, operator);
    let mut sync = TaskSync::new(&sight, &mut memory, operator.task, operator.settings);
    let step = sync.next(&sight, &mut memory, Response::Done);
    operator.memory = memory;
    go_on(operator, sync, step);
}

/// Whether the operator has reason to look at the task.
pub fn may_begin(operator: &Operator) -> bool {
    operator.run.is_none() && (operator.woken || operator.timer) && operator.task.task.is_some()
}

/// What the operator asks for next.
pub fn next(operator: &Operator) -> Option<&Request<Modelled>> {
    operator.run.as_ref().map(|run| &run.request)
}

/// Whether a request goes to the API server at all.
pub fn is_sent(request: &Request<Modelled>) -> bool {
    !matches!(request, Request::Gather)
}

/// Whether a request is a write, which can be delayed.
pub fn is_write(request: &Request<Modelled>) -> bool {
    match request {
        Request::Gather
        | Request::ReadEvents(_)
        | Request::ReadTask
        | Request::ConfirmTask
        | Request::ReadConfiguration
        | Request::ListPreviousPods
        | Request::ReadPod
        | Request::ReadPvc => false,
        Request::WriteStatus { .. }
        | Request::CreatePvc
        | Request::SetPvcOwner(_)
        | Request::CreatePod
        | Request::RemoveSchedulingGate(_)
        | Request::AddFinalizer(_)
        | Request::RemoveFinalizer { .. }
        | Request::DeletePod(_)
        | Request::DeleteTask(_) => true,
    }
}

/// Whether a request is a patch of a pod, which needs no version and may be overtaken all the same.
pub fn is_pod_patch(request: &Request<Modelled>) -> bool {
    matches!(
        request,
        Request::RemoveSchedulingGate(_) | Request::AddFinalizer(_) | Request::RemoveFinalizer { .. }
    )
}

/// The operator carries out the next request, with this fate, and its machine takes the answer.
pub fn step(state: &mut State, decider: &Decider, who: Who, fate: Fate) {
    let Some(run) = state.operators[who].run.take() else { return };
    let Run { mut sync, request } = *run;
    let response = perform(state, decider.variant, who, &sync, &request, fate);
    if let (Request::ReadConfiguration, Response::Configuration(_)) = (&request, &response) {
        let place = state.settings;
        take_settings(&mut state.operators[who], decider, place, true);
    }
    let response = match response {
        Response::Configuration(_) => Response::Configuration(crate::state::Settings {
            consistent: true,
            ..state.operators[who].settings
        }),
        other => other,
    };
    let operator = &mut state.operators[who];
    let mut memory = std::mem::take(&mut operator.memory);
    let step = sync.next(&Sight::of(decider, operator), &mut memory, response);
    operator.memory = memory;
    go_on(operator, sync, step);
}

fn go_on(operator: &mut Operator, sync: TaskSync<Modelled>, step: NextStep<Modelled>) {
    match step {
        NextStep::Request(request) => operator.run = Some(Box::new(Run { sync, request })),
        NextStep::Finished(SyncOutcome::Done(after)) => operator.timer |= after.is_some(),
        NextStep::Finished(SyncOutcome::Failed | SyncOutcome::NotConverged) => operator.woken = true,
    }
}

fn perform(
    state: &mut State,
    variant: Variant,
    who: Who,
    sync: &TaskSync<Modelled>,
    request: &Request<Modelled>,
    fate: Fate,
) -> Response<Modelled> {
    let task = *sync.task();
    if let Some(write) = write_of(request, task) {
        if let Some(of) = pod_of(state, &write) {
            invariants::check_pod_write(state, who, of);
        }
        return commit(state, variant, write, fate);
    }
    if is_sent(request) && fate != Fate::Answered {
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
        Request::ReadConfiguration => Response::Configuration(state.operators[who].settings),
        Request::ListPreviousPods => Response::PreviousPod(previous_pod(state, variant, uid)),
        Request::ReadPod => match task.task.as_ref().and_then(active).and_then(|of| state.named(of).copied())
        {
            Some(pod) => {
                Response::Pod(Pod { foreign: pod.foreign && variant != Variant::ForeignAdopted, ..pod })
            }
            None => not_found,
        },
        Request::ReadPvc => {
            state.pvcs.iter().find(|pvc| Some(pvc.task) == uid).map_or(not_found, |pvc| Response::Pvc(*pvc))
        }
        _ => Response::Done,
    }
}

/// A list from the API server itself, of pods that bear the task's name.
fn previous_pod(state: &State, variant: Variant, own: Option<u8>) -> Option<String> {
    let is_previous = |pod: &&Pod| {
        let may_run = !pod.has_ended() && (!pod.gated || variant != Variant::GatedEarlierIgnored);
        !pod.foreign && Some(pod.of.task) != own && may_run
    };
    let found = state.pods.iter().find(is_previous);
    found.filter(|_| variant != Variant::EarlierIgnored).map(|_| "previous".to_owned())
}

/// The write that a request is.
fn write_of(request: &Request<Modelled>, task: state::Read) -> Option<state::Request> {
    let of_task = task.task?;
    let is_owned = of_task.spec.workspace == Workspace::Deleted;
    let generation = of_task.generation;
    Some(match request {
        Request::WriteStatus { task, status } => state::Request::Status {
            uid: of_task.uid,
            version: task.version,
            before: task.task?.status,
            after: *status,
        },
        Request::CreatePvc => state::Request::CreatePvc { task: of_task.uid, is_owned, generation },
        Request::SetPvcOwner(pvc) => {
            state::Request::SetPvcOwner { task: pvc.task, version: pvc.version, is_owned, generation }
        }
        Request::CreatePod => state::Request::Create {
            of: active(&of_task)?,
            template: of_task.spec.template,
            goal: of_task.spec.goal,
        },
        other => return pod_write(other),
    })
}

/// The write on a pod that is there already.
fn pod_write(request: &Request<Modelled>) -> Option<state::Request> {
    Some(match request {
        Request::RemoveSchedulingGate(PodId { uid: pod, of }) => state::Request::Start { pod: *pod, of: *of },
        Request::AddFinalizer(PodId { uid: pod, of }) => state::Request::Hold { pod: *pod, of: *of },
        Request::DeletePod(PodId { uid: pod, of }) => state::Request::Delete { pod: *pod, of: *of },
        Request::RemoveFinalizer { pod: PodId { uid: pod, of }, .. } => {
            state::Request::Release { pod: *pod, of: *of }
        }
        _ => return None,
    })
}

/// The attempt whose pod a write is about.
fn pod_of(state: &State, write: &state::Request) -> Option<Attempt> {
    match write {
        state::Request::Create { of, .. } => Some(*of),
        state::Request::Start { pod, .. }
        | state::Request::Hold { pod, .. }
        | state::Request::Delete { pod, .. }
        | state::Request::Release { pod, .. } => state.pod(*pod).map(|pod| pod.of),
        _ => None,
    }
}

/// Does a write, or not, and says what the operator hears of it.
pub fn commit(state: &mut State, variant: Variant, write: state::Request, fate: Fate) -> Response<Modelled> {
    let lost = Response::Failed(Failure::Lost);
    let reply = match fate {
        Fate::Lost => return lost,
        Fate::Delayed => {
            state.late.push(write);
            return lost;
        }
        Fate::Refused => {
            let message = "exceeded quota".to_owned();
            return Response::Failed(Failure::Rejected { code: 403, message });
        }
        Fate::Overtaken => Reply::Conflict,
        Fate::Answered | Fate::AnswerLost => server::commit(state, variant, write),
    };
    if fate == Fate::AnswerLost {
        return lost;
    }
    match (reply, write) {
        (Reply::Task(read), _) => Response::Task(read),
        (Reply::Pod(pod), _) => Response::Pod(pod),
        (Reply::Done, _) => Response::Done,
        (Reply::NotFound, _) => Response::Failed(Failure::NotFound),
        (Reply::Conflict, state::Request::Status { uid, before, after, .. })
            if variant == Variant::BlindRetry =>
        {
            // The same patch once more, with the version that is there now.
            let Some(now) = state.task.task.filter(|now| now.uid == uid) else {
                return Response::Failed(Failure::NotFound);
            };
            let after = statuses::merged(now.status, before, after);
            let again =
                state::Request::Status { uid, version: state.task.version, before: now.status, after };
            match server::commit(state, variant, again) {
                Reply::Task(read) => Response::Task(read),
                _ => Response::Failed(Failure::Conflict),
            }
        }
        (Reply::Conflict, write) => {
            let is_status = matches!(write, state::Request::Status { .. });
            let is_hidden = variant == Variant::ConflictIsDone && !is_status;
            Response::Failed(if is_hidden { Failure::NotFound } else { Failure::Conflict })
        }
        (Reply::Exists, _) => Response::Failed(Failure::Exists),
        (Reply::Invalid, _) => Response::Failed(Failure::Other),
    }
}

/// A version of the settings was seen: by the watch, or by a read.
pub fn take_settings(operator: &mut Operator, decider: &Decider, place: u8, consistent: bool) {
    let known = &mut operator.settings;
    if !consistent && place < known.newest {
        return;
    }
    known.newest = place;
    if !decider.config(place).bad {
        known.last_good = place + 1;
    }
    known.consistent = consistent && decider.variant == Variant::ConsistencyRemembered;
}
