//! What a decision rests on, and what it consists of.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{AgentTask, AgentTaskStatus},
    facts::{Obstacle, PodFacts},
    pod::Injection,
    settings::Configuration,
};

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The task as it was read; the status is written with its resourceVersion.
    pub task: &'a AgentTask,
    /// Every pod that this task controls.
    pub pods: &'a [PodFacts],
    /// The operator's configuration.
    pub configuration: &'a Configuration,
    /// How the runner gets into pods that are made now.
    pub injection: &'a Injection,
    /// What the Events of the claimed pod tell, where its status tells nothing.
    pub obstacle: Option<Obstacle>,
    /// Whether a pod of an earlier task of the same name still runs.
    pub previous_pod: PreviousPod,
    /// Why the claimed pod could not be created just now.
    pub refused: Option<Obstacle>,
    /// This process has let the claimed pod start. A restart forgets it: it only ever adds a charge.
    pub was_started: bool,
    /// A read from the API server itself, made just now, shows no pod of the claim's name.
    pub is_gone: bool,
    /// This process has checked the owner of the workspace's PVC against this generation of the spec. A restart
    /// forgets it.
    pub pvc_is_checked: bool,
    /// The time.
    pub now: Timestamp,
}

/// Whether a pod of an earlier task of the same name still runs: two may share a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PreviousPod {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// A consistent list shows none.
    None,
    /// This pod does.
    Pod(String),
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The status to write, where it differs from the one that was read.
    pub status: Option<AgentTaskStatus>,
    /// What to do once the status is written, in this order.
    pub actions: Vec<Action>,
    /// When to decide again though nothing is seen to change.
    pub requeue_after: Option<Duration>,
}

/// One thing to do. `P` names a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action<P = PodRef> {
    /// Read the configuration from the API server itself, and decide again.
    ReadConfiguration,
    /// List the pods of earlier tasks of this name from the API server itself, and decide again.
    ListPreviousPods,
    /// Read the claimed pod from the API server itself, and decide again.
    ReadPod,
    /// Create the claimed pod, inert.
    CreatePod,
    /// Take the claimed pod's gate away, once a consistent read confirms the claim.
    RemoveSchedulingGate(P),
    /// Put our finalizer back on a pod that lost it.
    AddFinalizer(P),
    /// Delete a pod: it is to stop, or is not needed any more.
    DeletePod(P),
    /// Take our finalizer off a pod that is settled.
    RemoveFinalizer {
        /// The pod.
        pod: P,
        /// It has ended: its prompt and context are not needed any more.
        has_ended: bool,
    },
    /// Check that the task owns the workspace's PVC if and only if the PVC is to be deleted with it.
    CheckPvcOwner,
    /// Delete the task: its time to live is over.
    DeleteTask,
}

impl<P> Action<P> {
    /// Whether this may still be done after `failed`, which comes before it, was refused. Only what stops a pod or
    /// removes its finalizer may, because the status that is written already calls for it whatever becomes of the rest;
    /// and only on another pod, because the order on one pod matters: a pod that lost our finalizer is neither deleted
    /// nor started before it has it again.
    pub fn may_follow_failed(&self, failed: &Self) -> bool
    where
        P: PartialEq,
    {
        match self {
            Self::DeletePod(pod) | Self::RemoveFinalizer { pod, .. } => {
                !failed.is_a_read() && failed.pod() != Some(pod)
            }
            _ => false,
        }
    }

    /// The pod that this is about; the active one has no uid before it is created.
    fn pod(&self) -> Option<&P> {
        match self {
            Self::RemoveSchedulingGate(pod)
            | Self::AddFinalizer(pod)
            | Self::DeletePod(pod)
            | Self::RemoveFinalizer { pod, .. } => Some(pod),
            Self::ReadConfiguration
            | Self::ListPreviousPods
            | Self::ReadPod
            | Self::CreatePod
            | Self::CheckPvcOwner
            | Self::DeleteTask => None,
        }
    }

    /// The same, with another name for each pod.
    pub fn map<Q>(self, name: impl FnOnce(P) -> Q) -> Action<Q> {
        match self {
            Self::ReadConfiguration => Action::ReadConfiguration,
            Self::ListPreviousPods => Action::ListPreviousPods,
            Self::ReadPod => Action::ReadPod,
            Self::CreatePod => Action::CreatePod,
            Self::RemoveSchedulingGate(pod) => Action::RemoveSchedulingGate(name(pod)),
            Self::AddFinalizer(pod) => Action::AddFinalizer(name(pod)),
            Self::DeletePod(pod) => Action::DeletePod(name(pod)),
            Self::RemoveFinalizer { pod, has_ended } => Action::RemoveFinalizer { pod: name(pod), has_ended },
            Self::CheckPvcOwner => Action::CheckPvcOwner,
            Self::DeleteTask => Action::DeleteTask,
        }
    }

    /// Whether this only reads something, after which the decision is taken again.
    pub fn is_a_read(&self) -> bool {
        matches!(self, Self::ReadConfiguration | Self::ListPreviousPods | Self::ReadPod)
    }
}

/// A pod by name and uid: every write is bound to both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl From<&PodFacts> for PodRef {
    fn from(pod: &PodFacts) -> Self {
        Self { name: pod.name.clone(), uid: pod.uid.clone() }
    }
}
