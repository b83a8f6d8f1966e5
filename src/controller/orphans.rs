//! Pods whose task is gone: drives the machine of `agentloop_core::sync` that removes them.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use agentloop_core::sync::{ORPHAN_CHECK_INTERVAL, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use tracing::{Instrument, error, info, info_span, warn};

use super::cached_pod::CachedPod;
use super::environment::Caches;
use super::handles::{Handle, Live};
use super::object_cache::ObjectName;
use super::panics::{WorkError, caught};
use super::scope::WatchScope;
use crate::client::{READ_TIMEOUT, RequestError, with_timeout};
use crate::metrics::PanicSource;
use crate::telemetry;

/// Cleans up a pod if its task is gone. Returns when to check again unless something changes before.
pub(super) async fn reconcile(scope: Arc<WatchScope>, pod: ObjectName) -> Option<Duration> {
    let pod = scope.pods.get(&pod)?;
    let span = info_span!(
        "cleanup",
        reconcile_id = telemetry::work_id(),
        namespace = pod.name.namespace(),
        pod = pod.name.name()
    );
    let cleaned_up = async {
        let result = caught(clean_up(pod.clone(), &scope)).await;
        if let Err(failure) = &result {
            report_failure(failure, &scope);
        }
        result
    };
    cleaned_up.instrument(span).await.unwrap_or_else(|_| Some(scope.pod_failures.next(&pod.name)))
}

/// Removes one pod, unless its task exists.
async fn clean_up(pod: Arc<CachedPod>, scope: &WatchScope) -> Result<Option<Duration>, RequestError> {
    let facts = &pod.facts;
    let (Some(task), Some(task_uid)) = (pod.task.clone(), facts.task_uid.clone()) else {
        return Ok(None);
    };
    // Anyone can copy labels. A pod without our finalizer that no task controls belongs to another owner.
    if !facts.has_finalizer && !facts.belongs_to(&task_uid) {
        return Ok(None);
    }
    let (name, namespace) = (task.name(), pod.name.namespace().to_owned());
    let (uid, pod, caches) = (facts.uid.clone(), Handle(pod), Caches::new(scope));
    if scope.tasks.get(&task).is_some_and(|task| task.uid == task_uid) {
        // Once its task leaves the cache, it is checked again.
        return Ok(None);
    }
    let _work = scope.context.heartbeat.begin();
    let mut borrowed = scope.orphan_memories.borrow(uid);
    let memory = &mut borrowed.memory;
    let (mut sync, mut step) = OrphanSync::begin(&caches, memory, pod.clone());
    let mut failed = None;
    loop {
        match step {
            OrphanStep::Request(request) => {
                if request != OrphanRequest::ReadTask {
                    info!(task = name, ?request, "cleaning up a pod whose task is gone");
                }
                let response = match perform(scope, &namespace, name, &task_uid, request).await {
                    Ok(response) => response,
                    Err(error) => {
                        let failure = error.failure();
                        failed = Some(error);
                        OrphanResponse::Failed(failure)
                    }
                };
                step = sync.next(&caches, memory, response);
            }
            OrphanStep::Done(after) => {
                scope.pod_failures.forget(&pod.name);
                return Ok(after);
            }
            // The machine fails only with a request that failed.
            OrphanStep::Failed => return failed.map_or(Ok(Some(ORPHAN_CHECK_INTERVAL)), Err),
        }
    }
}

async fn perform(
    scope: &WatchScope,
    namespace: &str,
    task: &str,
    task_uid: &str,
    request: OrphanRequest<Live>,
) -> Result<OrphanResponse<Live>, RequestError> {
    let writer = &scope.context.writer;
    let a_pod = |pod| OrphanResponse::Pod(Handle::new(CachedPod::from(&pod)));
    match request {
        OrphanRequest::ReadTask => {
            let tasks: Api<AgentTask> = Api::namespaced(scope.context.clients.read.clone(), namespace);
            let read: Option<PartialObjectMeta<AgentTask>> =
                with_timeout(READ_TIMEOUT, tasks.get_metadata_opt(task)).await?;
            let exists = read.is_some_and(|read| read.uid().as_deref() == Some(task_uid));
            Ok(if exists { OrphanResponse::TaskExists } else { OrphanResponse::TaskIsGone })
        }
        OrphanRequest::DeletePod(pod) => {
            let deleted = writer.delete_pod(namespace, &pod.name, &pod.uid).await;
            deleted.map(|pod| pod.map_or(OrphanResponse::Done, a_pod))
        }
        OrphanRequest::RemoveFinalizer { pod, has_ended } => {
            writer.remove_finalizer(namespace, &pod.name, &pod.uid, has_ended).await.map(a_pod)
        }
    }
}

fn report_failure(failure: &WorkError<RequestError>, scope: &WatchScope) {
    match failure {
        WorkError::Failed(error) => warn!(%error, "cannot clean up a pod whose task is gone; retrying"),
        WorkError::Panicked(message) => {
            scope.context.metrics.panicked(PanicSource::Orphan);
            error!(panic = message, "cleanup of the pod panicked; retrying. Other pods are not affected");
        }
    }
}
