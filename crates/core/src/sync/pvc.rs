//! The workspace's PersistentVolumeClaim: created before the first pod, and owned by the task if and only if it is to
//! be deleted with the task.
//!
//! The PVC bears the generation of the spec that its owner was set by. An older generation never replaces a newer one,
//! and every write is bound to the version of the PVC that was read: so a write that comes late, or from an operator
//! whose caches lag, fails.

use super::{Act, Environment, Failure, Handles, Memory, Request, Response, TaskSync};

/// What the PVC is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// The pod that mounts it is created next.
    CreatePod,
    /// Only its owner is checked.
    Owner,
}

/// A look at the PVC under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Check {
    purpose: Purpose,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Read,
    Create,
    SetOwner,
}

impl Check {
    /// Begins with [`Request::ReadPvc`].
    pub(super) fn read(purpose: Purpose) -> Self {
        Self { purpose, part: Part::Read }
    }
}

impl<H: Handles> TaskSync<H> {
    pub(super) fn is_pvc_checked<E: Environment<H>>(&self, environment: &E, memory: &Memory<H>) -> bool {
        memory.pvc_checked == Some(environment.generation(&self.task))
    }

    /// A request of the check was answered. Returns what comes next, if anything does before the next action.
    pub(super) fn checked<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        check: Check,
        response: Response<H>,
    ) -> Option<(Act<H>, Request<H>)> {
        let Check { purpose, part } = check;
        let go = |part: Part, request| Some((Act::Pvc(Check { purpose, part }), request));
        match (part, response) {
            (Part::Read, Response::Pvc(pvc)) if !environment.is_owner_settled(&self.task, &pvc) => {
                return go(Part::SetOwner, Request::SetPvcOwner(pvc));
            }
            (Part::Read, Response::Failed(Failure::NotFound)) if purpose == Purpose::CreatePod => {
                return go(Part::Create, Request::CreatePvc);
            }
            (Part::SetOwner, Response::Failed(Failure::Conflict)) => {
                self.refuse(Some(&Failure::Conflict));
                return None;
            }
            (Part::Create, Response::Failed(failure)) if failure != Failure::Exists => {
                let prefix = format!("the workspace's PVC {}: ", environment.pvc_name(&self.task));
                self.not_created(environment, memory, failure, &prefix);
                return None;
            }
            (Part::Read, Response::Pvc(_) | Response::Failed(Failure::NotFound))
            | (Part::Create, Response::Done)
            | (Part::SetOwner, Response::Done | Response::Failed(Failure::NotFound)) => {
                memory.pvc_checked = Some(environment.generation(&self.task));
            }
            // Another operator was faster; whether its owner is right shows at the next look.
            (Part::Create, Response::Failed(_)) => {}
            (_, response) => {
                self.refuse(response.failure());
                return None;
            }
        }
        (purpose == Purpose::CreatePod).then_some((Act::Create, Request::CreatePod))
    }
}
