//! The actions of a decision: the request that each one sends, and what its answer means.

use super::memory::Memory;
use super::objects::{Environment, Handles};
use super::pvc;
use super::request::{Failure, Request, Response};
use super::{ANSWER_LIFETIME, LATE_REQUEUE, NEW_NAMESPACE_RETRY, NextStep, Stage, SyncOutcome, TaskSync};
use crate::api::WaitReason;
use crate::decide::{Action, PreviousPod};
use crate::facts::{Obstacle, Relation};
use crate::rejection::{self, Rejection};

/// The action whose request waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PendingAction<H: Handles> {
    Configuration,
    PreviousPods,
    Pod,
    /// The PVC is read, created or gets its owner. Then the pod is created, if it was the purpose.
    Pvc(pvc::Check),
    Create,
    /// A pod with this name exists, and is read to find out whose it is.
    Adopt,
    /// The read that confirms that the pod may be started.
    Confirm(H::PodId),
    Start(H::PodId),
    AddFinalizer(H::PodId),
    RemoveFinalizer(H::PodId),
    Delete(H::PodId),
    DeleteTask,
}

impl<H: Handles> TaskSync<H> {
    /// Begins the next action. If there is none, the round ends.
    pub(super) fn act<E: Environment<H>>(&mut self, environment: &E, memory: &mut Memory<H>) -> NextStep<H> {
        loop {
            let Some(action) = self.actions.pop_front() else { return self.end_round(environment, memory) };
            if environment.is_late() {
                return self.finish(Some(LATE_REQUEUE));
            }
            if !self.failed_actions.iter().all(|failed| action.may_follow_failed(failed)) {
                continue;
            }
            self.current = Some(action.clone());
            let (pending, request) = match action {
                Action::ReadConfiguration => (PendingAction::Configuration, Request::ReadConfiguration),
                Action::ListPreviousPods => (PendingAction::PreviousPods, Request::ListPreviousPods),
                Action::ReadPod => (PendingAction::Pod, Request::ReadPod),
                Action::CreatePod if environment.wants_pvc(&self.task) => {
                    (PendingAction::Pvc(pvc::Check::read(pvc::Purpose::CreatePod)), Request::ReadPvc)
                }
                Action::CreatePod => (PendingAction::Create, Request::CreatePod),
                // It may already have been checked when the pod was created.
                Action::CheckPvcOwner if self.is_pvc_checked(environment, memory) => continue,
                Action::CheckPvcOwner => {
                    (PendingAction::Pvc(pvc::Check::read(pvc::Purpose::Owner)), Request::ReadPvc)
                }
                Action::RemoveSchedulingGate(pod) => (PendingAction::Confirm(pod), Request::ConfirmTask),
                Action::AddFinalizer(pod) => {
                    (PendingAction::AddFinalizer(pod.clone()), Request::AddFinalizer(pod))
                }
                Action::DeletePod(pod) => (PendingAction::Delete(pod.clone()), Request::DeletePod(pod)),
                Action::RemoveFinalizer { pod, has_ended } => {
                    (PendingAction::RemoveFinalizer(pod.clone()), Request::RemoveFinalizer { pod, has_ended })
                }
                Action::DeleteTask => (PendingAction::DeleteTask, Request::DeleteTask(self.task.clone())),
            };
            return self.ask(pending, request);
        }
    }

    fn ask(&mut self, action: PendingAction<H>, request: Request<H>) -> NextStep<H> {
        self.stage = Stage::Acting(action);
        NextStep::Request(request)
    }

    fn end_round<E: Environment<H>>(&mut self, environment: &E, memory: &Memory<H>) -> NextStep<H> {
        let has_conflict = !self.failed_actions.is_empty();
        if self.has_failed || (has_conflict && self.had_conflict) {
            return NextStep::Finished(SyncOutcome::Failed);
        }
        self.had_conflict |= has_conflict;
        if self.decide_again {
            return self.next_round(environment);
        }
        // A pod that the cache does not show may have been removed already. Then no event follows, and only the end of
        // the answer's time shows that the pod is gone.
        let is_uncertain = memory.has_uncached_pod(environment, &self.task);
        self.finish(is_uncertain.then_some(ANSWER_LIFETIME))
    }

