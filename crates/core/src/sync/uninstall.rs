//! An uninstall, as a machine like [`TaskSync`](super::TaskSync): after it, no pod waits for an operator that is gone.
//!
//! Each round lists the pods that have our finalizer, then marks the active iteration of every task as orphaned, and
//! only then removes the finalizer, from the pods of that list alone. A pod is created only after the status records
//! its iteration. So the iteration of a listed pod either is settled when its task is marked, or is active and is
//! marked. A pod that appears later may be of an iteration that is not marked: an operator of another release, or one
//! that was believed to be stopped, may have started it. The next round lists it, and reads its task again. The rounds
//! end when a list shows no pod that is left to do.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;

use serde_json::{Map, Value, json};

use super::Failure;
use crate::decide::served::Serving;

/// What an uninstall reads of a task. It does not use the API's types: a task that this version cannot decode must be
/// marked as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServedTask {
    /// The release that serves the task.
    pub served_by: Option<String>,
    /// The active iteration.
    pub active: Option<IterationInFlight>,
}

/// What an uninstall reads of an active iteration. What cannot be read is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IterationInFlight {
    /// The iteration.
    pub iteration: i64,
    /// The attempt.
    pub attempt: i64,
    /// The name of its pod.
    pub pod_name: String,
    /// It is marked already.
    pub orphaned: bool,
}

impl ServedTask {
    /// Reads a task's JSON.
    pub fn of(task: &Value) -> Self {
        let active = task.pointer("/status/active").filter(|active| active.is_object());
        Self {
            served_by: task.pointer("/status/servedBy").and_then(Value::as_str).map(str::to_owned),
            active: active.map(IterationInFlight::of),
        }
    }

    /// What an uninstall of this release does to the task.
    pub fn mark(&self, serving: &Serving) -> Mark<Value> {
        let named = self.served_by.as_deref();
        if named.is_some_and(|named| serving.if_other_release(named).is_some()) {
            return Mark::OtherRelease;
        }
        let mut status = Map::new();
        if self.active.as_ref().is_some_and(|active| !active.orphaned) {
            status.insert("active".to_owned(), json!({ "orphaned": true }));
        }
        if named.is_some() {
            status.insert("servedBy".to_owned(), Value::Null);
        }
        if status.is_empty() { Mark::AsItIs } else { Mark::Write(Value::Object(status)) }
    }
}

impl IterationInFlight {
    fn of(active: &Value) -> Self {
        let number = |field| active.get(field).and_then(Value::as_i64).unwrap_or_default();
        Self {
            iteration: number("iteration"),
            attempt: number("attempt"),
            pod_name: active.get("podName").and_then(Value::as_str).unwrap_or_default().to_owned(),
            orphaned: active.get("orphaned").and_then(Value::as_bool).unwrap_or_default(),
        }
    }
}

/// What an uninstall does to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark<S> {
    /// Another release serves the task: neither the task nor its pods are touched.
    OtherRelease,
    /// No iteration is active that is not marked, and no release serves the task: its pods may lose the finalizer.
    AsItIs,
    /// This is written, as one merge patch of the status that is bound to the version that was read: the active
    /// iteration becomes orphaned, so that no later operator creates its pod again, and the release's name is removed,
    /// so that any later installation serves the task.
    Write(S),
}

/// How the objects of an uninstall are named.
pub trait UninstallHandles: Clone + Debug + Eq + Hash {
    /// One version of a task.
    type Task: Clone + Debug + Eq + Hash;
    /// A task, whatever its version: its uid.
    type TaskId: Clone + Debug + Ord + Hash;
    /// A change of a task's status.
    type Status: Clone + Debug + Eq + Hash;
    /// A pod: its name, its uid and the uid of its task.
    type Pod: Clone + Debug + Eq + Hash;
}

