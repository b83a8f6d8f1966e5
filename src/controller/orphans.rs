//! Pods whose task is gone: drives the machine of `agentloop_core::sync` that removes them.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use agentloop_core::sync::{ORPHAN_CHECK_INTERVAL, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::{error, info, warn};

use super::Scope;
use super::cached_pod::CachedPod;
use super::live::{Handle, Live};
use super::panics::{Fault, caught};
use crate::client::{READ_TIMEOUT, RequestError, bounded};
use crate::metrics::Place;

pub(super) async fn sync(pod: Arc<CachedPod>, scope: Arc<Scope>) -> Result<Action, Fault<RequestError>> {
    caught(look_at(pod, &scope)).await
}

/// Looks at one pod: nothing to do if its task is there.
async fn look_at(pod: Arc<CachedPod>, scope: &Scope) -> Result<Action, RequestError> {
    let facts = &pod.facts;
    let (Some(task), Some(task_uid)) = (pod.task(), facts.task_uid.clone()) else {
        return Ok(Action::await_change());
    };
    // Labels are anybody's to copy; a pod that the task neither controls nor holds belongs to another owner.
    if !facts.has_finalizer && !facts.belongs_to(&task_uid) {
        return Ok(Action::await_change());
    }
    let (name, namespace) = (task.name.clone(), pod.namespace().unwrap_or_default());
    let pod = Handle(pod);
    let rest = |after: Option<Duration>| after.map_or_else(Action::await_change, Action::requeue);
    if !scope.is_ready().await {
        return Ok(Action::await_change());
    }
    if scope.tasks.get(&task).is_some_and(|task| task.uid().as_ref() == Some(&task_uid)) {
        return Ok(rest(OrphanSync::while_task_exists(scope, &pod)));
    }
    let Some(_turn) = scope.turn().await else { return Ok(Action::await_change()) };
    let _work = scope.shared.heartbeat.begin();
    let mut sync = OrphanSync::new(pod.clone());
    let mut request = sync.first();
    let mut failed = None;
    loop {
        let response = match perform(scope, &namespace, &name, &task_uid, request).await {
            Ok(response) => response,
            Err(error) => {
                let failure = error.failure();
                failed = Some(error);
                OrphanResponse::Failed(failure)
            }
        };
        match (sync.next(scope, &response), failed.take()) {
            (OrphanStep::Request(next), error) => {
                info!(%namespace, pod = pod.facts.name, task = name, request = ?next, "the task of this pod is gone");
                (request, failed) = (next, error);
            }
            (OrphanStep::Done(after), _) => {
                scope.failures.forget(&*pod);
                return Ok(rest(after));
            }
            (OrphanStep::Failed, Some(error)) => return Err(error),
            // The machine fails only with a request that did.
            (OrphanStep::Failed, None) => return Ok(Action::requeue(ORPHAN_CHECK_INTERVAL)),
        }
    }
}

async fn perform(
    scope: &Scope,
    namespace: &str,
    task: &str,
    task_uid: &str,
    request: OrphanRequest<Live>,
) -> Result<OrphanResponse, RequestError> {
    let writer = &scope.shared.writer;
    match request {
        OrphanRequest::ReadTask => {
            let tasks: Api<AgentTask> = Api::namespaced(scope.shared.clients.read.clone(), namespace);
            let read: Option<PartialObjectMeta<AgentTask>> =
                bounded(READ_TIMEOUT, tasks.get_metadata_opt(task)).await?;
            let is_there = read.is_some_and(|read| read.uid().as_deref() == Some(task_uid));
            Ok(if is_there { OrphanResponse::TaskExists } else { OrphanResponse::TaskIsGone })
        }
        OrphanRequest::DeletePod(pod) => {
            writer.delete_pod(namespace, &pod.name, &pod.uid).await.map(|_| OrphanResponse::Done)
        }
        OrphanRequest::RemoveFinalizer { pod, has_ended } => {
            let removed = writer.remove_finalizer(namespace, &pod.name, &pod.uid, has_ended).await;
            removed.map(|_| OrphanResponse::Done)
        }
    }
}

pub(super) fn on_error(pod: &CachedPod, fault: &Fault<RequestError>, scope: &Scope) -> Action {
    let named = ObjectRef::from_obj(pod);
    match fault {
        Fault::Failed(error) => {
            warn!(pod = %named, %error, "a pod without its task could not be let go; trying again");
        }
        Fault::Panicked(words) => {
            scope.shared.metrics.panicked(Place::Sweep);
            error!(pod = %named, panic = words, "agentloop panicked at this pod; others go on, and it is tried again");
        }
    }
    scope.failures.next(pod)
}
