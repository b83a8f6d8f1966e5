//! What the machine asks for, and what it is answered.

use super::objects::Handles;
use crate::facts::Obstacle;

/// One thing that the shell does next: at most one request to the API server. Every write is bound to the version or
/// to the uid that it was decided on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request<H: Handles> {
    /// No request: look at the caches now. Answered by [`Response::Done`].
    Gather,
    /// What do the Events of this pod report? Answered by [`Response::Events`].
    ReadEvents(H::PodId),
    /// Write this status, if the task still is at this version. Answered by [`Response::Task`].
    WriteStatus {
        /// The version that the status was decided on.
        task: H::Task,
        /// The status.
        status: H::Status,
    },
    /// Read the task from the API server. A task of another uid is answered by [`Failure::NotFound`].
    ReadTask,
    /// The same read: a start rests on it.
    ConfirmTask,
    /// Read the configuration from the API server. Answered by [`Response::Configuration`].
    ReadConfiguration,
    /// List the pods of previous tasks of this name from the API server. Answered by [`Response::PreviousPod`].
    ListPreviousPods,
    /// Read the pod of the active iteration's name from the API server. Answered by [`Response::Pod`].
    ReadPod,
    /// Read the workspace's PVC from the API server. Answered by [`Response::Pvc`].
    ReadPvc,
    /// Create the workspace's PVC. Answered by [`Response::Done`].
    CreatePvc,
    /// Make the task the owner of the PVC, or remove the task from its owners, if the PVC still is at this version.
    /// Answered by [`Response::Done`].
    SetPvcOwner(H::Pvc),
    /// Create the pod of the active iteration: with our scheduling gate and our finalizer. Answered by
    /// [`Response::Pod`].
    CreatePod,
    /// Remove our scheduling gate from a pod: it starts. Answered by [`Response::Pod`].
    RemoveSchedulingGate(H::PodId),
    /// Add our finalizer to a pod. Answered by [`Response::Pod`].
    AddFinalizer(H::PodId),
    /// Remove our finalizer from a pod. Answered by [`Response::Pod`].
    RemoveFinalizer {
        /// The pod.
        pod: H::PodId,
        /// It has ended: its prompt and context go with the finalizer.
        has_ended: bool,
    },
    /// Delete a pod. Answered by [`Response::Pod`] if the pod stays for its finalizer, else by [`Response::Done`].
    DeletePod(H::PodId),
    /// Delete the task at this version. Answered by [`Response::Done`].
    DeleteTask(H::Task),
}

/// What the shell answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Response<H: Handles> {
    /// It is done.
    Done,
    /// The task.
    Task(H::Task),
    /// The pod.
    Pod(H::Pod),
    /// The PVC.
    Pvc(H::Pvc),
    /// The configuration.
    Configuration(H::Configuration),
    /// A pod of a previous task that still runs, by name.
    PreviousPod(Option<String>),
    /// What Events report.
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
    /// An object of this name is there already.
    Exists,
    /// The object has changed, another object has its name, or the server gave up on a patch that others kept
    /// overtaking.
    Conflict,
    /// No answer came within this many seconds. A write may have happened.
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
    /// The request cannot be built: the template is broken, in these words.
    Unbuildable(String),
    /// Anything else: tried again later.
    Other,
}

impl Failure {
    /// Nobody knows whether the write happened: read and compare before anything else.
    ///
    /// What the server rejected is no such case, whatever the code: it fails again at once as a rule, so it takes the
    /// way of all errors, with a back-off. Only a 504 says that the server, or a proxy before it, gave up on a request
    /// that may still be carried out.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Lost | Self::Rejected { code: 504, .. })
    }
}
