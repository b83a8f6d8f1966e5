//! What can happen to a request, and which requests are writes.

use agentloop_core::sync::{OrphanRequest, Request, UninstallRequest};

use crate::handles::Modelled;
use crate::state::{Budget, ModelState};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    Answered,
    /// A write is carried out, a read arrives; the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// The sender gives up on it; it is carried out later.
    Delayed,
    /// The API server refuses to create the object.
    Refused,
    /// The API server gives up on the patch: a conflict, although no other pod has the name.
    PatchConflict,
}

/// What can happen to a request depends on its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// It is not sent to the API server.
    Internal,
    Read,
    Write,
    PodPatch,
    CreatePod,
    /// It is never delayed: a PVC that is created late is empty, and has an old generation, so the next iteration
    /// corrects its owner.
    CreatePvc,
}

impl RequestKind {
    pub fn of(request: &Request<Modelled>) -> Self {
        match request {
            Request::Gather => Self::Internal,
            Request::ReadEvents(_)
            | Request::ReadTask
            | Request::ConfirmTask
            | Request::ReadConfiguration
            | Request::ListPreviousPods
            | Request::ReadPod
            | Request::ReadPvc => Self::Read,
            Request::WriteStatus { .. }
            | Request::SetPvcOwner(_)
            | Request::DeletePod(_)
            | Request::DeleteTask(_) => Self::Write,
            Request::RemoveSchedulingGate(_) | Request::AddFinalizer(_) | Request::RemoveFinalizer { .. } => {
                Self::PodPatch
            }
            Request::CreatePod => Self::CreatePod,
            Request::CreatePvc => Self::CreatePvc,
        }
    }

    pub fn of_orphan(request: &OrphanRequest<Modelled>) -> Self {
        match request {
            OrphanRequest::ReadTask => Self::Read,
            OrphanRequest::DeletePod(_) => Self::Write,
            OrphanRequest::RemoveFinalizer { .. } => Self::PodPatch,
        }
    }

    pub fn of_uninstall(request: &UninstallRequest<Modelled>) -> Self {
        match request {
            UninstallRequest::Pause => Self::Internal,
            UninstallRequest::ListPods | UninstallRequest::ListTasks | UninstallRequest::ReadTask(_) => {
                Self::Read
            }
            UninstallRequest::WriteStatus { .. } => Self::Write,
            UninstallRequest::RemoveFinalizer(_) => Self::PodPatch,
        }
    }

    /// Everything that can happen to such a request now.
    pub fn outcomes(self, budget: &Budget, mut out: impl FnMut(RequestOutcome)) {
        out(RequestOutcome::Answered);
        if self == Self::Internal {
            return;
        }
        if matches!(self, Self::CreatePod | Self::CreatePvc) && budget.refusals > 0 {
            out(RequestOutcome::Refused);
        }
        if self == Self::PodPatch && budget.patch_conflicts > 0 {
            out(RequestOutcome::PatchConflict);
        }
        if budget.lost > 0 {
            out(RequestOutcome::RequestLost);
            if self != Self::Read {
                out(RequestOutcome::AnswerLost);
            }
        }
        if budget.delayed > 0 && !matches!(self, Self::Read | Self::CreatePvc) {
            out(RequestOutcome::Delayed);
        }
    }
}

/// Takes this outcome out of the budget.
pub fn spend(state: &mut ModelState, outcome: RequestOutcome) {
    let budget = &mut state.budget;
    match outcome {
        RequestOutcome::Answered => {}
        RequestOutcome::AnswerLost | RequestOutcome::RequestLost => budget.lost -= 1,
        RequestOutcome::Delayed => budget.delayed -= 1,
        RequestOutcome::Refused => budget.refusals -= 1,
        RequestOutcome::PatchConflict => budget.patch_conflicts -= 1,
    }
}
