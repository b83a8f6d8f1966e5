//! The requests of the machine and their answers.

use super::objects::Handles;
use crate::facts::Obstacle;

/// What the shell does next: at most one request to the API server. Every write names the version or the uid that it
/// was decided on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request<H: Handles> {
    /// No request: read the caches now. Answered by [`Response::Done`].
    Gather,
    /// Read the Events of this pod. Answered by [`Response::Events`].
    ReadEvents(H::PodId),
    /// Write this status, if the task is still at this version. Answered by [`Response::Task`].
    WriteStatus {
        /// The version that the status was decided on.
        task: H::Task,
        /// The status.
        status: H::Status,
    },
    /// Read the task from the API server. A task with another uid is answered by [`Failure::NotFound`].
    ReadTask,
    /// The same read, to confirm that a pod may be started.
    ConfirmTask,
    /// Read the configuration from the API server. Answered by [`Response::Configuration`].
    ReadConfiguration,
    /// List the pods of previous tasks with this name from the API server. Answered by [`Response::PreviousPod`].
    ListPreviousPods,
    /// Read the pod with the name of the active pod from the API server. Answered by [`Response::Pod`].
    ReadPod,
    /// Read the workspace PVC from the API server. Answered by [`Response::Pvc`].
    ReadPvc,
    /// Create the workspace PVC. Answered by [`Response::Done`].
    CreatePvc,
    /// Make the task the owner of the PVC, or remove the task from its owners, if the PVC is still at this version.
    /// Answered by [`Response::Done`].
    SetPvcOwner(H::Pvc),
    /// Create the active pod, with our scheduling gate and our finalizer. Answered by
    /// [`Response::Pod`].
    CreatePod,
    /// Remove our scheduling gate from a pod, so that it starts. Answered by [`Response::Pod`].
    RemoveSchedulingGate(H::PodId),
    /// Add our finalizer to a pod. Answered by [`Response::Pod`].
    AddFinalizer(H::PodId),
    /// Remove our finalizer from a pod. Answered by [`Response::Pod`].
    RemoveFinalizer {
        /// The pod.
        pod: H::PodId,
        /// It has ended, so its prompt and context are removed too.
        has_ended: bool,
    },
    /// Delete a pod. Answered by [`Response::Pod`] if the pod stays because of its finalizer, else by
    /// [`Response::Done`].
    DeletePod(H::PodId),
    /// Delete the task at this version. Answered by [`Response::Done`].
    DeleteTask(H::Task),
}

/// The answer of the shell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Response<H: Handles> {
    /// The request succeeded.
    Done,
    /// The task.
    Task(H::Task),
    /// The pod.
    Pod(H::Pod),
    /// The PVC.
    Pvc(H::Pvc),
    /// The configuration.
    Configuration(H::Configuration),
    /// The name of a pod of a previous task that is still running.
    PreviousPod(Option<String>),
    /// The obstacle that the Events report.
    Events(Option<Obstacle>),
    /// The request did not succeed.
    Failed(Failure),
}

impl<H: Handles> Response<H> {
    /// Why the request did not succeed.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// There is no such object.
    NotFound,
    /// An object with this name exists already.
    Exists,
    /// The object has changed, another object has its name, or the server gave up on a patch because of concurrent
    /// writes.
    Conflict,
    /// No answer came within this number of seconds. A write may have happened.
    TimedOut(u64),
    /// The answer is lost. A write may have happened.
    Lost,
    /// The server rejected the request.
    Rejected {
        /// The HTTP status code.
        code: u16,
        /// The server's message.
        message: String,
    },
    /// The request cannot be built from the template, for this reason.
    Unbuildable(String),
    /// Another failure: tried again later.
    Other,
}

impl Failure {
    /// Whether it is unknown if the write happened. Then the object must be read before anything else.
    ///
    /// A rejection by the server is not ambiguous: it usually fails again immediately, so it is handled like any error,
    /// with a back-off. The exception is 504: the server, or a proxy in front of it, gave up on a request that may
    /// still be carried out.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Lost | Self::Rejected { code: 504, .. })
    }
}
