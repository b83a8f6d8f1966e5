//! The cleanup of an orphan, a pod whose task is gone: a machine like [`TaskSync`](super::TaskSync).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

use super::{Failure, Handles};
use crate::decide::Action;

/// How often a pod with our finalizer is checked while its task exists. No watch event of the pod shows that the task
/// is gone, and a pod that has ended may never change again.
pub const ORPHAN_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A pod that is checked because its task is not in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrphanSync<H: Handles> {
    /// The pod as it was observed.
    pod: H::Pod,
    has_read: bool,
    actions: VecDeque<Action<H::PodId>>,
    had_conflict: bool,
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrphanRequest<H: Handles> {
    /// Read the pod's task from the API server, because a cache may lag.
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

/// The answer of the shell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrphanResponse {
    /// The task exists.
    TaskExists,
    /// The task is gone. Another task may have its name.
    TaskIsGone,
    /// The write succeeded.
    Done,
    /// The request did not succeed.
    Failed(Failure),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrphanStep<H: Handles> {
    /// The shell must carry out this request.
    Request(OrphanRequest<H>),
    /// There is nothing to do until the pod changes or this time has passed.
    Done(Option<Duration>),
    /// A request failed: the check is tried again with a growing delay.
    Failed,
}

/// Gives access to the pod behind a handle.
pub trait OrphanEnvironment<H: Handles> {
    /// Whether the pod has our finalizer.
    fn has_finalizer(&self, pod: &H::Pod) -> bool;
    /// How long the pod is still reserved for another release that served its task.
    fn reserved_for(&self, pod: &H::Pod) -> Option<Duration>;
    /// The actions on a pod without a task ([`stop_all`](crate::decide::stop_all)).
    fn stop(&self, pod: &H::Pod) -> Vec<Action<H::PodId>>;
}

impl<H: Handles> OrphanSync<H> {
    /// Begins a check of this pod.
    pub fn new(pod: H::Pod) -> Self {
        Self { pod, has_read: false, actions: VecDeque::new(), had_conflict: false }
    }

    /// The pod as it was observed.
    pub fn pod(&self) -> &H::Pod {
        &self.pod
    }

    /// The first request.
    pub fn first(&self) -> OrphanRequest<H> {
        OrphanRequest::ReadTask
    }

    /// When a pod whose task exists is checked again.
    pub fn while_task_exists<E: OrphanEnvironment<H>>(environment: &E, pod: &H::Pod) -> Option<Duration> {
        environment.has_finalizer(pod).then_some(ORPHAN_CHECK_INTERVAL)
    }

    /// Takes the answer to the last request, and returns the next step.
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
                if let Some(remaining) = environment.reserved_for(&self.pod) {
                    return OrphanStep::Done(Some(remaining));
                }
                self.has_read = true;
                self.actions = environment.stop(&self.pod).into();
            }
            // The pod is gone.
            OrphanResponse::Done | OrphanResponse::Failed(Failure::NotFound) if self.has_read => {}
            // Another pod has the name, or the server gave up on a patch because of concurrent writes.
            OrphanResponse::Failed(Failure::Conflict) => self.had_conflict = true,
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
        if self.had_conflict { OrphanStep::Failed } else { OrphanStep::Done(None) }
    }
}
