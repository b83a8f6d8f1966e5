//! Handles, by which the machine names objects, and the environment that gives access to the objects.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use jiff::SignedDuration;

use crate::decide::{Action, PreviousPod};
use crate::facts::{Obstacle, Relation};

/// How objects are named: by shared pointers in the operator, by small numbers in the model.
pub trait Handles: Clone + Debug + Eq + Hash {
    /// One version of a task.
    type Task: Clone + Debug + Eq + Hash;
    /// A status that is decided but not written yet.
    type Status: Clone + Debug + Eq + Hash;
    /// The active iteration in a status. Two are equal if and only if they are the same attempt.
    type Active: Clone + Debug + Eq + Hash;
    /// One version of a pod.
    type Pod: Clone + Debug + Eq + Hash;
    /// A pod without its version: name and uid.
    type PodId: Clone + Debug + Eq + Hash;
    /// One version of the workspace PVC.
    type Pvc: Clone + Debug + Eq + Hash;
    /// The known configuration of the operator.
    type Configuration: Clone + Debug + Eq + Hash;
    /// A point in time.
    type Time: Clone + Debug + Eq + Hash;
}

/// The input of one decision.
#[derive(Debug)]
pub struct Gathered<'a, H: Handles> {
    /// The newest known version of the task.
    pub task: &'a H::Task,
    /// The newest known versions of its pods.
    pub pods: &'a [H::Pod],
    /// The configuration.
    pub configuration: &'a H::Configuration,
    /// The obstacle that the Events of the active pod report.
    pub obstacle: Option<&'a Obstacle>,
    /// Whether a pod of a previous task with the same name is still running.
    pub previous_pod: &'a PreviousPod,
    /// Why the active pod could not be created just now.
    pub refused: Option<&'a Obstacle>,
    /// This process has removed the scheduling gate of the active pod.
    pub was_started: bool,
    /// A read made just now shows no pod with the name of the active pod.
    pub pod_is_gone: bool,
    /// This process has checked the owner of the workspace PVC against this generation of the spec.
    pub pvc_is_checked: bool,
}

/// A decision, with handles.
#[derive(Clone, Debug)]
pub struct Decided<H: Handles> {
    /// The status to write first, if it differs from the one that was read.
    pub status: Option<H::Status>,
    /// The actions after that, in this order.
    pub actions: Vec<Action<H::PodId>>,
    /// When to decide again even if nothing changes.
    pub requeue_after: Option<Duration>,
}

/// Gives access to the objects behind handles, to the caches and to the clock. It does no I/O and contains no rules: it
/// calls the rules of this crate with the objects that the handles name.
pub trait Environment<H: Handles> {
    /// The decision ([`decide`](crate::decide::decide)).
    fn decide(&self, gathered: &Gathered<'_, H>) -> Decided<H>;

    /// The cached pods that are labelled with this task's uid.
    fn cached_pods(&self, task: &H::Task) -> Vec<H::Pod>;
    /// The active pod, if it has been silent for so long that its Events should be read.
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

    /// Whether the pod is labelled with this task's uid.
    fn belongs_to(&self, pod: &H::Pod, task: &H::Task) -> bool;
    /// Whether both are versions of one pod.
    fn is_same_pod(&self, one: &H::Pod, other: &H::Pod) -> bool;
    /// Whether `one` is the newer of two versions of one pod.
    fn is_newer_pod(&self, one: &H::Pod, other: &H::Pod) -> bool;
    /// Whether this is a version of that pod.
    fn is_version_of(&self, pod: &H::Pod, id: &H::PodId) -> bool;
    /// The relation of this pod, which has the name of the active pod, to the task.
    fn relation(&self, task: &H::Task, pod: &H::Pod) -> Relation;
    /// Whether the pod has ended: nothing in it runs or ever will.
    fn has_ended(&self, pod: &H::Pod) -> bool;
    /// Whether the pod is being deleted and has no finalizer, so that it is about to disappear.
    fn is_being_removed(&self, pod: &H::Pod) -> bool;

    /// Whether the task has a volumeClaimTemplate.
    fn wants_pvc(&self, task: &H::Task) -> bool;
    /// The name of that PVC, for messages.
    fn pvc_name(&self, task: &H::Task) -> String;
    /// Whether the owner of the PVC is what this version of the task, or a newer one, requires
    /// ([`pod::is_pvc_owner_settled`](crate::pod::is_pvc_owner_settled)).
    fn is_owner_settled(&self, task: &H::Task, pvc: &H::Pvc) -> bool;

    /// Marks the configuration as possibly stale. A newer version of the task was read, and its status may have been
    /// written with a newer configuration.
    fn mark_stale(&self, configuration: &mut H::Configuration);

    /// The current time.
    fn now(&self) -> H::Time;
    /// The time elapsed since `time`.
    fn since(&self, time: &H::Time) -> SignedDuration;
    /// Whether the reconcile has taken so long that it must not begin anything new.
    fn is_late(&self) -> bool;
}
