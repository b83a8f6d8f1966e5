//! The objects of the modelled cluster: small numbers only, so that millions of states fit into memory.

use std::sync::Arc;

/// A status, by its index in the table of all statuses that were ever decided (`statuses.rs`).
pub type StatusId = u32;
/// No status.
pub const NO_STATUS: StatusId = 0;
/// An operator, by its index.
pub type OperatorId = usize;

/// What a user can change in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelSpec {
    /// `maxIterations`; 0 if it is absent.
    pub limit: u8,
    pub suspend: bool,
    /// `resetToken`; 0 if it is absent.
    pub token: u8,
    /// Which of several templates.
    pub template: u8,
    /// Which of several goals, and so what completes the task. It only grows.
    pub goal: u8,
    /// `podHistoryLimit`.
    pub pod_history_limit: u8,
    pub workspace: WorkspacePolicy,
}

impl ModelSpec {
    /// A task of this limit, and nothing special.
    pub const fn of_limit(limit: u8) -> Self {
        let workspace = WorkspacePolicy::None;
        Self { limit, suspend: false, token: 0, template: 0, goal: 0, pod_history_limit: 0, workspace }
    }
}

/// One version of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelTask {
    pub uid: u8,
    pub generation: u8,
    pub spec: ModelSpec,
    pub deleting: bool,
    pub status: StatusId,
}

/// What a read of the task's name shows: a version of the task, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskVersion {
    pub version: u8,
    pub task: Option<ModelTask>,
}

/// One attempt at an iteration of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::struct_field_names, reason = "the attempt's number has this name everywhere")]
pub struct Attempt {
    pub task: u8,
    pub iteration: u8,
    pub attempt: u8,
}

/// Whether the deletion of a pod was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deletion {
    No,
    Requested,
    /// Requested so long ago that its node counts as silent.
    RequestedLongAgo,
}

/// How a pod ended, as its status shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PodEnd {
    /// The agent changed the workspace.
    Changed,
    /// The agent changed nothing.
    Unchanged,
    /// The agent changed something and ended with an error.
    Error,
    /// The completion gate says that the work is done.
    Ready,
    /// The provider refused, and nothing was touched: free.
    Refused,
    /// The provider refused, and the agent touched only what does not count as a change: charged.
    Touched,
    /// The agent wrote a report that the work is done, and had its runner killed.
    Forged,
    /// An exit code that fails the task.
    Fatal,
    /// The agent was told to stop.
    Interrupted,
    /// Killed with its container, without a report.
    Killed,
    /// The agent's container never started: free.
    NeverStarted,
    /// The pod garbage collector wrote the end, because the node is gone.
    CollectedByPodGc,
}

/// The progress of a pod, as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PodProgress {
    Pending,
    Running,
    Ended(PodEnd),
}

/// A pod, as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own in Kubernetes")]
pub struct ModelPod {
    pub uid: u8,
    /// Grows with each change.
    pub version: u8,
    /// The attempt that its name is made from.
    pub of: Attempt,
    /// It belongs to someone else: no owner, none of our labels.
    pub foreign: bool,
    pub has_scheduling_gate: bool,
    pub has_finalizer: bool,
    pub deletion: Deletion,
    pub bound: bool,
    pub template: u8,
    /// The goal that it was created for.
    pub goal: u8,
    pub progress: PodProgress,
}

impl ModelPod {
    /// As the API shows it, nothing of it runs or ever will.
    pub fn has_ended(&self) -> bool {
        matches!(self.progress, PodProgress::Ended(_)) || (self.deletion != Deletion::No && !self.bound)
    }

    /// Its status proves that it cost nothing.
    pub fn is_proven_free(&self) -> bool {
        let is_free_end = matches!(self.progress, PodProgress::Ended(PodEnd::NeverStarted | PodEnd::Refused));
        self.has_ended() && (!self.bound || is_free_end)
    }
}

/// Several pods. Caches with the same content share it.
pub type ModelPods = Arc<Vec<ModelPod>>;

/// A pod, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelPodId {
    pub uid: u8,
    /// The attempt that its name is made from.
    pub of: Attempt,
}

impl From<&ModelPod> for ModelPodId {
    fn from(pod: &ModelPod) -> Self {
        Self { uid: pod.uid, of: pod.of }
    }
}

/// The PVC of a task's workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelPvc {
    /// The task that it was created for: its name contains the task's uid.
    pub task: u8,
    /// Grows with each change.
    pub version: u8,
    /// The task owns it.
    pub is_owned: bool,
    /// The generation of the spec by which its owner was set.
    pub generation: u8,
}

/// What happens to a task's PVC when the task is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkspacePolicy {
    /// There is no PVC.
    None,
    Retain,
    Delete,
}

/// A version of the ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigMapVersion {
    /// `hardLimit` and `defaultMaxIterations`.
    pub hard_limit: u8,
    /// `noChangeThreshold`; tasks name none.
    pub no_change: u8,
    pub paused: bool,
    /// It has a key that is rejected.
    pub is_invalid: bool,
    /// `freeAttempts`: the same in all versions of one scenario.
    pub free_attempts: u8,
}

impl Default for ConfigMapVersion {
    fn default() -> Self {
        Self { hard_limit: 9, no_change: 2, paused: false, is_invalid: false, free_attempts: 20 }
    }
}

/// What an operator knows of the ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KnownConfiguration {
    pub newest: u8,
    /// The last valid version, counted from 1; 0: the defaults.
    pub last_valid: u8,
    pub consistent: bool,
}

/// A write, with its guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WriteRequest {
    /// The version guards. The task's uid is for traces only.
    Status {
        uid: u8,
        version: u8,
        before: StatusId,
        after: StatusId,
    },
    /// An uninstall of this release changes the status.
    Mark {
        release: u8,
        uid: u8,
        version: u8,
        before: StatusId,
        after: StatusId,
    },
    CreatePod {
        of: Attempt,
        template: u8,
        goal: u8,
    },
    RemoveSchedulingGate(ModelPodId),
    AddFinalizer(ModelPodId),
    RemoveFinalizer(ModelPodId),
    DeletePod(ModelPodId),
    CreatePvc {
        task: u8,
        is_owned: bool,
        generation: u8,
    },
    SetPvcOwner {
        task: u8,
        version: u8,
        is_owned: bool,
        generation: u8,
    },
}

/// What really happens on the node of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodExecution {
    pub pod: u8,
    pub agent: AgentProgress,
    /// The node does not report.
    pub is_node_silent: bool,
}

/// An agent on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AgentProgress {
    NotStarted,
    Running,
    Ended,
}

/// An agent that really ran, whatever anyone observed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentRun {
    pub of: Attempt,
    /// The goal that it was given.
    pub goal: u8,
    /// How it ended, as its kubelet reported.
    pub end: Option<PodEnd>,
}

impl AgentRun {
    /// It is proven that it cost nothing.
    pub fn is_free(self) -> bool {
        self.end == Some(PodEnd::Refused)
    }
}
