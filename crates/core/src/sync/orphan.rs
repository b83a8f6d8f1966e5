//! The removal of a pod whose task is gone, as a machine like [`TaskSync`](super::TaskSync).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

use super::{Failure, Handles};
use crate::decide::Action;

/// How often a pod that has our finalizer is looked at while its task is there: nothing tells that the task has gone,
/// and a pod that has ended may never change again.
pub const ORPHAN_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A pod that is looked at because the cache does not show its task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrphanSync<H: Handles> {
    /// The pod, as it was seen.
    pod: H::Pod,
    has_read: bool,
    actions: VecDeque<Action<H::PodId>>,
    met_a_conflict: bool,
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrphanRequest<H: Handles> {
    /// Is the pod's task there? Only the API server itself can say: a cache may lag.
    ReadTask,
    /// Delete the pod.
    DeletePod(H::PodId),
    /// Remove our finalizer from the pod.
    RemoveFinalizer {
        /// The pod.
        pod: H::PodId,
        /// It has ended.
        has_ended: bool,
    },
}

/// What the shell answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrphanResponse {
    /// The task is there.
    TaskExists,
    /// There is no such task, or another one has its name.
    TaskIsGone,
    /// The write is done.
    Done,
    /// The request did not succeed.
    Failed(Failure),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrphanStep<H: Handles> {
    /// The shell carries this out.
    Request(OrphanRequest<H>),
    /// Nothing more is to be done before the pod changes, or this time is over.
    Done(Option<Duration>),
    /// Something failed: tried again, each time later.
    Failed,
}

/// Looks behind the handle of a pod.
pub trait OrphanEnvironment<H: Handles> {
    /// The pod has our finalizer.
    fn has_finalizer(&self, pod: &H::Pod) -> bool;
    /// How long the pod is still left to another release that served its task.
    fn reserved_for(&self, pod: &H::Pod) -> Option<Duration>;
    /// What is done to a pod without a task ([`stop_all`](crate::decide::stop_all)).
    fn stop(&self, pod: &H::Pod) -> Vec<Action<H::PodId>>;
}

impl<H: Handles> OrphanSync<H> {
    /// Begins.
    pub fn new(pod: H::Pod) -> Self {
        Self { pod, has_read: false, actions: VecDeque::new(), met_a_conflict: false }
    }

    /// The pod, as it was seen.
    pub fn pod(&self) -> &H::Pod {
        &self.pod
    }

    /// The first request.
    pub fn first(&self) -> OrphanRequest<H> {
        OrphanRequest::ReadTask
    }

    /// When a pod whose task is there is looked at again.
    pub fn while_task_exists<E: OrphanEnvironment<H>>(environment: &E, pod: &H::Pod) -> Option<Duration> {
        environment.has_finalizer(pod).then_some(ORPHAN_CHECK_INTERVAL)
    }

    /// Takes the answer to the last request, and says what comes next.
    pub fn next<E: OrphanEnvironment<H>>(
        &mut self,
        environment: &E,
        response: &OrphanResponse,
    ) -> OrphanStep<H> {
        match response {
            OrphanResponse::TaskExists => {
                return OrphanStep::Done(Self::while_task_exists(environment, &self.pod));
            }
            OrphanResponse::TaskIsGone => {
                if let Some(left) = environment.reserved_for(&self.pod) {
                    return OrphanStep::Done(Some(left));
                }
                self.has_read = true;
                self.actions = environment.stop(&self.pod).into();
            }
            // Gone: it needs nothing more.
            OrphanResponse::Done | OrphanResponse::Failed(Failure::NotFound) if self.has_read => {}
            // Another pod has the name, or the server gave up on a patch that others kept overtaking.
            OrphanResponse::Failed(Failure::Conflict) if self.has_read => self.met_a_conflict = true,
            OrphanResponse::Done | OrphanResponse::Failed(_) => return OrphanStep::Failed,
        }
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::DeletePod(pod) => return OrphanStep::Request(OrphanRequest::DeletePod(pod)),
                Action::RemoveFinalizer { pod, has_ended } => {
                    return OrphanStep::Request(OrphanRequest::RemoveFinalizer { pod, has_ended });
                }
                _ => {}
            }
        }
        if self.met_a_conflict { OrphanStep::Failed } else { OrphanStep::Done(None) }
    }
}
