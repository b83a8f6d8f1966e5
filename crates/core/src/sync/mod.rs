//! One reconcile of a task, as a state machine that does no I/O: `(state, response)` becomes `(state, request)`.
//!
//! The shell (`src/controller`) only carries out the requests. The model checker (`tests/model`) drives the same
//! machine with crashes, lost answers and late writes at every request: so it checks the code that runs in production.
//!
//! A reconcile is a sequence of rounds. Each round reads the caches, decides, writes the status, and only then carries
//! out the actions. If an action finds something new (a pod that exists, an iteration that is no longer active),
//! another round decides again. `docs/protocol.md` explains why each write has its guard.

mod actions;
mod memory;
mod objects;
mod orphan;
mod pvc;
mod request;
mod uninstall;

use std::collections::VecDeque;
use std::time::Duration;

pub use memory::{ANSWER_LIFETIME, Memory, OrphanMemory};
pub use objects::{Decided, Environment, Gathered, Handles};
pub use orphan::{
    ORPHAN_CHECK_INTERVAL, OrphanEnvironment, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync,
};
pub use request::{Failure, Request, Response};
pub use uninstall::{
    IterationInFlight, Mark, ServedTask, UninstallEnvironment, UninstallHandles, UninstallOutcome,
    UninstallRequest, UninstallResponse, UninstallStep, UninstallSync,
};

use crate::decide::{Action, PreviousPod};
use crate::facts::Obstacle;
use actions::PendingAction;

/// Maximum decisions in one reconcile. To settle an iteration, start the next one, create its pod and start that takes
/// four; the others are for reads in between.
pub const MAX_ROUNDS: u8 = 12;
/// When to continue after a reconcile that has taken too long.
const LATE_REQUEUE: Duration = Duration::from_secs(1);
/// When to try again if a new namespace does not have everything yet.
const NEW_NAMESPACE_RETRY: Duration = Duration::from_millis(500);

/// A reconcile under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the facts are independent of each other; they are not states of one thing"
)]
pub struct TaskSync<H: Handles> {
    /// The newest known version of the task.
    task: H::Task,
    configuration: H::Configuration,
    previous_pod: PreviousPod,
    /// Why the active pod could not be created.
    refused: Option<Obstacle>,
    /// A read shows no pod with the name of the active pod.
    pod_is_gone: bool,
    /// What the machine waits for.
    stage: Stage<H>,
    /// The remaining actions of the last decision.
    actions: VecDeque<Action<H::PodId>>,
    /// The current action.
    current: Option<Action<H::PodId>>,
    /// The actions of this decision that failed.
    failed_actions: Vec<Action<H::PodId>>,
    /// At least one of them failed with something other than a conflict.
    has_failed: bool,
    /// An action of an earlier decision had a conflict: the reconcile fails at its end.
    had_conflict: bool,
    requeue_after: Option<Duration>,
    /// An action found something new: decide again after the last action.
    decide_again: bool,
    /// A write of this reconcile had a conflict or its answer was lost, and was immediately decided again.
    has_retried: bool,
    rounds: u8,
}

/// What the machine waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage<H: Handles> {
    Gathering,
    Events,
    Status,
    /// The task is read, because its status could not be written.
    Reread,
    Acting(PendingAction<H>),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep<H: Handles> {
    /// The shell must carry out this request and pass its answer to [`TaskSync::next`].
    Request(Request<H>),
    /// The reconcile is over.
    Finished(SyncOutcome),
}

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncOutcome {
    /// There is nothing to do until something changes or this time has passed.
    Done(Option<Duration>),
    /// A request failed: the reconcile is tried again with a growing delay.
    Failed,
    /// After [`MAX_ROUNDS`] decisions another one was still necessary.
    NotConverged,
}

impl<H: Handles> TaskSync<H> {
    /// Begins with the task in the cache.
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
            has_failed: false,
            had_conflict: false,
            requeue_after: None,
            decide_again: false,
            has_retried: false,
            rounds: 0,
        }
    }

    /// The newest known version of the task.
    pub fn task(&self) -> &H::Task {
        &self.task
    }

    /// The known configuration.
    pub fn configuration(&self) -> &H::Configuration {
        &self.configuration
    }

    /// The task, so that a simulation can change it when its clock advances.
    pub fn task_mut(&mut self) -> &mut H::Task {
        &mut self.task
    }

    /// Takes the answer to the last request, and returns the next step. The first request is [`Request::Gather`]; its
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
                // The pods may have changed while the Events were read.
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
                self.next_round(environment)
            }
            (Stage::Reread, Response::Failed(Failure::NotFound)) => {
                NextStep::Finished(SyncOutcome::Done(None))
            }
            (Stage::Acting(action), response) => self.action_answered(environment, memory, action, response),
            (Stage::Status | Stage::Reread, _) => NextStep::Finished(SyncOutcome::Failed),
        }
    }

    /// Begins another round.
    fn next_round<E: Environment<H>>(&mut self, environment: &E) -> NextStep<H> {
        if environment.is_late() {
            return self.finish(Some(LATE_REQUEUE));
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
        self.has_failed = false;
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

    /// The status was not written, or it is unknown whether it was, so no action may be carried out. If the task has
    /// changed or the answer is lost, the task is read and the decision made again. This happens only once in a
    /// reconcile, because what disturbed two writes may disturb the next twenty.
    fn not_written(&mut self, failure: &Failure) -> NextStep<H> {
        match failure {
            Failure::NotFound => NextStep::Finished(SyncOutcome::Done(None)),
            failure if *failure == Failure::Conflict || failure.is_ambiguous() => {
                if self.may_retry() {
                    self.stage = Stage::Reread;
                    NextStep::Request(Request::ReadTask)
                } else {
                    NextStep::Finished(SyncOutcome::Failed)
                }
            }
            _ => NextStep::Finished(SyncOutcome::Failed),
        }
    }

    /// Whether a write may be decided again immediately: only once in a reconcile.
    fn may_retry(&mut self) -> bool {
        !std::mem::replace(&mut self.has_retried, true)
    }

    /// Takes a newer version of the task.
    fn take<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>, task: H::Task) {
        self.task = task.clone();
        memory.remember_task(environment, task);
    }

    /// Takes a version of the task that was read from the API server. If it is the version that was known before, there is
    /// nothing to remember: nothing would wake the operator to forget it again.
    fn read<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>, task: H::Task) {
        if environment.is_newer_task(&task, &self.task) {
            self.take(environment, memory, task);
        } else {
            self.task = task;
        }
        environment.mark_stale(&mut self.configuration);
    }

    /// Ends the reconcile, with a requeue after `at_most` or earlier.
    fn finish(&self, at_most: Option<Duration>) -> NextStep<H> {
        if self.had_conflict || !self.failed_actions.is_empty() {
            return NextStep::Finished(SyncOutcome::Failed);
        }
        NextStep::Finished(SyncOutcome::Done(self.requeue_after.into_iter().chain(at_most).min()))
    }
}
