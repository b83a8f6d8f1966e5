//! The workspace PVC: created before the first pod, and owned by the task if and only if it must be deleted with the
//! task.
//!
//! An annotation of the PVC records the generation of the spec for which its owner was set. An older generation never
//! replaces a newer one, and every write names the resourceVersion of the PVC that was read: so a late write, or one
//! from an operator whose caches lag, fails.

use super::actions::PendingAction;
use super::{Environment, Failure, Handles, Memory, Request, Response, TaskSync};

/// Why the PVC is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// The pod that mounts it is created next.
    CreatePod,
    /// Only its owner is checked.
    Owner,
}

/// A check of the PVC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Check {
    purpose: Purpose,
    step: CheckStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CheckStep {
    Read,
    Create,
    SetOwner,
}

impl Check {
    /// Begins with [`Request::ReadPvc`].
    pub(super) fn read(purpose: Purpose) -> Self {
        Self { purpose, step: CheckStep::Read }
    }
}

impl<H: Handles> TaskSync<H> {
    pub(super) fn is_pvc_checked<E: Environment<H>>(&self, environment: &E, memory: &Memory<H>) -> bool {
        memory.pvc_checked == Some(environment.generation(&self.task))
    }

    /// A request of the check was answered. Returns the next request of this action, if there is one.
    pub(super) fn pvc_answered<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        check: Check,
        response: Response<H>,
    ) -> Option<(PendingAction<H>, Request<H>)> {
        let Check { purpose, step } = check;
        let then = |step: CheckStep, request| Some((PendingAction::Pvc(Check { purpose, step }), request));
        match (step, response) {
            (CheckStep::Read, Response::Pvc(pvc)) if !environment.is_owner_settled(&self.task, &pvc) => {
                return then(CheckStep::SetOwner, Request::SetPvcOwner(pvc));
            }
            (CheckStep::Read, Response::Failed(Failure::NotFound)) if purpose == Purpose::CreatePod => {
                return then(CheckStep::Create, Request::CreatePvc);
            }
            (CheckStep::SetOwner, Response::Failed(Failure::Conflict)) => {
                self.fail_action(Some(&Failure::Conflict));
                return None;
            }
            (CheckStep::Create, Response::Failed(failure)) if failure != Failure::Exists => {
                let prefix = format!("the workspace's PVC {}: ", environment.pvc_name(&self.task));
                self.not_created(environment, memory, failure, &prefix);
                return None;
            }
            (CheckStep::Read, Response::Pvc(_) | Response::Failed(Failure::NotFound))
            | (CheckStep::Create, Response::Done)
            | (CheckStep::SetOwner, Response::Done | Response::Failed(Failure::NotFound)) => {
                memory.pvc_checked = Some(environment.generation(&self.task));
            }
            // Another operator was faster. The next check shows whether the owner is right.
            (CheckStep::Create, Response::Failed(_)) => {}
            (_, response) => {
                self.fail_action(response.failure());
                return None;
            }
        }
        (purpose == Purpose::CreatePod).then_some((PendingAction::Create, Request::CreatePod))
    }
}
