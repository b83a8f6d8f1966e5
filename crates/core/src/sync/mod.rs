//! One reconcile of a task, as a state machine that does no I/O: `(state, response)` becomes `(state, request)`.
//!
//! The shell (`src/controller`) only carries requests out. The model checker (`tests/model`) drives this very machine
//! with crashes, lost answers and late writes at every request: what is searched is what runs.
//!
//! A reconcile is a sequence of rounds. Each round looks at the caches, decides, writes the status, and only then
//! acts. What an action brings to light (a pod that exists, a claim that is gone) is decided on in the next round.
//! Why each write is guarded as it is: `docs/protocol.md`.

mod memory;
mod objects;
mod orphan;
mod pvc;
mod request;
mod uninstall;

use std::collections::VecDeque;
use std::time::Duration;

pub use memory::Memory;
pub use objects::{Decided, Environment, Gathered, Handles};
pub use orphan::{
    ORPHAN_CHECK_INTERVAL, OrphanEnvironment, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync,
};
pub use request::{Failure, Request, Response};
pub use uninstall::{
    IterationInFlight, Mark, ServedTask, UninstallEnvironment, UninstallHandles, UninstallOutcome,
    UninstallRequest, UninstallResponse, UninstallStep, UninstallSync,
};

use crate::api::WaitReason;
use crate::decide::{Action, PreviousPod};
use crate::facts::{Obstacle, Relation};
use crate::refused::{self, Refusal};

/// Decisions in one reconcile: settle, start an iteration, create its pod and start it are four; the rest is for what
/// is read in between.
pub const MAX_ROUNDS: u8 = 12;
/// When a reconcile that has taken too long resumes.
const LATER: Duration = Duration::from_secs(1);
/// When to try again what a new namespace does not have yet.
const NOT_YET: Duration = Duration::from_millis(500);

/// A reconcile under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; they are no states of one thing"
)]
pub struct TaskSync<H: Handles> {
    /// The task, as new as it is known.
    task: H::Task,
    configuration: H::Configuration,
    previous_pod: PreviousPod,
    /// Why the active pod could not be created.
    refused: Option<Obstacle>,
    /// A read shows no pod of the active iteration's name.
    pod_is_gone: bool,
    /// What the shell is asked for.
    stage: Stage<H>,
    /// What is left to do of the last decision.
    actions: VecDeque<Action<H::PodId>>,
    /// The action under way.
    current: Option<Action<H::PodId>>,
    /// The actions of this decision that were refused.
    failed_actions: Vec<Action<H::PodId>>,
    /// Not all of these met a conflict only.
    is_more_than_a_conflict: bool,
    /// An earlier decision met a conflict: the reconcile fails at its end.
    met_a_conflict: bool,
    requeue_after: Option<Duration>,
    /// Something came to light: decide again once everything is done.
    decide_again: bool,
    /// A write of this reconcile met a conflict or lost its answer, and was decided on again at once.
    has_retried: bool,
    rounds: u8,
}

/// What the machine waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage<H: Handles> {
    Gathering,
    Events,
    Status,
    /// The task is read after its status could not be written.
    Reread,
    Acting(Act<H>),
}

/// An action under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Act<H: Handles> {
    Configuration,
    PreviousPods,
    Pod,
    /// The PVC is read, created or given its owner, and then the pod is created.
    Pvc(pvc::Check),
    Create,
    /// The name is taken: by our own pod, or by another one?
    Adopt,
    /// The read that a start is confirmed by.
    Confirm(H::PodId),
    Start(H::PodId),
    AddFinalizer(H::PodId),
    RemoveFinalizer(H::PodId),
    Delete(H::PodId),
    DeleteTask,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep<H: Handles> {
    /// The shell carries this out, and reports.
    Request(Request<H>),
    /// The reconcile is over.
    Finished(SyncOutcome),
}

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncOutcome {
    /// There is nothing more to do before something changes, or this time is over.
    Done(Option<Duration>),
    /// A request failed: tried again, each time later.
    Failed,
    /// Every decision called for another one.
    NotConverged,
}

