//! The cleanup of an orphan, a pod whose task is gone: a machine like [`TaskSync`](super::TaskSync).
//!
//! Its own writes wake it again, often before the cache shows them. It then uses the answers to these writes, because a
//! second write would be in vain.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

use super::memory::{KnownOrphan, OrphanMemory};
use super::{Environment, Failure, Handles};
use crate::decide::Action;

/// How often a pod with our finalizer is checked while its task exists but is not in the cache. No watch event of the
/// pod shows that the task is gone, and a pod that has ended may never change again.
pub const ORPHAN_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A pod that is checked because its task is not in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrphanSync<H: Handles> {
    /// The newest known version of the pod.
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
    /// Delete the pod. Answered by [`OrphanResponse::Pod`] if the pod stays because of its finalizer, else by
    /// [`OrphanResponse::Done`].
    DeletePod(H::PodId),
    /// Remove our finalizer from the pod. Answered by [`OrphanResponse::Pod`].
    RemoveFinalizer {
        /// The pod.
        pod: H::PodId,
        /// It has ended.
        has_ended: bool,
    },
}

/// The answer of the shell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrphanResponse<H: Handles> {
    /// The task exists.
    TaskExists,
    /// The task is gone. Another task may have its name.
    TaskIsGone,
    /// The write succeeded: the pod as it is now.
    Pod(H::Pod),
    /// The write succeeded: the pod is gone.
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
pub trait OrphanEnvironment<H: Handles>: Environment<H> {
    /// Whether the pod has our finalizer.
    fn has_finalizer(&self, pod: &H::Pod) -> bool;
    /// How long the pod is still reserved for another release that served its task.
    fn reserved_for(&self, pod: &H::Pod) -> Option<Duration>;
    /// The actions on a pod without a task ([`stop_all`](crate::decide::stop_all)).
    fn stop(&self, pod: &H::Pod) -> Vec<Action<H::PodId>>;
}

impl<H: Handles> OrphanSync<H> {
    /// Begins a check of a pod that the cache shows, and returns the first step.
    ///
    /// Something is remembered of a pod only if its task was gone: the task is read only if there is something to do.
    pub fn begin<E: OrphanEnvironment<H>>(
        environment: &E,
        memory: &mut OrphanMemory<H>,
        cached: H::Pod,
    ) -> (Self, OrphanStep<H>) {
        let (pod, is_done) = match memory.newest(environment, cached) {
            KnownOrphan::Cached(pod) => (pod, false),
            KnownOrphan::Answered(pod) => {
                let is_done = environment.stop(&pod).is_empty();
                (pod, is_done)
            }
            KnownOrphan::Gone(cached) => (cached, true),
        };
        let sync = Self { pod, has_read: false, actions: VecDeque::new(), had_conflict: false };
        let step = if is_done {
            rest(environment, memory, None)
        } else {
            OrphanStep::Request(OrphanRequest::ReadTask)
        };
        (sync, step)
    }

    /// The newest known version of the pod.
    pub fn pod(&self) -> &H::Pod {
        &self.pod
    }

    /// Takes the answer to the last request, and returns the next step.
    pub fn next<E: OrphanEnvironment<H>>(
        &mut self,
        environment: &E,
        memory: &mut OrphanMemory<H>,
        response: OrphanResponse<H>,
    ) -> OrphanStep<H> {
        match response {
            OrphanResponse::TaskExists => {
                let again = environment.has_finalizer(&self.pod).then_some(ORPHAN_CHECK_INTERVAL);
                return rest(environment, memory, again);
            }
            OrphanResponse::TaskIsGone => {
                if let Some(remaining) = environment.reserved_for(&self.pod) {
                    return rest(environment, memory, Some(remaining));
                }
                self.has_read = true;
                self.actions = environment.stop(&self.pod).into();
            }
            OrphanResponse::Pod(pod) if self.has_read => {
                memory.remember(environment, Some(pod.clone()));
                // Another client may have done what was to be done next.
                let necessary = environment.stop(&pod);
                self.actions.retain(|action| necessary.contains(action));
                self.pod = pod;
            }
            OrphanResponse::Done | OrphanResponse::Failed(Failure::NotFound) if self.has_read => {
                memory.remember(environment, None);
                return rest(environment, memory, None);
            }
            // Another pod has the name, or the server gave up on a patch because of concurrent writes.
            OrphanResponse::Failed(Failure::Conflict) => self.had_conflict = true,
            OrphanResponse::Pod(_) | OrphanResponse::Done | OrphanResponse::Failed(_) => {
                return OrphanStep::Failed;
            }
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
        if self.had_conflict { OrphanStep::Failed } else { rest(environment, memory, None) }
    }
}

/// Ends a check. If an answer is remembered, the pod is checked again when it is forgotten: if the cache still shows
/// something to do then, the cache is right.
fn rest<H: Handles, E: OrphanEnvironment<H>>(
    environment: &E,
    memory: &OrphanMemory<H>,
    after: Option<Duration>,
) -> OrphanStep<H> {
    OrphanStep::Done(after.into_iter().chain(memory.expires_after(environment)).min())
}