    /// The current action failed. Actions that do not depend on it are still carried out.
    pub(super) fn fail_action(&mut self, failure: Option<&Failure>) {
        self.failed_actions.extend(self.current.take());
        self.has_failed |= failure != Some(&Failure::Conflict);
    }

    /// A request of the current action was answered.
    pub(super) fn action_answered<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        action: PendingAction<H>,
        response: Response<H>,
    ) -> NextStep<H> {
        match (action, response) {
            (PendingAction::Configuration, Response::Configuration(configuration)) => {
                self.configuration = configuration;
                self.decide_again = true;
            }
            (PendingAction::PreviousPods, Response::PreviousPod(pod)) => {
                self.previous_pod = pod.map_or(PreviousPod::None, PreviousPod::Pod);
                self.decide_again = true;
            }
            (PendingAction::Pod, response @ (Response::Pod(_) | Response::Failed(Failure::NotFound))) => {
                self.pod_read(environment, memory, response);
            }
            (PendingAction::Pvc(check), response) if !response.failure().is_some_and(is_unanswered) => {
                if let Some((action, request)) = self.pvc_answered(environment, memory, check, response) {
                    return self.ask(action, request);
                }
            }
            (PendingAction::Create, Response::Pod(pod)) => {
                memory.namespace_not_ready = None;
                memory.remember_pod(environment, pod);
                // An agent waits for its start. What else was to be done is decided again, and done after that.
                self.actions.clear();
                self.decide_again = true;
            }
            (PendingAction::Create, Response::Failed(Failure::Exists)) => {
                return self.ask(PendingAction::Adopt, Request::ReadPod);
            }
            (PendingAction::Create, Response::Failed(failure)) if !is_unanswered(&failure) => {
                self.not_created(environment, memory, failure, "");
            }
            (PendingAction::Adopt, response @ (Response::Pod(_) | Response::Failed(Failure::NotFound))) => {
                self.adopt(environment, memory, response);
            }
            (PendingAction::Confirm(pod), Response::Task(task)) => {
                let before = environment.active(&self.task);
                self.read(environment, memory, task);
                if environment.active(&self.task) == before && environment.may_start(&self.task, &pod) {
                    memory.started = before;
                    return self.ask(PendingAction::Start(pod.clone()), Request::RemoveSchedulingGate(pod));
                }
                self.decide_again = true;
            }
            (PendingAction::Delete(id), Response::Pod(pod)) => {
                // If the pod was never bound to a node, its deletion ends it, and its finalizer is to be removed.
                self.decide_again |= environment.has_ended(&pod) && !environment.is_being_removed(&pod);
                keep(environment, memory, &id, pod);
            }
            (
                PendingAction::Start(id)
                | PendingAction::AddFinalizer(id)
                | PendingAction::RemoveFinalizer(id),
                Response::Pod(pod),
            ) => {
                keep(environment, memory, &id, pod);
            }
            (PendingAction::Delete(pod), Response::Done) => memory.remember_gone(environment, pod),
            (
                PendingAction::RemoveFinalizer(pod) | PendingAction::Delete(pod),
                Response::Failed(Failure::NotFound),
            ) => {
                self.decide_again_unless_cached(environment, &pod);
                memory.remember_gone(environment, pod);
            }
            (
                PendingAction::Start(pod) | PendingAction::AddFinalizer(pod),
                Response::Failed(Failure::NotFound),
            ) => {
                memory.forget_pod(environment, &pod);
                self.decide_again_unless_cached(environment, &pod);
            }
            (
                PendingAction::Start(pod)
                | PendingAction::AddFinalizer(pod)
                | PendingAction::RemoveFinalizer(pod)
                | PendingAction::Delete(pod),
                Response::Failed(Failure::Conflict),
            ) => {
                memory.forget_pod(environment, &pod);
                self.fail_action(Some(&Failure::Conflict));
            }
            // The task is gone.
            (PendingAction::DeleteTask, Response::Done)
            | (PendingAction::Confirm(_) | PendingAction::DeleteTask, Response::Failed(Failure::NotFound)) => {
            }
            // If the API server does not answer, no further request is sent.
            (_, Response::Failed(failure)) if failure.is_ambiguous() => {
                return NextStep::Finished(SyncOutcome::Failed);
            }
            (_, response) => self.fail_action(response.failure()),
        }
        self.act(environment, memory)
    }

    /// The active pod is not in the cache and was read from the API server.
    fn pod_read<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        response: Response<H>,
    ) {
        self.decide_again = true;
        let Response::Pod(pod) = response else {
            self.pod_is_gone = true;
            return;
        };
        match environment.relation(&self.task, &pod) {
            Relation::Active => memory.remember_pod(environment, pod),
            Relation::Detached => {
                let name = environment.active_pod_name(&self.task);
                let message = format!(
                    "pod {name} belonged to this task until its owner references or labels were changed: restore them, or delete the pod"
                );
                self.refused = Some(Obstacle { reason: WaitReason::NameConflict, message });
            }
            // Names are unique: if a pod of another owner has the name, ours is gone.
            Relation::Foreign => self.pod_is_gone = true,
        }
    }

    /// A pod with the name of the active pod exists. It may be our own, if the answer to its creation was lost or the
    /// cache does not show it yet. The pod of another owner is never touched.
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
            _ if self.may_retry() => {}
            _ => return self.fail_action(None),
        }
        self.decide_again = true;
    }

    /// A pod is gone. If the cache no longer shows it either, no event follows that would wake the operator.
    fn decide_again_unless_cached<E: Environment<H>>(&mut self, environment: &E, pod: &H::PodId) {
        let cached = environment.cached_pods(&self.task);
        self.decide_again |= !cached.iter().any(|cached| environment.is_version_of(cached, pod));
    }

    /// The pod or its PVC could not be created. Without an answer it may have been created; then the watch or the next try
    /// finds it.
    pub(super) fn not_created<E: Environment<H>>(
        &mut self,
        environment: &E,
        memory: &mut Memory<H>,
        failure: Failure,
        prefix: &str,
    ) {
        let rejected = |message: String| Obstacle { reason: WaitReason::PodRejected, message };
        let rejection = match failure {
            Failure::Rejected { code, message } => {
                let lasted = memory.namespace_not_ready.as_ref().map(|first| environment.since(first));
                rejection::rejection(code, &message, lasted.unwrap_or_default())
            }
            // By default, a webhook may take 10 s, which is longer than the timeout of a write.
            Failure::TimedOut(seconds) => Some(Rejection::Wait(rejected(format!(
                "the API server did not answer within {seconds} s; an admission webhook may be slow"
            )))),
            Failure::Unbuildable(why) => Some(Rejection::Wait(rejected(why))),
            _ => None,
        };
        match rejection {
            Some(Rejection::NotReady) => {
                memory.namespace_not_ready.get_or_insert_with(|| environment.now());
                self.requeue_after = self.requeue_after.into_iter().chain([NEW_NAMESPACE_RETRY]).min();
            }
            Some(Rejection::Wait(Obstacle { reason, message })) => {
                self.refused = Some(Obstacle { reason, message: format!("{prefix}{message}") });
                self.decide_again = true;
            }
            None => self.fail_action(None),
        }
    }
}

/// Whether the answer is lost for an unknown reason. A timeout is different: a slow admission webhook may be its cause.
fn is_unanswered(failure: &Failure) -> bool {
    *failure == Failure::Lost
}

/// Remembers the answer to a write on a pod, or that the pod is about to disappear.
fn keep<H: Handles, E: Environment<H>>(environment: &E, memory: &mut Memory<H>, id: &H::PodId, pod: H::Pod) {
    if environment.is_being_removed(&pod) {
        // The answer to its deletion has the version that the cache shows.
        if environment.has_ended(&pod) {
            memory.remember_gone(environment, id.clone());
        } else {
            memory.forget_pod(environment, id);
        }
    } else {
        memory.remember_pod(environment, pod);
    }
}
