//! The workspace's PersistentVolumeClaim: created before the first pod, and owned by the task if and only if it is to
//! be deleted with the task.
//!
//! An owner is set only after a read of the task that is younger than the read of the PVC. If another operator acts on
//! a newer spec, either that read shows the newer spec, or its write changes the version of the PVC and ours fails.

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Check<H: Handles> {
    purpose: Purpose,
    part: Part<H>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part<H: Handles> {
    Read,
    Create,
    /// The read of the task that a change of its owner is confirmed by.
    Confirm(H::Pvc),
    SetOwner,
}

impl<H: Handles> Check<H> {
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
        check: Check<H>,
        response: Response<H>,
    ) -> Option<(Act<H>, Request<H>)> {
        let Check { purpose, part } = check;
        let go = |part: Part<H>, request| Some((Act::Pvc(Check { purpose, part }), request));
        match (part, response) {
            (Part::Read, Response::Pvc(pvc)) if !environment.has_right_owner(&self.task, &pvc) => {
                return go(Part::Confirm(pvc), Request::ConfirmTask);
            }
            (Part::Read, Response::Failed(Failure::NotFound)) if purpose == Purpose::CreatePod => {
                return go(Part::Create, Request::CreatePvc);
            }
            (Part::Confirm(pvc), Response::Task(task)) => {
                let decided_on = environment.generation(&self.task);
                let active = environment.active(&self.task);
                self.read(environment, memory, task);
                let is_same = environment.generation(&self.task) == decided_on
                    && environment.active(&self.task) == active;
                if is_same {
                    return go(Part::SetOwner, Request::SetPvcOwner(pvc));
                }
                self.decide_again = true;
                return None;
            }
            // The task is gone, and takes its PVC along if it still owns it.
            (Part::Confirm(_), Response::Failed(Failure::NotFound)) => return None,
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