/// Looks behind the handles of an uninstall, and at the clock.
pub trait UninstallEnvironment<H: UninstallHandles> {
    /// What is done to this task ([`ServedTask::mark`]).
    fn mark(&self, task: &H::Task) -> Mark<H::Status>;
    /// Which task this is.
    fn id(&self, task: &H::Task) -> H::TaskId;
    /// Which task the pod's label names.
    fn task_of(&self, pod: &H::Pod) -> H::TaskId;
    /// The time for the uninstall is over: nothing that failed is tried again.
    fn is_late(&self) -> bool;
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UninstallRequest<H: UninstallHandles> {
    /// List the pods that have our finalizer, from the API server. Answered by [`UninstallResponse::Pods`].
    ListPods,
    /// List the tasks, from the API server. Answered by [`UninstallResponse::Tasks`].
    ListTasks,
    /// Write this into the status, if the task still is at this version. Answered by [`UninstallResponse::Done`].
    WriteStatus {
        /// The version that it was decided on.
        task: H::Task,
        /// The change.
        status: H::Status,
    },
    /// Read the task of this name from the API server. Answered by [`UninstallResponse::Task`].
    ReadTask(H::Task),
    /// Remove our finalizer from the pod. Answered by [`UninstallResponse::Done`].
    RemoveFinalizer(H::Pod),
    /// No request: wait a moment. Answered by [`UninstallResponse::Done`].
    Pause,
}

/// What the shell answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UninstallResponse<H: UninstallHandles> {
    /// It is done.
    Done,
    /// The task.
    Task(H::Task),
    /// All tasks.
    Tasks(Vec<H::Task>),
    /// All pods that have our finalizer.
    Pods(Vec<H::Pod>),
    /// The request did not succeed.
    Failed(Failure),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UninstallStep<H: UninstallHandles> {
    /// The shell carries this out, and reports.
    Request(UninstallRequest<H>),
    /// The uninstall is over.
    Finished(UninstallOutcome<H>),
}

/// How an uninstall ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UninstallOutcome<H: UninstallHandles> {
    /// No pod has our finalizer, except pods of tasks that another release serves.
    Complete,
    /// These are left.
    Incomplete {
        /// Tasks that could not be marked: their pods keep the finalizer.
        tasks: Vec<H::Task>,
        /// Pods whose finalizer could not be removed.
        pods: Vec<H::Pod>,
    },
    /// A list failed. Without it nothing can be done.
    NotListed,
}

/// An uninstall under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UninstallSync<H: UninstallHandles> {
    stage: Stage<H>,
    /// The pods of this round's list.
    pods: VecDeque<H::Pod>,
    /// The tasks that are not marked yet in this round.
    tasks: VecDeque<H::Task>,
    /// Tasks whose pods keep the finalizer: another release serves them, or they could not be marked.
    left_alone: BTreeSet<H::TaskId>,
    /// Tasks that could not be marked in this round.
    failed_tasks: Vec<H::Task>,
    /// Pods whose finalizer could not be removed in this round.
    failed_pods: Vec<H::Pod>,
    /// One of those will fail again.
    is_permanent: bool,
    /// All tasks were marked once.
    has_marked: bool,
}

/// What the machine waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage<H: UninstallHandles> {
    Pods,
    Tasks,
    Status(H::Task),
    /// A moment passes before the task is read again.
    TaskPause(H::Task),
    Reread(H::Task),
    Finalizer(H::Pod),
    /// A moment passes before the next round.
    RoundPause,
}

impl<H: UninstallHandles> Default for UninstallSync<H> {
    fn default() -> Self {
        Self {
            stage: Stage::Pods,
            pods: VecDeque::new(),
            tasks: VecDeque::new(),
            left_alone: BTreeSet::new(),
            failed_tasks: Vec::new(),
            failed_pods: Vec::new(),
            is_permanent: false,
            has_marked: false,
        }
    }
}

impl<H: UninstallHandles> UninstallSync<H> {
    /// The first request.
    pub fn first(&self) -> UninstallRequest<H> {
        UninstallRequest::ListPods
    }

    /// The versions of the task that are known, to be changed by the clock of a simulated world.
    pub fn tasks_mut(&mut self) -> impl Iterator<Item = &mut H::Task> {
        let current = match &mut self.stage {
            Stage::Status(task) | Stage::TaskPause(task) | Stage::Reread(task) => Some(task),
            Stage::Pods | Stage::Tasks | Stage::Finalizer(_) | Stage::RoundPause => None,
        };
        current.into_iter().chain(&mut self.tasks).chain(&mut self.failed_tasks)
    }

    /// Takes the answer to the last request, and says what comes next.
    pub fn next<E: UninstallEnvironment<H>>(
        &mut self,
        environment: &E,
        response: UninstallResponse<H>,
    ) -> UninstallStep<H> {
        match (std::mem::replace(&mut self.stage, Stage::Pods), response) {
            (Stage::Pods, UninstallResponse::Pods(pods)) => self.listed(environment, pods),
            (Stage::Tasks, UninstallResponse::Tasks(tasks)) => {
                self.tasks = tasks.into();
                self.left_alone.clear();
                self.failed_tasks.clear();
                self.mark_next(environment)
            }
            (Stage::Status(task) | Stage::Reread(task), UninstallResponse::Failed(failure)) => {
                self.not_marked(environment, task, &failure)
            }
            (Stage::TaskPause(task), _) => {
                self.ask(Stage::Reread(task.clone()), UninstallRequest::ReadTask(task))
            }
            (Stage::Reread(_), UninstallResponse::Task(task)) => self.mark(environment, task),
            (Stage::Status(_) | Stage::Reread(_), _) => self.mark_next(environment),
            (Stage::Finalizer(pod), UninstallResponse::Failed(failure)) if failure != Failure::NotFound => {
                self.is_permanent |= !may_succeed_later(&failure);
                self.failed_pods.push(pod);
                self.remove_next(environment)
            }
            (Stage::Finalizer(_), _) => self.remove_next(environment),
            (Stage::RoundPause, _) => self.ask(Stage::Pods, UninstallRequest::ListPods),
            (Stage::Pods | Stage::Tasks, _) => UninstallStep::Finished(UninstallOutcome::NotListed),
        }
    }