impl<H: Handles> TaskSync<H> {
    /// Begins, with the task as the cache holds it.
    pub fn new<E: Environment<H>>(
        environment: &E,
        memory: &mut Memory<H>,
        cached: H::Task,
        configuration: H::Configuration,
    ) -> Self {
        Self {
            task: memory.newest_task(environment, cached),
            configuration,
            previous_pod: PreviousPod::Unknown,
            refused: None,
            pod_is_gone: false,
            stage: Stage::Gathering,
            actions: VecDeque::new(),
            current: None,
            failed_actions: Vec::new(),
            is_more_than_a_conflict: false,
            met_a_conflict: false,
            requeue_after: None,
            decide_again: false,
            has_retried: false,
            rounds: 0,
        }
    }

    /// The task, as new as it is known.
    pub fn task(&self) -> &H::Task {
        &self.task
    }

    /// What is known of the configuration.
    pub fn configuration(&self) -> &H::Configuration {
        &self.configuration
    }

    /// The task, to be changed by the clock of a simulated world.
    pub fn task_mut(&mut self) -> &mut H::Task {
        &mut self.task
    }

    /// Takes the answer to the last request, and says what comes next. The first request is [`Request::Gather`]; its
    /// answer is [`Response::Done`].
    pub fn next<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        response: Response<H>,
    ) -> NextStep<H> {
        match (std::mem::replace(&mut self.stage, Stage::Gathering), response) {
            (Stage::Gathering, _) => self.gather(environment, memory),
            (Stage::Events, response) => {
                // They may have changed while the Events were read.
                let pods = memory.newest_pods(environment, &self.task);
                let Response::Events(obstacle) = response else {
                    return self.decide(environment, memory, &pods, None);
                };
                self.decide(environment, memory, &pods, obstacle.as_ref())
            }
            (Stage::Status, Response::Task(task)) => {
                self.take(environment, memory, task);
                self.refused = None;
                self.pod_is_gone = false;
                self.act(environment, memory)
            }
            (Stage::Status, Response::Failed(failure)) => self.not_written(&failure),
            (Stage::Reread, Response::Task(task)) => {
                self.read(environment, memory, task);
                self.look_again(environment)
            }
            (Stage::Reread, Response::Failed(Failure::NotFound)) => {
                NextStep::Finished(SyncOutcome::Done(None))
            }
            (Stage::Acting(act), response) => self.answered(environment, memory, act, response),
            (Stage::Status | Stage::Reread, _) => NextStep::Finished(SyncOutcome::Failed),
        }
    }

    /// Asks for another look at the caches.
    fn look_again<E: Environment<H>>(&mut self, environment: &E) -> NextStep<H> {
        if environment.is_late() {
            return self.rest(Some(LATER));
        }
        self.stage = Stage::Gathering;
        NextStep::Request(Request::Gather)
    }

    fn gather<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>) -> NextStep<H> {
        let pods = memory.newest_pods(environment, &self.task);
        match environment.silent_pod(&self.task, &pods) {
            Some(pod) => {
                self.stage = Stage::Events;
                NextStep::Request(Request::ReadEvents(pod))
            }
            None => self.decide(environment, memory, &pods, None),
        }
    }

    fn decide<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        pods: &[H::Pod],
        obstacle: Option<&Obstacle>,
    ) -> NextStep<H> {
        if self.rounds >= MAX_ROUNDS {
            return NextStep::Finished(SyncOutcome::NotConverged);
        }
        self.rounds = self.rounds.saturating_add(1);
        let active = environment.active(&self.task);
        let Decided { status, actions, requeue_after } = environment.decide(&Gathered {
            task: &self.task,
            pods,
            configuration: &self.configuration,
            obstacle,
            previous_pod: &self.previous_pod,
            refused: self.refused.as_ref(),
            was_started: active.is_some() && memory.started == active,
            pod_is_gone: self.pod_is_gone,
            pvc_is_checked: memory.pvc_checked == Some(environment.generation(&self.task)),
        });
        self.actions = actions.into();
        self.failed_actions.clear();
        self.is_more_than_a_conflict = false;
        self.requeue_after = requeue_after;
        self.decide_again = false;
        match status {
            Some(status) => {
                self.stage = Stage::Status;
                NextStep::Request(Request::WriteStatus { task: self.task.clone(), status })
            }
            None => self.act(environment, memory),
        }
    }

    /// The status was not written: nothing may be done. The task is gone, has changed, or nobody knows whether the
    /// status was written: read, compare, decide again. Once: what disturbs two writes may disturb the next twenty.
    fn not_written(&mut self, failure: &Failure) -> NextStep<H> {
        match failure {
            Failure::NotFound => NextStep::Finished(SyncOutcome::Done(None)),
            failure if *failure == Failure::Conflict || failure.is_ambiguous() => {
                if self.retries() {
                    self.stage = Stage::Reread;
                    NextStep::Request(Request::ReadTask)
                } else {
                    NextStep::Finished(SyncOutcome::Failed)
                }
            }
            _ => NextStep::Finished(SyncOutcome::Failed),
        }
    }

    fn retries(&mut self) -> bool {
        !std::mem::replace(&mut self.has_retried, true)
    }

    /// A newer version of the task is known.
    fn take<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>, task: H::Task) {
        self.task = task.clone();
        memory.remember_task(environment, task);
    }

    /// The task was read from the API server.
    fn read<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>, task: H::Task) {
        self.take(environment, memory, task);
        environment.mark_stale(&mut self.configuration);
    }

    /// Begins the next action; once there is none, the round is over.
    fn act<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>) -> NextStep<H> {
        loop {
            let Some(action) = self.actions.pop_front() else { return self.end_round(environment) };
            if environment.is_late() {
                return self.rest(Some(LATER));
            }
            if !self.failed_actions.iter().all(|refused| action.may_follow_failed(refused)) {
                continue;
            }
            self.current = Some(action.clone());
            let (act, request) = match action {
                Action::ReadConfiguration => (Act::Configuration, Request::ReadConfiguration),
                Action::ListPreviousPods => (Act::PreviousPods, Request::ListPreviousPods),
                Action::ReadPod => (Act::Pod, Request::ReadPod),
                Action::CreatePod if environment.wants_pvc(&self.task) => {
                    (Act::Pvc(pvc::Check::read(pvc::Purpose::CreatePod)), Request::ReadPvc)
                }
                Action::CreatePod => (Act::Create, Request::CreatePod),
                // It may have been checked for the pod meanwhile.
                Action::CheckPvcOwner if self.is_pvc_checked(environment, memory) => continue,
                Action::CheckPvcOwner => (Act::Pvc(pvc::Check::read(pvc::Purpose::Owner)), Request::ReadPvc),
                Action::RemoveSchedulingGate(pod) => (Act::Confirm(pod), Request::ConfirmTask),
                Action::AddFinalizer(pod) => (Act::AddFinalizer(pod.clone()), Request::AddFinalizer(pod)),
                Action::DeletePod(pod) => (Act::Delete(pod.clone()), Request::DeletePod(pod)),
                Action::RemoveFinalizer { pod, has_ended } => {
                    (Act::RemoveFinalizer(pod.clone()), Request::RemoveFinalizer { pod, has_ended })
                }
                Action::DeleteTask => (Act::DeleteTask, Request::DeleteTask(self.task.clone())),
            };
            return self.ask(act, request);
        }
    }

    fn ask(&mut self, act: Act<H>, request: Request<H>) -> NextStep<H> {
        self.stage = Stage::Acting(act);
        NextStep::Request(request)
    }

    fn end_round<E: Environment<H>>(&mut self, environment: &E) -> NextStep<H> {
        let met_a_conflict = !self.failed_actions.is_empty();
        if self.is_more_than_a_conflict || (met_a_conflict && self.met_a_conflict) {
            return NextStep::Finished(SyncOutcome::Failed);
        }
        self.met_a_conflict |= met_a_conflict;
        if self.decide_again { self.look_again(environment) } else { self.rest(None) }
    }

    /// Ends, at the latest until `most`.
    fn rest(&self, most: Option<Duration>) -> NextStep<H> {
        if self.met_a_conflict || !self.failed_actions.is_empty() {
            return NextStep::Finished(SyncOutcome::Failed);
        }
        NextStep::Finished(SyncOutcome::Done(self.requeue_after.into_iter().chain(most).min()))
    }

    /// The action under way was refused. What does not depend on it is done all the same.
    fn refuse(&mut self, failure: Option<&Failure>) {
        self.failed_actions.extend(self.current.take());
        self.is_more_than_a_conflict |= failure != Some(&Failure::Conflict);
    }

    /// An action was answered.
    fn answered<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        act: Act<H>,
        response: Response<H>,
    ) -> NextStep<H> {
        match (act, response) {
            (Act::Configuration, Response::Configuration(configuration)) => {
                self.configuration = configuration;
                self.decide_again = true;
            }
            (Act::PreviousPods, Response::PreviousPod(pod)) => {
                self.previous_pod = pod.map_or(PreviousPod::None, PreviousPod::Pod);
                self.decide_again = true;
            }
            (Act::Pod, response @ (Response::Pod(_) | Response::Failed(Failure::NotFound))) => {
                self.found(environment, memory, response);
            }
            (Act::Pvc(check), response) if !response.failure().is_some_and(is_unanswered) => {
                if let Some((act, request)) = self.checked(environment, memory, check, response) {
                    return self.ask(act, request);
                }
            }
            (Act::Create, Response::Pod(pod)) => {
                memory.unsettled = None;
                memory.remember_pod(environment, pod);
                self.decide_again = true;
            }
            (Act::Create, Response::Failed(Failure::Exists)) => {
                return self.ask(Act::Adopt, Request::ReadPod);
            }
            (Act::Create, Response::Failed(failure)) if !is_unanswered(&failure) => {
                self.not_created(environment, memory, failure, "");
            }
            (Act::Adopt, response @ (Response::Pod(_) | Response::Failed(Failure::NotFound))) => {
                self.adopt(environment, memory, response);
            }
            (Act::Confirm(pod), Response::Task(task)) => {
                let before = environment.active(&self.task);
                self.read(environment, memory, task);
                if environment.active(&self.task) == before && environment.may_start(&self.task, &pod) {
                    memory.started = before;
                    return self.ask(Act::Start(pod.clone()), Request::RemoveSchedulingGate(pod));
                }
                self.decide_again = true;
            }
            (Act::Delete(id), Response::Pod(pod)) => {
                // A pod that was never bound to a node has ended by this.
                self.decide_again |= environment.has_ended(&pod);
                keep(environment, memory, &id, pod);
            }
            (Act::Start(id) | Act::AddFinalizer(id) | Act::RemoveFinalizer(id), Response::Pod(pod)) => {
                keep(environment, memory, &id, pod);
            }
            // Deleted: the answer to the removal of its finalizer may be remembered.
            (
                Act::Start(pod) | Act::AddFinalizer(pod) | Act::RemoveFinalizer(pod) | Act::Delete(pod),
                Response::Failed(Failure::NotFound),
            )
            | (Act::Delete(pod), Response::Done) => memory.forget_pod(environment, &pod),
            (
                Act::Start(pod) | Act::AddFinalizer(pod) | Act::RemoveFinalizer(pod) | Act::Delete(pod),
                Response::Failed(Failure::Conflict),
            ) => {
                memory.forget_pod(environment, &pod);
                self.refuse(Some(&Failure::Conflict));
            }
            // The task is gone.
            (Act::DeleteTask, Response::Done)
            | (Act::Confirm(_) | Act::DeleteTask, Response::Failed(Failure::NotFound)) => {}
            // A server that does not answer is asked for nothing more.
            (_, Response::Failed(failure)) if failure.is_ambiguous() => {
                return NextStep::Finished(SyncOutcome::Failed);
            }
            (_, response) => self.refuse(response.failure()),
        }
        self.act(environment, memory)
    }

    /// The active pod, which the caches do not show, was read.
    fn found<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>, response: Response<H>) {
        self.decide_again = true;
        let Response::Pod(pod) = response else {
            self.pod_is_gone = true;
            return;
        };
        match environment.relation(&self.task, &pod) {
            Relation::Active => memory.remember_pod(environment, pod),
            Relation::Estranged => {
                let name = environment.active_pod_name(&self.task);
                let message = format!(
                    "pod {name} belonged to this task until its owner references or labels were changed: restore them, or delete the pod"
                );
                self.refused = Some(Obstacle { reason: WaitReason::NameConflict, message });
            }
            // Names are unique: if another object's pod has it, ours is gone.
            Relation::Foreign => self.pod_is_gone = true,
        }
    }

    /// A pod has the name: our own, from a create whose answer was lost or that the cache has not seen; or another
    /// one, which is never touched.
    fn adopt<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>, response: Response<H>) {
        match response {
            Response::Pod(pod) if environment.relation(&self.task, &pod) == Relation::Active => {
                memory.remember_pod(environment, pod);
            }
            Response::Pod(_) => {
                let name = environment.active_pod_name(&self.task);
                let message = format!("pod {name} exists and does not belong to this task");
                self.refused = Some(Obstacle { reason: WaitReason::NameConflict, message });
            }
            _ if self.retries() => {}
            _ => return self.refuse(None),
        }
        self.decide_again = true;
    }

    /// The pod or its PVC could not be created. If no answer came it may have been created: the next try finds it, or
    /// a watch does before.
    fn not_created<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        failure: Failure,
        prefix: &str,
    ) {
        let rejected = |message: String| Obstacle { reason: WaitReason::PodRejected, message };
        let refusal = match failure {
            Failure::Rejected { code, message } => {
                let lasted = memory.unsettled.as_ref().map(|first| environment.since(first));
                refused::refusal(code, &message, lasted.unwrap_or_default())
            }
            // A webhook has 10 s by default, longer than a write may take.
            Failure::TimedOut(seconds) => Some(Refusal::Stands(rejected(format!(
                "the API server did not answer within {seconds} s; an admission webhook may be slow"
            )))),
            Failure::Unbuildable(why) => Some(Refusal::Stands(rejected(why))),
            _ => None,
        };
        match refusal {
            Some(Refusal::NotYet) => {
                memory.unsettled.get_or_insert_with(|| environment.now());
                self.requeue_after = self.requeue_after.into_iter().chain([NOT_YET]).min();
            }
            Some(Refusal::Stands(Obstacle { reason, message })) => {
                self.refused = Some(Obstacle { reason, message: format!("{prefix}{message}") });
                self.decide_again = true;
            }
            None => self.refuse(None),
        }
    }
}

/// No answer came, and nothing says why. One that took too long may have an admission webhook to blame.
fn is_unanswered(failure: &Failure) -> bool {
    *failure == Failure::Lost
}

/// Remembers the answer to a write on a pod, unless the next thing that is heard of the pod is that it is gone.
fn keep<H: Handles, E: Environment<H>>(environment: &E, memory: &mut Memory<H>, id: &H::PodId, pod: H::Pod) {
    if environment.is_being_removed(&pod) {
        memory.forget_pod(environment, id);
    } else {
        memory.remember_pod(environment, pod);
    }
}
