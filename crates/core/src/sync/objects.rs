//! What the machine knows of the objects that it names: handles, and an environment that looks behind them.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use jiff::SignedDuration;

use crate::decide::{Action, PreviousPod};
use crate::facts::{Obstacle, Relation};

/// How objects are named. The operator names them by shared pointers, the model by small numbers.
pub trait Handles: Clone + Debug + Eq + Hash {
    /// One version of a task.
    type Task: Clone + Debug + Eq + Hash;
    /// A status that was decided and is not written yet.
    type Status: Clone + Debug + Eq + Hash;
    /// The iteration that a task's status shows as active: equal if and only if it is the same attempt.
    type Active: Clone + Debug + Eq + Hash;
    /// One version of a pod.
    type Pod: Clone + Debug + Eq + Hash;
    /// A pod, whatever its version: name and uid.
    type PodId: Clone + Debug + Eq + Hash;
    /// One version of the workspace's PersistentVolumeClaim.
    type Pvc: Clone + Debug + Eq + Hash;
    /// What is known of the operator's configuration.
    type Configuration: Clone + Debug + Eq + Hash;
    /// A moment.
    type Time: Clone + Debug + Eq + Hash;
}

/// What one decision rests on.
#[derive(Debug)]
pub struct Gathered<'a, H: Handles> {
    /// The task, as new as it is known.
    pub task: &'a H::Task,
    /// Its pods, as new as they are known.
    pub pods: &'a [H::Pod],
    /// The configuration.
    pub configuration: &'a H::Configuration,
    /// What the Events of the active pod report.
    pub obstacle: Option<&'a Obstacle>,
    /// Whether a pod of a previous task of the same name still runs.
    pub previous_pod: &'a PreviousPod,
    /// Why the active pod could not be created just now.
    pub refused: Option<&'a Obstacle>,
    /// This process has removed the scheduling gate of the active pod.
    pub was_started: bool,
    /// A read made just now shows no pod of the active iteration's name.
    pub pod_is_gone: bool,
    /// This process has checked the owner of the workspace's PVC against this generation of the spec.
    pub pvc_is_checked: bool,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Decided<H: Handles> {
    /// The status to write first, if it differs from the one that was read.
    pub status: Option<H::Status>,
    /// What to do after that, in this order.
    pub actions: Vec<Action<H::PodId>>,
    /// When to decide again even if nothing is seen to change.
    pub requeue_after: Option<Duration>,
}

/// Looks behind handles, and at the caches and the clock. It does no I/O and holds no rule of its own: it calls the
/// rules of this crate with the objects that the handles name.
pub trait Environment<H: Handles> {
    /// The decision ([`decide`](crate::decide::decide)).
    fn decide(&self, gathered: &Gathered<'_, H>) -> Decided<H>;

    /// The pods in the cache that bear this task's uid.
    fn cached_pods(&self, task: &H::Task) -> Vec<H::Pod>;
    /// The active pod, if its status has been silent for so long that its Events are worth reading.
    fn silent_pod(&self, task: &H::Task, pods: &[H::Pod]) -> Option<H::PodId>;

    /// Whether both are versions of one task, and `one` is newer than `other`.
    fn is_newer_task(&self, one: &H::Task, other: &H::Task) -> bool;
    /// The spec's generation.
    fn generation(&self, task: &H::Task) -> i64;
    /// The active iteration.
    fn active(&self, task: &H::Task) -> Option<H::Active>;
    /// The name of the active iteration's pod, for messages.
    fn active_pod_name(&self, task: &H::Task) -> String;
    /// Whether the task may start this pod now ([`decide::may_start`](crate::decide::may_start)).
    fn may_start(&self, task: &H::Task, pod: &H::PodId) -> bool;

    /// Whether the pod bears this task's uid.
    fn belongs_to(&self, pod: &H::Pod, task: &H::Task) -> bool;
    /// Whether both are versions of one pod.
    fn is_same_pod(&self, one: &H::Pod, other: &H::Pod) -> bool;
    /// Whether `one` is the newer of two versions of one pod.
    fn is_newer_pod(&self, one: &H::Pod, other: &H::Pod) -> bool;
    /// Whether this is a version of that pod.
    fn is_version_of(&self, pod: &H::Pod, id: &H::PodId) -> bool;
    /// What this pod, which has the active iteration's name, is to the task.
    fn relation(&self, task: &H::Task, pod: &H::Pod) -> Relation;
    /// Nothing of the pod runs, or ever will.
    fn has_ended(&self, pod: &H::Pod) -> bool;
    /// The pod is being deleted and nothing holds it: the next thing that is heard of it is that it is gone.
    fn is_being_removed(&self, pod: &H::Pod) -> bool;

    /// Whether the task asks for a PVC of its own.
    fn wants_pvc(&self, task: &H::Task) -> bool;
    /// The name of that PVC, for messages.
    fn pvc_name(&self, task: &H::Task) -> String;
    /// Whether the PVC's owner is what this version of the task, or a newer one, asks for
    /// ([`pod::is_pvc_owner_settled`](crate::pod::is_pvc_owner_settled)).
    fn is_owner_settled(&self, task: &H::Task, pvc: &H::Pvc) -> bool;

    /// A newer version of the task was read: what was read of the configuration before may be older than what the
    /// task's status knows.
    fn mark_stale(&self, configuration: &mut H::Configuration);

    /// Now.
    fn now(&self) -> H::Time;
    /// How long ago that was.
    fn since(&self, time: &H::Time) -> SignedDuration;
    /// The reconcile has taken so long that it is to begin nothing new.
    fn is_late(&self) -> bool;
}