    fn ask(&mut self, stage: Stage<H>, request: UninstallRequest<H>) -> UninstallStep<H> {
        self.stage = stage;
        UninstallStep::Request(request)
    }

    /// The pods were listed, before any task of this round is read.
    fn listed<E: UninstallEnvironment<H>>(
        &mut self,
        environment: &E,
        mut pods: Vec<H::Pod>,
    ) -> UninstallStep<H> {
        if self.has_marked {
            pods.retain(|pod| !self.left_alone.contains(&environment.task_of(pod)));
            if pods.is_empty() {
                return self.finish();
            }
            // Someone keeps creating them, or adds the finalizer again.
            if environment.is_late() {
                self.failed_pods = pods;
                return self.finish();
            }
        }
        self.pods = pods.into();
        self.ask(Stage::Tasks, UninstallRequest::ListTasks)
    }

    fn finish(&mut self) -> UninstallStep<H> {
        let (tasks, pods) = (std::mem::take(&mut self.failed_tasks), std::mem::take(&mut self.failed_pods));
        let is_complete = tasks.is_empty() && pods.is_empty();
        UninstallStep::Finished(if is_complete {
            UninstallOutcome::Complete
        } else {
            UninstallOutcome::Incomplete { tasks, pods }
        })
    }

    /// Marks the next task; once there is none, finalizers are removed.
    fn mark_next<E: UninstallEnvironment<H>>(&mut self, environment: &E) -> UninstallStep<H> {
        let Some(task) = self.tasks.pop_front() else {
            self.has_marked = true;
            return self.remove_next(environment);
        };
        self.mark(environment, task)
    }

    fn mark<E: UninstallEnvironment<H>>(&mut self, environment: &E, task: H::Task) -> UninstallStep<H> {
        match environment.mark(&task) {
            Mark::OtherRelease => {
                self.left_alone.insert(environment.id(&task));
                self.mark_next(environment)
            }
            Mark::AsItIs => self.mark_next(environment),
            Mark::Write(status) => {
                self.ask(Stage::Status(task.clone()), UninstallRequest::WriteStatus { task, status })
            }
        }
    }

    /// A task that is gone needs no mark. After a conflict, or if no one knows whether the write happened, the task is
    /// read again and decided on again. The same write is never repeated blindly.
    fn not_marked<E: UninstallEnvironment<H>>(
        &mut self,
        environment: &E,
        task: H::Task,
        failure: &Failure,
    ) -> UninstallStep<H> {
        match failure {
            Failure::NotFound => self.mark_next(environment),
            failure if may_succeed_later(failure) && !environment.is_late() => {
                self.ask(Stage::TaskPause(task), UninstallRequest::Pause)
            }
            _ => {
                self.left_alone.insert(environment.id(&task));
                self.failed_tasks.push(task);
                self.mark_next(environment)
            }
        }
    }

    /// Removes the finalizer from the next pod of this round's list; once there is none, the round is over.
    fn remove_next<E: UninstallEnvironment<H>>(&mut self, environment: &E) -> UninstallStep<H> {
        while let Some(pod) = self.pods.pop_front() {
            if !self.left_alone.contains(&environment.task_of(&pod)) {
                return self.ask(Stage::Finalizer(pod.clone()), UninstallRequest::RemoveFinalizer(pod));
            }
        }
        if self.failed_pods.is_empty() {
            return self.ask(Stage::Pods, UninstallRequest::ListPods);
        }
        if self.is_permanent || environment.is_late() {
            return self.finish();
        }
        // The next list shows what is left of them: a conflict may mean that another pod has the name by now.
        self.failed_pods.clear();
        self.ask(Stage::RoundPause, UninstallRequest::Pause)
    }
}

/// Whether the same request may succeed later, although nothing is changed for it.
fn may_succeed_later(failure: &Failure) -> bool {
    match failure {
        Failure::Conflict | Failure::TimedOut(_) | Failure::Lost => true,
        Failure::Rejected { code, .. } => *code == 429 || *code >= 500,
        Failure::NotFound | Failure::Exists | Failure::Unbuildable(_) | Failure::Other => false,
    }
}
