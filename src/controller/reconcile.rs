//! One task: drives the machine of `agentloop_core::sync` until it rests, and carries out its requests.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::sync::{MAX_ROUNDS, NextStep, Response, SyncOutcome, TaskSync};
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{Instrument, debug, error, info_span, warn};

use super::cached_task::CachedTask;
use super::environment::Caches;
use super::events::EventRecord;
use super::handles::Handle;
use super::object_cache::ObjectName;
use super::panics::{WorkError, caught};
use super::perform::{Performer, RequestFailed};
use super::scope::WatchScope;
use crate::metrics::{PanicSource, Reconciled};
use crate::telemetry;

/// How long a reconcile begins new steps. The longest step, all its requests at their limits, takes at most as long
/// again: so a reconcile ends within [`MAX_RECONCILE`](super::MAX_RECONCILE).
pub(crate) const NO_NEW_STEPS_AFTER: Duration = Duration::from_mins(1);

/// Why a reconcile failed. It is retried with a growing delay.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A request failed.
    #[error(transparent)]
    Request(RequestFailed),
    /// Each decision required another one.
    #[error("the task did not settle within {MAX_ROUNDS} decisions")]
    NotConverged,
    /// The machine gave up although no request failed.
    #[error("the API server's answer does not match the request")]
    Unexpected,
}

/// Reconciles a task. Returns when to do so again unless something changes before.
pub(super) async fn reconcile(scope: Arc<WatchScope>, task: ObjectName) -> Option<Duration> {
    // A task that has been deleted needs nothing more.
    let cached = scope.tasks.get(&task)?;
    let _work = scope.context.heartbeat.begin();
    let _worker = scope.context.metrics.worker();
    // As with controller-runtime's reconcileID, all lines of one reconcile have the same id.
    let span = info_span!(
        "reconcile",
        reconcile_id = telemetry::work_id(),
        namespace = task.namespace(),
        task = task.name()
    );
    let started = Instant::now();
    let result = async {
        let result = caught(Box::pin(advance(&cached, &scope))).await;
        if let Err(failure) = &result {
            report_failure(&cached, failure, &scope);
        }
        result
    }
    .instrument(span)
    .await;
    let how = match &result {
        Err(_) => Reconciled::Error,
        Ok(None) => Reconciled::Success,
        Ok(Some(_)) => Reconciled::RequeueAfter,
    };
    scope.context.metrics.reconciled(how, started.elapsed());
    result.map_or_else(
        |_| Some(scope.task_failures.next(&task)),
        |requeue_after| {
            scope.task_failures.forget(&task);
            requeue_after
        },
    )
}

fn report_failure(cached: &CachedTask, failure: &WorkError<Error>, scope: &WatchScope) {
    match failure {
        WorkError::Failed(error) => warn!(%error, "reconcile failed; retrying"),
        WorkError::Panicked(message) => {
            scope.context.metrics.panicked(PanicSource::Reconcile);
            error!(panic = message, "reconcile panicked; retrying. Other tasks are not affected");
            scope.context.events.publish(cached.object_reference(), panicked(message));
        }
    }
}

fn panicked(message: &str) -> EventRecord {
    EventRecord {
        warning: true,
        reason: "OperatorPanicked".to_owned(),
        message: format!(
            "a bug in agentloop stops this task; agentloop keeps retrying, and other tasks are not affected. \
             Please report it: {message}"
        ),
    }
}

async fn advance(cached: &CachedTask, scope: &WatchScope) -> Result<Option<Duration>, Error> {
    let task = match cached.decoded() {
        Ok(task) => task,
        Err(invalid) => {
            error!(error = %invalid, "cannot decode the task; leaving it as it is");
            let record = EventRecord {
                warning: true,
                reason: "TaskUnreadable".to_owned(),
                message: format!("agentloop cannot decode this task and leaves it as it is: {invalid}"),
            };
            scope.context.events.publish(cached.object_reference(), record);
            return Ok(None);
        }
    };
    let mut borrowed = scope.memories.borrow(task.uid().unwrap_or_default());
    let memory = &mut borrowed.memory;
    let environment = Caches::new(scope);
    let mut performer = Performer {
        scope,
        namespace: task.namespace().unwrap_or_default(),
        name: task.name_any(),
        failed: None,
    };
    let configuration = Handle::new(scope.context.configuration.get());
    let mut sync = TaskSync::new(&environment, memory, Handle(task), configuration);
    let mut response = Response::Done;
    loop {
        match sync.next(&environment, memory, response) {
            NextStep::Request(request) => response = performer.perform(&sync, request).await,
            NextStep::Finished(SyncOutcome::Done(after)) => {
                debug!(requeue_after = ?after, "reconciled");
                return Ok(after);
            }
            NextStep::Finished(SyncOutcome::Failed) => {
                return Err(performer.failed.map_or(Error::Unexpected, Error::Request));
            }
            NextStep::Finished(SyncOutcome::NotConverged) => return Err(Error::NotConverged),
        }
    }
}
