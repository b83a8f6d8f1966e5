//! Pods whose task is gone: they are stopped, and let go once they have ended.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use agentloop_core::decide::{self, PodRef};
use jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::{error, info, warn};

use super::Scope;
use super::cached_pod::CachedPod;
use super::panics::{Fault, caught};
use crate::client::{READ_TIMEOUT, RequestError, bounded};
use crate::metrics::Place;

/// How often a pod that we hold is looked at while its task is there: nothing tells the sweep that a task has
/// gone, and a pod that has ended may never change again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub(super) async fn sweep(pod: Arc<CachedPod>, scope: Arc<Scope>) -> Result<Action, Fault<RequestError>> {
    caught(look_at(&pod, &scope)).await
}

/// Looks at one pod: nothing to do where its task is there.
async fn look_at(pod: &CachedPod, scope: &Scope) -> Result<Action, RequestError> {
    let facts = &pod.facts;
    let (Some(task), Some(task_uid)) = (pod.task(), facts.task_uid.as_deref()) else {
        return Ok(Action::await_change());
    };
    // Labels are anybody's to copy; a pod that the task neither controls nor holds is somebody else's.
    if !facts.held && !facts.belongs_to(task_uid) {
        return Ok(Action::await_change());
    }
    let its_task_is_there = || if facts.held { Action::requeue(LOOK_AGAIN) } else { Action::await_change() };
    let (name, namespace) = (task.name.as_str(), pod.namespace().unwrap_or_default());
    if !scope.is_ready().await {
        return Ok(Action::await_change());
    }
    let cached = scope.tasks.get(&task);
    if cached.is_some_and(|task| task.uid().as_deref() == Some(task_uid)) {
        return Ok(its_task_is_there());
    }
    let Some(_turn) = scope.turn().await else { return Ok(Action::await_change()) };
    // The cache may lag: only the API server itself can say that a task is gone.
    let tasks: Api<AgentTask> = Api::namespaced(scope.shared.clients.read.clone(), &namespace);
    let task: Option<PartialObjectMeta<AgentTask>> =
        bounded(READ_TIMEOUT, tasks.get_metadata_opt(name)).await?;
    if task.is_some_and(|task| task.uid().as_deref() == Some(task_uid)) {
        return Ok(its_task_is_there());
    }
    let served_by = scope.elsewhere.of(task_uid);
    let left = scope.shared.serving.leaves_pod(served_by.as_deref(), facts, Timestamp::now());
    if let Some(left) = left {
        return Ok(Action::requeue(left));
    }
    let _work = scope.shared.heartbeat.begin();
    let mut conflict = None;
    for action in (scope.shared.rules.stop_all)(std::slice::from_ref(facts)).actions {
        info!(%namespace, pod = facts.name, task = name, ?action, "the task of this pod is gone");
        let done = match &action {
            decide::Action::DeletePod(PodRef { name, uid }) => {
                scope.shared.writer.delete_pod(&namespace, name, uid).await.map(drop)
            }
            decide::Action::RemoveFinalizer(PodRef { name, uid }) => scope
                .shared
                .writer
                .release_pod(&namespace, name, uid, facts.ended().is_some())
                .await
                .map(drop),
            _ => Ok(()),
        };
        match done {
            // Gone: it needs nothing more.
            Err(error) if error.is_not_found() => {}
            // Another pod has the name, or the server gave up on a patch that others kept overtaking: the rest is done,
            // and then it is tried again, ever later, as after every failure.
            Err(error) if error.is_conflict() => conflict = conflict.or(Some(error)),
            other => other?,
        }
    }
    if let Some(error) = conflict {
        return Err(error);
    }
    scope.failures.forget(pod);
    Ok(Action::await_change())
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
