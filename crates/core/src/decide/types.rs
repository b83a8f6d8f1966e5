//! The input of a decision, and the decision.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{AgentTask, AgentTaskStatus},
    facts::{Obstacle, PodFacts},
    pod::Injection,
    settings::Configuration,
};

/// The complete input of a decision.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The task as it was read; the status is written with its resourceVersion.
    pub task: &'a AgentTask,
    /// Every pod that this task controls.
    pub pods: &'a [PodFacts],
    /// The operator's configuration.
    pub configuration: &'a Configuration,
    /// How new pods get the runner.
    pub injection: &'a Injection,
    /// The obstacle that the Events of the active pod report, if its status reports none.
    pub obstacle: Option<Obstacle>,
    /// Whether a pod of a previous task with the same name is still running.
    pub previous_pod: PreviousPod,
    /// Why the active pod could not be created just now.
    pub refused: Option<Obstacle>,
    /// This process has removed the scheduling gate of the active pod. A restart of the operator forgets it; it can
    /// only lead to an additional charge.
    pub was_started: bool,
    /// A read from the API server, made just now, shows no pod with the name of the active pod.
    pub is_gone: bool,
    /// This process has checked the owner of the workspace PVC against this generation of the spec. A restart of the
    /// operator forgets it.
    pub pvc_is_checked: bool,
    /// The time.
    pub now: Timestamp,
}

/// Whether a pod of a previous task with the same name is still running. Both tasks may use the same workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PreviousPod {
    /// Not checked yet.
    #[default]
    Unknown,
    /// A consistent list shows none.
    None,
    /// This pod is still running.
    Pod(String),
}

/// A decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The status to write, if it differs from the one that was read.
    pub status: Option<AgentTaskStatus>,
    /// What to do once the status is written, in this order.
    pub actions: Vec<Action>,
    /// When to decide again even if nothing changes.
    pub requeue_after: Option<Duration>,
}

/// One action. `P` is how pods are named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action<P = PodRef> {
    /// Read the configuration from the API server, and decide again.
    ReadConfiguration,
    /// List the pods of previous tasks with this name from the API server, and decide again.
    ListPreviousPods,
    /// Read the active pod from the API server, and decide again.
    ReadPod,
    /// Create the active pod, with our scheduling gate.
    CreatePod,
    /// Remove our scheduling gate from the active pod, after a consistent read confirms that the iteration is active.
    RemoveSchedulingGate(P),
    /// Add our finalizer to a pod that lost it.
    AddFinalizer(P),
    /// Delete a pod, because it must stop or is no longer needed.
    DeletePod(P),
    /// Remove our finalizer from a settled pod.
    RemoveFinalizer {
        /// The pod.
        pod: P,
        /// It has ended: its prompt and context are no longer needed.
        has_ended: bool,
    },
    /// Check that the task owns the workspace PVC if and only if the PVC must be deleted with the task.
    CheckPvcOwner,
    /// Delete the task, because its time to live is over.
    DeleteTask,
}

impl<P> Action<P> {
    /// Whether this action may be carried out although `failed`, which comes before it, failed. Only an action that
    /// stops a pod or removes its finalizer may, because the written status requires it whatever happens to the rest.
    /// And it must be on another pod, because the order of actions on one pod matters: a pod that lost our finalizer is
    /// neither deleted nor started before it has the finalizer again.
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

    /// The pod that this action is about. The active pod has no uid before it is created.
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

    /// The same action with pods named differently.
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

    /// Whether this is a read, after which the decision is made again.
    pub fn is_a_read(&self) -> bool {
        matches!(self, Self::ReadConfiguration | Self::ListPreviousPods | Self::ReadPod)
    }
}

/// A pod by name and uid. Every write names both.
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
