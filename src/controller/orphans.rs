//! Pods whose task is gone: drives the machine of `agentloop_core::sync` that removes them.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use agentloop_core::sync::{ORPHAN_CHECK_INTERVAL, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use tracing::{Instrument, error, info, info_span, warn};

use super::cached_pod::CachedPod;
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
    let pod = Handle(pod);
    if scope.tasks.get(&task).is_some_and(|task| task.uid == task_uid) {
        return Ok(OrphanSync::while_task_exists(scope, &pod));
    }
    let _work = scope.context.heartbeat.begin();
    let mut sync = OrphanSync::new(pod.clone());
    let mut request = sync.first();
    let mut failed = None;
    loop {
        let response = match perform(scope, &namespace, name, &task_uid, request).await {
            Ok(response) => response,
            Err(error) => {
                let failure = error.failure();
                failed = Some(error);
                OrphanResponse::Failed(failure)
            }
        };
        match (sync.next(scope, &response), failed.take()) {
            (OrphanStep::Request(next), error) => {
                info!(task = name, request = ?next, "cleaning up a pod whose task is gone");
                (request, failed) = (next, error);
            }
            (OrphanStep::Done(after), _) => {
                scope.pod_failures.forget(&pod.name);
                return Ok(after);
            }
            (OrphanStep::Failed, Some(error)) => return Err(error),
            // The machine fails only with a request that failed.
            (OrphanStep::Failed, None) => return Ok(Some(ORPHAN_CHECK_INTERVAL)),
        }
    }
}

async fn perform(
    scope: &WatchScope,
    namespace: &str,
    task: &str,
    task_uid: &str,
    request: OrphanRequest<Live>,
) -> Result<OrphanResponse, RequestError> {
    let writer = &scope.context.writer;
    match request {
        OrphanRequest::ReadTask => {
            let tasks: Api<AgentTask> = Api::namespaced(scope.context.clients.read.clone(), namespace);
            let read: Option<PartialObjectMeta<AgentTask>> =
                with_timeout(READ_TIMEOUT, tasks.get_metadata_opt(task)).await?;
            let exists = read.is_some_and(|read| read.uid().as_deref() == Some(task_uid));
            Ok(if exists { OrphanResponse::TaskExists } else { OrphanResponse::TaskIsGone })
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

fn report_failure(failure: &WorkError<RequestError>, scope: &WatchScope) {
    match failure {
        WorkError::Failed(error) => warn!(%error, "cannot clean up a pod whose task is gone; retrying"),
        WorkError::Panicked(message) => {
            scope.context.metrics.panicked(PanicSource::Orphan);
            error!(panic = message, "cleanup of the pod panicked; retrying. Other pods are not affected");
        }
    }
}
