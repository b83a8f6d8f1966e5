//! One task: drives the machine of `agentloop_core::sync` until it rests, and carries out what it asks for.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::sync::{MAX_ROUNDS, NextStep, Response, SyncOutcome, TaskSync};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;
use tracing::{Instrument, error, info_span, warn};

use super::events::EventRecord;
use super::live::{Caches, Handle};
use super::panics::{Fault, caught};
use super::perform::{Performer, RequestFailed};
use super::{Guarded, Scope};
use crate::metrics::{Place, Reconciled};

/// How long a reconcile goes on with new steps. The longest step takes less than this again, all its requests at
/// their bounds: so a reconcile ends within [`RECONCILE`](super::RECONCILE).
pub(crate) const LONGEST: Duration = Duration::from_mins(1);

/// Why a reconcile failed; it is tried again, each time later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A request failed.
    #[error(transparent)]
    Request(RequestFailed),
    /// Each decision called for another one.
    #[error("nothing is settled after {MAX_ROUNDS} decisions in a row")]
    NotConverged,
    /// The machine gave up without a request that failed.
    #[error("the API server sent another kind of answer than it was asked for")]
    Unexpected,
}

pub(super) async fn reconcile(guarded: Arc<Guarded>, scope: Arc<Scope>) -> Result<Action, Fault<Error>> {
    let span = info_span!(
        "reconcile",
        namespace = guarded.namespace().unwrap_or_default(),
        task = guarded.name_any()
    );
    // Before anything that others wait for is taken: where a cache may not be filled this takes as long as that lasts.
    if !scope.is_ready().await {
        return Ok(Action::await_change());
    }
    let Some(_turn) = scope.turn().await else { return Ok(Action::await_change()) };
    // It may have changed while others had their turns.
    let guarded = scope.tasks.get(&ObjectRef::from_obj(guarded.as_ref())).unwrap_or(guarded);
    let _work = scope.shared.heartbeat.begin();
    let _worker = scope.shared.metrics.worker();
    let started = Instant::now();
    let result = caught(Box::pin(bring_on(&guarded, &scope)).instrument(span)).await;
    let how = match &result {
        Err(_) => Reconciled::Error,
        Ok(action) if *action == Action::await_change() => Reconciled::Success,
        Ok(_) => Reconciled::RequeueAfter,
    };
    scope.shared.measure(started, how);
    if result.is_ok() {
        scope.failures.forget(guarded.as_ref());
    }
    result
}

pub(super) fn on_error(guarded: &Guarded, fault: &Fault<Error>, scope: &Scope) -> Action {
    let task = ObjectRef::from_obj(guarded);
    match fault {
        Fault::Failed(error) => warn!(%task, %error, "the task could not be brought on; trying again"),
        Fault::Panicked(words) => {
            scope.shared.metrics.panicked(Place::Reconcile);
            error!(%task, panic = words, "agentloop panicked at this task; others go on, and it is tried again");
            scope.shared.events.publish(guarded.object_ref(&()), panicked(words));
        }
    }
    scope.failures.next(guarded)
}

fn panicked(words: &str) -> EventRecord {
    EventRecord {
        warning: true,
        reason: "OperatorPanicked".to_owned(),
        message: format!(
            "a fault in agentloop itself stops this task; other tasks go on, and it is tried again. Please report it: {words}"
        ),
    }
}

async fn bring_on(guarded: &Guarded, scope: &Scope) -> Result<Action, Error> {
    let task = match &guarded.0 {
        Ok(task) => task.clone(),
        Err(invalid) => {
            error!(error = %invalid, "the task cannot be read; it stays as it is, and others go on");
            let record = EventRecord {
                warning: true,
                reason: "TaskUnreadable".to_owned(),
                message: format!("agentloop cannot read this task and leaves it as it is: {invalid}"),
            };
            scope.shared.events.publish(guarded.object_ref(&()), record);
            return Ok(Action::await_change());
        }
    };
    let mut borrowed = scope.memories.borrow(task.uid().unwrap_or_default());
    let memory = &mut borrowed.memory;
    let caches = Caches { scope, late_from: Instant::now() + scope.shared.longest };
    let mut performer = Performer {
        scope,
        namespace: task.namespace().unwrap_or_default(),
        name: task.name_any(),
        failed: None,
    };
    let configuration = Handle::new(scope.shared.configuration.get());
    let mut sync = TaskSync::new(&caches, memory, Handle(task), configuration);
    let mut response = Response::Done;
    loop {
        match sync.next(&caches, memory, response) {
            NextStep::Request(request) => response = performer.perform(&sync, request).await,
            NextStep::Finished(SyncOutcome::Done(after)) => {
                return Ok(after.map_or_else(Action::await_change, Action::requeue));
            }
            NextStep::Finished(SyncOutcome::Failed) => {
                return Err(performer.failed.map_or(Error::Unexpected, Error::Request));
            }
            NextStep::Finished(SyncOutcome::NotConverged) => return Err(Error::NotConverged),
        }
    }
}
